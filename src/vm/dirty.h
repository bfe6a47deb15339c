/* dirty.h: which pages of a running machine were written, since its birth and since its last branch.
 *
 * Theory of operation. KVM logs the pages that CPUs write (a machine attached with `log_dirty`), gmem marks those
 * that devices write. dirty_fetch() takes both, clears them, and adds them to two bitmaps: since birth, which is
 * what differs from the template, and since the last branch, which is what the next one still has to copy. A
 * branch that fails leaves them alone, so nothing that was fetched for it is lost. In the pause dirty_look() does the
 * same and leaves KVM's log as it is: half the work, and the next fetch tells of those pages once more.
 *
 * Which of the two a template lacks, its instant says (machine.h): the last complete branch lacks the second; the
 * template the machine was forked from, and every earlier branch, the first. So a branch that was complete and whose
 * process died before anyone heard of it is missing from no later one. Which process has the memory of an instant does
 * not matter, nor how often its snapshot was loaded. Templates of other machines have no place here.
 *
 * Clear first, read the pages after: a page written meanwhile is logged again.
 *
 * Bitmaps have one bit per page of RAM, by RAM offset, in 64-bit words.
 *
 * Threads: the loop's. */
#ifndef FORKD_VM_DIRTY_H
#define FORKD_VM_DIRTY_H

#include "mem/bitmap.h"
#include "vm/machine.h"

struct dirty {
    size_t words;
    uint64_t *since_birth, *since_branch, *fetched; /* mapped without reserve: untouched words cost nothing */
    struct machine_instant birth;                   /* of the template it was forked from */
    struct machine_instant captured;                /* the last, complete or not; the number is 0 before the first */
    uint64_t branched;                              /* the number of the last complete one; 0: none */
};

int dirty_init(struct dirty *dirty, const struct machine *m, struct err *err);
void dirty_destroy(struct dirty *dirty);

/* Adds what was written since the last fetch to both bitmaps, and to `into`, which is as long. */
int dirty_fetch(struct dirty *dirty, struct machine *m, struct bitmap_summed *into, struct err *err);
int dirty_look(struct dirty *dirty, struct machine *m, struct bitmap_summed *into, struct err *err);

/* Names the instant of a branch's look. */
struct machine_instant dirty_capture(struct dirty *dirty);
/* The branch captured last is complete: the next one begins there. Nothing may have been fetched since its look. */
void dirty_branched(struct dirty *dirty);

/* Adds what a template of that instant lacks, as far as it was fetched, to `into`. */
int dirty_add_since(const struct dirty *dirty, struct machine_instant have, struct bitmap_summed *into,
                    struct err *err);

#endif
