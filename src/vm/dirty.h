/* dirty.h: which pages of a running machine were written, since its birth and since its last branch.
 *
 * Theory of operation. KVM logs the pages that CPUs write (a machine attached with `log_dirty`), gmem marks those
 * that devices write. dirty_fetch() takes both, clears them, and adds them to two bitmaps: since birth, which is
 * what differs from the template, and since the last branch, which is what the next one still has to copy. A
 * branch that fails leaves them alone, so nothing that was fetched for it is lost.
 *
 * Clear first, read the pages after: a page written meanwhile is logged again.
 *
 * Bitmaps have one bit per page of RAM, by RAM offset, in 64-bit words.
 *
 * Threads: the loop's. */
#ifndef FORKD_VM_DIRTY_H
#define FORKD_VM_DIRTY_H

#include "vm/machine.h"

struct dirty {
    size_t words;
    uint64_t *since_birth, *since_branch, *fetched; /* mapped without reserve: untouched words cost nothing */
};

int dirty_init(struct dirty *dirty, const struct machine *m, struct err *err);
void dirty_destroy(struct dirty *dirty);

/* Adds what was written since the last fetch to both bitmaps, and to `into`. */
int dirty_fetch(struct dirty *dirty, struct machine *m, uint64_t *into, struct err *err);

/* A branch is complete: the next one begins here. Nothing may have been fetched since the branch's last fetch. */
void dirty_branched(struct dirty *dirty);

/* Adds what the next branch has to copy to `into`. */
void dirty_add_since_branch(const struct dirty *dirty, uint64_t *into);

#endif
