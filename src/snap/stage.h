/* stage.h: the last pages of a branch, copied by the source itself while it stands still.
 *
 * Theory of operation. The pause of a branch lasts as long as its last pages take to copy. Reading them from the target
 * would add two changes of process and the waiting for a processor; and copying into memory that was never
 * touched would add the host's page allocation. So source and target share a buffer, touched beforehand, and the source
 * copies its last pages there before it runs on. The target puts them in place afterwards. What the buffer has no
 * room for stays in the bitmap: the target reads it, and the source waits.
 *
 * Invariants.
 * 1. A page leaves the bitmap only when it is in the buffer.
 * 2. The target trusts nothing it finds: page numbers are copied once and checked. */
#ifndef FORKD_SNAP_STAGE_H
#define FORKD_SNAP_STAGE_H

#include "base/err.h"
#include "mem/bitmap.h"

#include <stddef.h>
#include <stdint.h>

enum { STAGE_PAGES = 512 };

struct stage {
    uint64_t *number; /* of the page in RAM, by place in the buffer */
    uint8_t *page;
};

/* Bytes of the buffer, whole pages. */
size_t stage_bytes(void);
/* The buffer begins at `at`. */
void stage_at(struct stage *s, void *at);

/* Source: copies pages set in `bitmap` out of RAM at `ram` and clears their bits, as many as there is room for. Returns
 * how many. */
unsigned stage_fill(struct stage *s, const uint8_t *ram, struct bitmap_summed *bitmap);

/* Target: puts `count` pages into RAM of `pages` pages, and sets their bits in `placed` (NULL: nobody asks). -EPROTO
 * for what no source of ours would have staged. */
int stage_place(const struct stage *s, unsigned count, uint8_t *ram, uint64_t pages, uint64_t *placed, struct err *err);

#endif
