/* command.h: a process with pipes, a time limit and an output that is bounded.
 *
 * Theory of operation. A command is the leader of a session of its own. Its output is read as it comes and handed
 * to the owner up to a limit; the rest is counted and dropped. It is over when the leader ends: what stands in
 * the pipes then is still read, what others may write later is not waited for (their pipes become sinks). Over
 * time, all it started is killed and what it wrote until then counts.
 *
 * States.
 * COMMAND_IDLE     nothing was started, or it is over and `ended` was called; the owner may free it
 * COMMAND_RUNNING  the leader lives. To KILLED when the time is over or command_kill is called, to IDLE when it ends
 * COMMAND_KILLED   SIGKILL was sent. To IDLE when the leader ends, or after KILL_WAIT_NS when it cannot even die
 *
 * Invariants.
 * 1. `ended` is called exactly once for each successful command_start, never from inside command_start.
 * 2. `output` is called only between command_start and `ended`.
 * 3. At most AGENT_COMMANDS_MAX commands are not IDLE. */
#ifndef FORKD_AGENT_COMMAND_H
#define FORKD_AGENT_COMMAND_H

#include "agent.h"
#include "buf.h"
#include "child.h"
#include "proto/agent.h"

enum { COMMAND_INPUT_MAX = 2 * AGENT_FRAME_MAX };

struct command_spec {
    char *const *argv;
    char *const *env;
    const char *cwd;       /* NULL or empty: "/" */
    uint32_t timeout_ms;   /* 0: none */
    uint64_t output_limit; /* bytes of each stream */
    const uint8_t *input;
    size_t input_len;
    bool input_stream; /* more comes through command_input */
};

enum command_state { COMMAND_IDLE, COMMAND_RUNNING, COMMAND_KILLED };

struct command {
    struct agent *agent;
    enum command_state state;

    /* Set by the owner before command_start. */
    void (*output)(struct command *command, bool is_stderr, const uint8_t *bytes, size_t len); /* may be NULL */
    void (*ended)(struct command *command, const struct agent_exit *exit);
    void (*input_taken)(struct command *command); /* less input is queued than before; may be NULL */

    struct child child;
    struct loop_timer timer;
    bool timed_out;
    bool paused;
    uint64_t limit;
    char mark[CHILD_MARK_MAX];

    struct loop_source in_source, out_source[2];
    int in_fd, out_fd[2];
    uint64_t total[2];
    struct buf input;
    bool input_ended;
};

/* 0; -EBUSY when too many run; another negative errno when it cannot be started, -ENOENT when there is no such
 * program. */
int command_start(struct command *command, struct agent *agent, const struct command_spec *spec, struct err *err);

/* How a command that could not be started is answered. The reason is err's sentence and lives as long. */
struct agent_exit command_not_started(int rc, const struct err *err);

/* Queues input; false when more is queued than COMMAND_INPUT_MAX. Input nobody reads any more is dropped. */
bool command_input(struct command *command, const uint8_t *bytes, size_t len);
void command_input_end(struct command *command);
static inline size_t command_input_queued(const struct command *command)
{
    return command->input.len;
}

/* Stops and resumes reading the output, so that the command waits for its reader. */
void command_pause(struct command *command, bool paused);

void command_kill(struct command *command);

#endif
