/* launch.h: starting a program with given descriptors, and nothing else, open. */
#ifndef FORKD_AGENT_LAUNCH_H
#define FORKD_AGENT_LAUNCH_H

#include "base/err.h"

#include <signal.h>
#include <stddef.h>
#include <sys/types.h>

enum { LAUNCH_FDS_MAX = 5 };

struct launch {
    char *const *argv;
    char *const *env;        /* argv[0] is looked up in the PATH of this */
    const char *cwd;         /* NULL or empty: "/" */
    int fds[LAUNCH_FDS_MAX]; /* fds[i] becomes descriptor i; each must be LAUNCH_FDS_MAX or above, or i */
    size_t fd_count;
    const sigset_t *blocked; /* NULL: no signal is blocked */
};

/* Starts it as the leader of a session of its own, all signals at their defaults. -ENOENT when there is no such
 * program, another negative errno when it or its directory is not usable; the sentence is fit for a user. */
int launch_process(const struct launch *launch, pid_t *pid, struct err *err);

#endif
