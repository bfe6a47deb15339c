/* layers.h: where the blocks of a disk are, for whoever writes a disk to files, or makes one of files.
 *
 * The disk is one that was initialised and loaded from a state, or is filled here, so that its layers are in the slots
 * of their numbers; they need not be open. */
#ifndef FORKD_DISK_LAYERS_H
#define FORKD_DISK_LAYERS_H

#include "disk/disk.h"

/* Blocks that are in one layer, or zero. */
struct layer_run {
    uint64_t first, count;
    int layer; /* -1: they are zero */
};

/* The next run at or after block `from` that is not in the base image; false when there is none. */
bool layers_next(const struct disk *disk, uint64_t from, struct layer_run *run);

/* Puts a run into a disk whose `layers` were set. */
void layers_put(struct disk *disk, const struct layer_run *run);

#endif
