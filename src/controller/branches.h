/* branches.h: a running sandbox becomes a snapshot while it runs.
 *
 * Theory of operation. The template a branch is forked from must know the source: it is its *last template*, the
 * source's last complete branch, or else the one it was spawned from. Where that died, or the source does not know it
 * (its VMM names the instant every template has, snap/branch.h), an earlier one of its branches does as well, and the
 * one it was spawned from: these lack more pages, no others. Where none of them lives, the first of them that is STORED
 * (fleet.h) is loaded, as a spawn would: it has the same memory, whatever process it is in.
 *
 * A branch, stage by stage; what fails takes everything back, and the source runs on whatever it is:
 *
 *     claim     the tag is taken in the fleet, the intent in the registry
 *     fork      a seat, a cgroup; the last template forks the new one (BRANCH)
 *     stream    the source serves it (STREAM); it is a template (BRANCHED)
 *     commit    the row becomes ready and the source's last template; the monitor watches
 *
 * Invariants.
 * 1. Branches of one sandbox are made one after the other, each on the last complete one; those of different sandboxes
 *    at once. No more than `branch_concurrency` are asked for at a time.
 * 2. Whatever is forked from is held as one of its children would hold it: it is there until that is done.
 * 3. A snapshot that is READY is complete, and the registry says so. */
#ifndef FORKD_CONTROLLER_BRANCHES_H
#define FORKD_CONTROLLER_BRANCHES_H

#include "controller/controller.h"

enum { BRANCHES_DEFAULT = 4, BRANCHES_MAX = 128 };

/* *made is a reference for the caller: a snapshot that can be forked. Mistakes of the request are -REFUSED_*. */
int sandbox_branch(struct controller *c, const char *id, const struct rest_branch_create *rq, struct snapshot **made,
                   struct err *err);

#endif
