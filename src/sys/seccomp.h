/* seccomp.h: the one system call filter of a fork tree, and that of forkd-store.
 *
 * Theory of operation. Code that runs after the jail names each system call it makes in a comment beside it:
 *
 *     SECCOMP: NAME - why                       any arguments
 *     SECCOMP: NAME[a1 == VALUE] - why          argument 1 (counted from 0) has this value
 *     SECCOMP: NAME[a1 in VALUE VALUE] - why    one of these values
 *     SECCOMP: NAME[a2 & MASK == VALUE] - why   masked; conditions are joined with a comma
 *
 * scripts/seccomp-tags gathers them at build time; what no tag names is not in the filter. Conditions compare
 * the low 32 bits: they are for arguments the kernel takes as int or as flags.
 * SECCOMP(store) in the place of SECCOMP is for forkd-store alone, which belongs to no tree.
 * The filter is installed once per tree, in its first process, and covers every role a descendant can take
 * (a filter per generation ends in ENOMEM, and privilege only goes down).
 *
 * Invariants.
 * 1. No kill, ptrace, process_vm_*, io_uring, execve, no memory that is executable.
 * 2. tgkill carries the kick signal only. */
#ifndef FORKD_SYS_SECCOMP_H
#define FORKD_SYS_SECCOMP_H

#include "base/err.h"

enum seccomp_set {
    SECCOMP_VMM,   /* every role of a fork tree */
    SECCOMP_STORE, /* forkd-store, when it has opened its files */
};

enum seccomp_mode {
    SECCOMP_KILL,    /* a call outside the filter ends the process with SIGSYS */
    SECCOMP_EXPLAIN, /* the same, but its name is written to stderr first: for developers */
};

/* Filters this process and all it forks, for good. Single-threaded callers only; takes about a millisecond. */
int seccomp_install(enum seccomp_set set, enum seccomp_mode mode, struct err *err);

#endif
