/* chain_load.h: a chain of snapshots becomes the image of a template.
 *
 * Theory of operation. Everything is checked and then resolved once, so that no fork of the template ever looks at a
 * chain:
 *
 *   memory   for each page the last link decides that holds it or calls it zero. The pages go into one memfd, which is
 *            settled and sealed as that of a parent would be (mem/image.h).
 *   state    that of the last link, to which a disk section is added: which layer holds each block
 *   layers   the disk0.layer of every link that holds blocks, opened read-only; the section's layers are these
 *
 * Beyond what chain.h says, every block that a link holds is checked, whether a later one overrides it or not, and the
 * base image.
 *
 * Invariant. What is handed out was read and summed up in this process, but for the layers, which are read again when
 * a guest reads them: their files must not be writable by others. */
#ifndef FORKD_SNAP_CHAIN_LOAD_H
#define FORKD_SNAP_CHAIN_LOAD_H

#include "mem/image.h"
#include "snap/chain.h"

/* What was made of it. The descriptors are the caller's. */
struct chain_image {
    struct image image;
    int memory; /* sealed memfd */
    int state;  /* likewise */
    uint64_t state_bytes;
    unsigned layer_count;
    int layer[CHAIN_MAX]; /* oldest first, read-only */
};

/* `base` is the disk's base image, -1 where there is none. On failure nothing is handed out. */
int chain_load(struct chain *chain, int base, struct chain_image *image, struct err *err);
void chain_image_close(struct chain_image *image);

#endif
