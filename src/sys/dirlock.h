/* dirlock.h: a directory that one process at a time may have, by flock(2) of the directory itself.
 *
 * The lock is of the open file description: a child that was forked has it, too, until it executes its program. So a
 * process that is killed at such a moment seems to hold it a little longer, and whoever comes next waits for that. */
#ifndef FORKD_SYS_DIRLOCK_H
#define FORKD_SYS_DIRLOCK_H

/* Locks for as long as `fd` is open. -EWOULDBLOCK: another process has it, and not just for a moment. */
int dirlock_take(int fd);

#endif
