/* chain_resolve.h: the parts of chain_load() that make something. Inside of src/snap alone. */
#ifndef FORKD_SNAP_CHAIN_RESOLVE_H
#define FORKD_SNAP_CHAIN_RESOLVE_H

#include "disk/disk.h"
#include "snap/chain.h"

/* The state of the last link, and the disk whose section it is to get. */
struct resolved_state {
    uint8_t *bytes; /* owned */
    uint64_t len;
    uint64_t disk_bytes; /* whole blocks; 0: there is no disk */
    struct disk disk;
    bool has_disk;
};

/* Reads and checks the vmstate of the last link. */
int resolve_state(const struct chain *chain, struct resolved_state *state, struct err *err);
void resolved_state_free(struct resolved_state *state);

/* Memory: into a sealed memfd. */
int resolve_memory(struct chain *chain, struct chain_image *image, struct err *err);
/* Checks all layers, hands them out and notes where the blocks are. */
int resolve_disk(struct chain *chain, struct resolved_state *state, struct chain_image *image, struct err *err);
/* The state, disk section and all, into a sealed memfd. */
int resolve_finish(const struct resolved_state *state, struct chain_image *image, struct err *err);

#endif
