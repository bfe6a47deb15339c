/* leftovers.h: what is on this host, was forkd's, and belongs to nobody.
 *
 * Theory of operation. What a controller makes belongs to its state: the file, and the run directory beside it. While
 * the run directory is locked a controller lives and knows what is its own; while the state file is there, the next
 * controller on it takes over what lives and removes what does not. So what belongs to nobody is:
 *
 *     process     a VMM whose command line names a run directory without a state file
 *     directory   a run directory without a state file
 *     cgroup      the directory of a fork tree in which nothing has lived for a minute: whoever wants it makes it anew
 *
 * Run directories are looked for where processes name them, and in the usual places.
 *
 * Invariants.
 * 1. Nothing of a state that exists is named, whether a controller runs on it or not.
 * 2. What is removed is looked at again immediately before: a process by its descriptor, a directory under the lock
 * that a controller would hold. */
#ifndef FORKD_CLI_LEFTOVERS_H
#define FORKD_CLI_LEFTOVERS_H

#include "base/err.h"

#include <limits.h>
#include <stddef.h>
#include <sys/types.h>

enum leftover_kind { LEFTOVER_PROCESS, LEFTOVER_DIRECTORY, LEFTOVER_CGROUP };

struct leftover {
    enum leftover_kind kind;
    pid_t pid;           /* of a process */
    char path[PATH_MAX]; /* of a directory; the run directory of a process; TREE of a cgroup */
};

struct leftovers {
    struct leftover *at;
    size_t count;
};

/* "process", "directory", "cgroup" */
const char *leftover_kind_name(enum leftover_kind kind);

/* Processes first, then directories, then cgroups: the order in which they can be removed. The caller frees with
 * leftovers_free(), also after a failure. */
int leftovers_find(struct leftovers *found, struct err *err);
void leftovers_free(struct leftovers *found);

/* 0 when it is gone, by this or by itself; -EBUSY when it belongs to somebody after all. */
int leftover_remove(const struct leftover *leftover, struct err *err);

#endif
