/* cgroup.h: cgroup v2 directories: memory limits, and the place a sandbox is born into.
 *
 * Theory of operation. All of a host's sandboxes live below one directory, `forkd`; below it each fork tree has
 * a directory, and in that each process a leaf:
 *
 *     forkd/TREE/template     forkd/TREE/SANDBOX
 *
 * A directory is a descriptor; everything happens through it. clone_fork() takes the leaf's descriptor. The
 * kernel lets a process be made in a leaf if its maker may write cgroup.procs of the leaf and of the nearest
 * directory above both, so those files (and nothing else) are given to the tree's uid with cgroup_delegate().
 *
 * Invariants.
 * 1. Where the host has no cgroup v2 with a memory controller, cgroup_base_open() says why, and callers go on
 *    with -1 for a descriptor, which clone_fork() and every function here takes as "none": success, no effect.
 * 2. Processes live in leaves only; a directory with children holds none. */
#ifndef FORKD_SYS_CGROUP_H
#define FORKD_SYS_CGROUP_H

#include "base/err.h"

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

/* The directory `forkd` of this host, made if needed, with the memory controller on for what is made below it.
 * As root it lies in the root of the hierarchy, else in the caller's own (delegated) group. Returns a
 * descriptor, the caller's; -ENOTSUP where there is none, with the reason as a sentence. */
int cgroup_base_open(struct err *err);

/* Makes (or opens, if it is there) the directory `name` of `parent`; *cgroup is its descriptor, the caller's. */
int cgroup_create(int parent, const char *name, int *cgroup, struct err *err);
/* Turns the memory controller on for what is made in this directory. */
int cgroup_enable_memory(int cgroup, struct err *err);
/* Lets this uid make processes in this directory, or move them within it. */
int cgroup_delegate(int cgroup, uid_t uid, gid_t gid, struct err *err);

/* The limit in bytes; 0 means none. The OOM killer then takes the whole leaf. */
int cgroup_set_memory_max(int cgroup, uint64_t bytes, struct err *err);
/* Bytes charged to it now; 0 where there is no cgroup. */
int cgroup_memory_current(int cgroup, uint64_t *bytes, struct err *err);
/* How often the OOM killer struck in it. */
int cgroup_oom_kills(int cgroup, uint64_t *count, struct err *err);

/* Whether a living process is in it or below. */
int cgroup_is_populated(int cgroup, bool *populated, struct err *err);
/* Kills all processes in it and below (cgroup.kill, Linux 5.14). */
int cgroup_kill(int cgroup, struct err *err);
/* Removes the directory `name` of `parent` if it is there; -EBUSY while processes or children are in it. */
int cgroup_remove(int parent, const char *name, struct err *err);

#endif
