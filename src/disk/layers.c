/* layers.c: see layers.h. */
#include "disk/layers.h"

bool layers_next(const struct disk *disk, uint64_t from, struct layer_run *run)
{
    uint64_t blocks = disk->index.blocks;
    if (from < blocks)
        from += index_run(&disk->index, from, blocks - from, PLACE_BASE);
    if (from >= blocks)
        return false;
    uint8_t place = index_get(&disk->index, from);
    *run = (struct layer_run){.first = from,
                              .count = index_run(&disk->index, from, blocks - from, place),
                              .layer = place == PLACE_ZERO ? -1 : place - PLACE_LAYER};
    return true;
}

void layers_put(struct disk *disk, const struct layer_run *run)
{
    index_set(&disk->index, run->first, run->count, run->layer < 0 ? PLACE_ZERO : place_of_slot((unsigned)run->layer));
}
