/* settle.h: when the template of a branch gets a sealed image of its own.
 *
 * Theory of operation. A branch's template maps another's image and has pages of its own where it differs. Each fork of
 * it copies the table entries of those pages, some 80 ns each, and pays nothing for what it maps. Settled (SETTLE,
 * proto/ctl.h), all is in an image again, and a fork costs the same at any size; but that image holds all of the
 * guest's memory, of which a branch shares nearly everything with its kin: eight kept branches can cost thirty times
 * as much settled as unsettled. So unsettled is the normal state, and the rule is:
 *
 *     after every SETTLE_SPAWNS forks of a branch's template, if it has SETTLE_MIN_KIB of pages of its own, and the
 *     guest's memory is at most a quarter of what the host has available, it settles, while it goes on forking.
 *
 * A template settles once; one that could not is asked again after as many forks more.
 *
 * Threads: any. The work is a helper's (workers.h). */
#ifndef FORKD_CONTROLLER_SETTLE_H
#define FORKD_CONTROLLER_SETTLE_H

struct controller;
struct snapshot;

enum { SETTLE_SPAWNS = 32, SETTLE_MIN_KIB = 32 * 1024, SETTLE_SHARE = 4 };

/* `n` sandboxes were forked from it. */
void settle_consider(struct controller *c, struct snapshot *snapshot, unsigned n);

#endif
