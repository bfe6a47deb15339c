/* child.h: the ends of child processes, and killing all that one has started.
 *
 * Invariants.
 * 1. A watched child is reaped here and nowhere else; `ended` is called exactly once, with wait(2)'s status.
 * 2. Until `ended` is called the pid is that child's: signals sent to it reach nobody else.
 * 3. Children nobody watches (orphans that came to pid 1 or to the subreaper) are reaped and forgotten. */
#ifndef FORKD_AGENT_CHILD_H
#define FORKD_AGENT_CHILD_H

#include "agent.h"

struct child {
    pid_t pid; /* 0 when there is none */
    void (*ended)(struct child *child, int status);
    struct list link;
};

/* Takes SIGCHLD over. Before any child is started. */
int children_init(struct agent *agent, struct err *err);

void child_watch(struct agent *agent, struct child *child, pid_t pid);

enum { CHILD_MARK_MAX = 64 };

/* A mark for child_kill_tree() that nothing else carries, what another agent in sight has started included. */
void child_mark(struct agent *agent, const char *kind, char mark[CHILD_MARK_MAX]);

/* Kills the leader of a session and everything that came of it, as far as that can be told: its process group,
 * its session, its descendants, and processes that carry `mark` (NAME=value) in the environment they were
 * started with. What has left the session, was orphaned and has replaced its environment is missed. The leader
 * must not have been reaped. */
void child_kill_tree(pid_t leader, const char *mark);

/* What a signal is called: "Killed". Never NULL. */
const char *child_signal_name(int number);

#endif
