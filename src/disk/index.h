/* index.h: where each block of a disk is. Inside of src/disk alone.
 *
 * A byte per block; zero bytes, and so fresh memory, mean the base image. */
#ifndef FORKD_DISK_INDEX_H
#define FORKD_DISK_INDEX_H

#include "disk/disk.h"

enum { PLACE_BASE = 0, PLACE_ZERO = 1, PLACE_LAYER = 2 /* and up: slot 0, 1, ... */ };
_Static_assert((int)PLACE_LAYER + (int)DISK_SLOTS <= 256, "a byte names every slot");
_Static_assert((int)DISK_LAYERS_MAX <= (int)DISK_SLOTS, "every layer has a slot");

static inline uint64_t disk_blocks(const struct disk *disk)
{
    return disk->bytes / DISK_BLOCK;
}

static inline uint8_t place_of_slot(unsigned slot)
{
    return (uint8_t)(PLACE_LAYER + slot);
}

static inline uint8_t index_get(const struct disk *disk, uint64_t block)
{
    return __atomic_load_n(&disk->index[block], __ATOMIC_ACQUIRE);
}

/* Allocates both parts, zero; and gives them back. */
int index_map(struct disk *disk, struct err *err);
void index_unmap(struct disk *disk);

/* After the data is in place. */
void index_set(struct disk *disk, uint64_t block, uint64_t count, uint8_t place);

/* How many blocks from `block` on, at most `most`, are in `place`: each was so when it was looked at. */
uint64_t index_run(const struct disk *disk, uint64_t block, uint64_t most, uint8_t place);

size_t index_state_bound(const struct disk *disk);
/* Layers by their numbers; so they are loaded, as slots. */
void index_save(const struct disk *disk, struct pack *p);
/* Refuses places beyond the disk's layers. */
int index_load(struct disk *disk, struct unpack *u, struct err *err);

#endif
