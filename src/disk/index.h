/* index.h: where each block of a disk is.
 *
 * A byte per block; zero bytes, and so fresh memory, mean the base image. */
#ifndef FORKD_DISK_INDEX_H
#define FORKD_DISK_INDEX_H

#include "base/err.h"
#include "base/pack.h"

#include <stddef.h>
#include <stdint.h>

enum { PLACE_BASE = 0, PLACE_ZERO = 1, PLACE_LAYER = 2 /* and up: slot 0, 1, ... */ };

struct disk_index {
    uint64_t blocks;
    uint8_t *place;   /* by block; mapped without reserve, owned */
    uint8_t *touched; /* by page of `place`: it names something else than the base; behind it */
};

static inline uint8_t place_of_slot(unsigned slot)
{
    return (uint8_t)(PLACE_LAYER + slot);
}

static inline uint8_t index_get(const struct disk_index *index, uint64_t block)
{
    return __atomic_load_n(&index->place[block], __ATOMIC_ACQUIRE);
}

/* Allocates both parts, zero; and gives them back. Unmapping what never was is allowed. */
int index_map(struct disk_index *index, uint64_t blocks, struct err *err);
void index_unmap(struct disk_index *index);

/* After the data is in place. */
void index_set(struct disk_index *index, uint64_t block, uint64_t count, uint8_t place);

/* How many blocks from `block` on, at most `most`, are in `place`: each was so when it was looked at. */
uint64_t index_run(const struct disk_index *index, uint64_t block, uint64_t most, uint8_t place);

size_t index_state_bound(const struct disk_index *index);
/* Layers by their numbers, of which `slot` has the slots; so they are loaded, as slots. */
void index_save(const struct disk_index *index, const uint8_t *slot, unsigned layers, struct pack *p);
/* Refuses places beyond so many layers. */
int index_load(struct disk_index *index, unsigned layers, struct unpack *u, struct err *err);

#endif
