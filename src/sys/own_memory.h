/* own_memory.h: a read-only descriptor of this process's own memory, to be handed to someone else.
 *
 * Theory of operation. Opening /proc/PID/mem is a question of ptrace rights, reading it is not: whoever holds
 * the descriptor reads, whatever its uid and whatever Yama says. So a process opens its own and passes it on,
 * and no one needs a right over it. The files of a process that is not dumpable belong to root, hence the
 * process is dumpable for the length of that one open.
 * The descriptor keeps no process alive; a dead one reads as end of file.
 *
 * Invariant. No untrusted code (guest, agent, client) has run in this process before, nor does another thread. */
#ifndef FORKD_SYS_OWN_MEMORY_H
#define FORKD_SYS_OWN_MEMORY_H

#include "base/err.h"

/* An O_PATH descriptor of /proc, the caller's: taken before the jail hides the path. */
int own_memory_proc_open(struct err *err);

/* Opens this process's memory below that /proc. Returns the descriptor (close-on-exec, the caller's) or a
 * negative errno. The process is not dumpable afterwards, whatever it was and however this ends. */
int own_memory_open(int proc_fd, struct err *err);

/* How early the OOM killer takes this process, -1000 to 1000; raising it needs no privilege. The same
 * conditions, and the same state afterwards. */
int own_memory_set_oom_score(int proc_fd, int adj, struct err *err);

#endif
