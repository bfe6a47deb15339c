/* clone.h: fork into a cgroup, with a pidfd.
 *
 * Theory of operation. clone3(2) puts the child into its cgroup as it is made: moving it there afterwards
 * costs some 15 ms on an idle host (an RCU grace period), against 0.2. glibc has no wrapper, so the system call is
 * made raw; what glibc's fork() does besides is to note the child's thread id, which the kernel does here by
 * writing it where glibc keeps it (PR_GET_TID_ADDRESS). Threads, mutexes and fork() then work in the child.
 * Where a kernel lacks clone3 or PR_GET_TID_ADDRESS, fork(), pidfd_open() and cgroup.procs do the same slowly.
 *
 * Invariants.
 * 1. The calling process has one thread: a lock held by another would be held in the child for ever. Or its child
 *    makes nothing but async-signal-safe calls until it executes a program. Handlers of pthread_atfork() are not run.
 * 2. A child runs the caller's code in its cgroup or not at all.
 * 3. Its end is told by SIGCHLD, and by the pidfd. */
#ifndef FORKD_SYS_CLONE_H
#define FORKD_SYS_CLONE_H

#include "base/err.h"

#include <stdbool.h>
#include <sys/types.h>

struct clone_spec {
    int cgroup_fd;   /* directory of the child's cgroup, not owned; -1: the caller's own */
    bool want_pidfd; /* give the parent a pidfd */
};

/* Returns 0 in the child, its pid in the parent, a negative errno when there is no child. *pidfd is set in the
 * parent where it is wanted (close-on-exec, the caller's) and -1 otherwise; it may be NULL if not wanted. */
pid_t clone_fork(const struct clone_spec *spec, int *pidfd, struct err *err);

#endif
