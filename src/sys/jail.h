/* jail.h: what a VMM gives up before it runs guest code.
 *
 * Theory of operation. jail_enter() runs once per fork tree, in the first process of the tree, while it has one
 * thread and after it has every descriptor it will ever need by path. Everything forked later inherits the
 * jail. Stages, in order (jail.c says of each what it should and must not do):
 *
 *   descriptors  close all but stdio and a list
 *   limits       no core dumps, a bound on descriptors
 *   namespaces   mounts, network, IPC and host name of its own; for an ordinary user in a user namespace
 *   root         an empty read-only directory, entered by pivot_root and then chroot
 *   proc         a view of /proc in which other users' processes do not exist
 *   identity     the tree's uid, no supplementary groups, no capability in any set
 *   dumpable     off, and no new privileges
 *
 * After it comes seccomp_install().
 *
 * Invariants.
 * 1. Stages that this host or user cannot do are listed in the report, never passed over in silence; those
 *    that must not fail (descriptors, limits, identity, dumpable) are errors, and the caller exits.
 * 2. Nothing is gained again: no later stage needs what an earlier one took. */
#ifndef FORKD_SYS_JAIL_H
#define FORKD_SYS_JAIL_H

#include "base/err.h"

#include <stddef.h>
#include <sys/types.h>

enum jail_stage {
    JAIL_DESCRIPTORS,
    JAIL_LIMITS,
    JAIL_NAMESPACES,
    JAIL_ROOT,
    JAIL_PROC,
    JAIL_IDENTITY,
    JAIL_DUMPABLE,
    JAIL_STAGES
};

struct jail_spec {
    uid_t uid;         /* the tree's; used when the caller is root */
    gid_t gid;         /* likewise */
    const int *keep;   /* descriptors that stay open besides 0, 1, 2 and proc_fd; -1s are passed over */
    size_t keep_count; /* at most JAIL_KEEP_MAX */
    int proc_fd;       /* of own_memory_proc_open(); the number stays, what it shows is reduced */
    unsigned nofile;   /* limit of descriptors from now on */
};

enum { JAIL_KEEP_MAX = 300 };

struct jail_report {
    int skipped[JAIL_STAGES]; /* the errno for which a stage was passed over, 0 for one that was done */
};

/* 0 or a negative errno; after a failure the process is half jailed and must exit. */
int jail_enter(const struct jail_spec *spec, struct jail_report *report, struct err *err);

/* A stage's name, for logs. */
const char *jail_stage_name(enum jail_stage stage);

#endif
