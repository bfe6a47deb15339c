/* chain.h: a chain of snapshots becomes the image of a template.
 *
 * Theory of operation. A chain is a whole snapshot and the diffs on it, root first; each link is a directory as
 * snap/snapshot_files.h describes. chain_open() opens the files of all links: afterwards a process can give up opening
 * files.
 * chain_load() checks everything and then resolves it once, so that no fork of the template ever looks at a chain:
 *
 *   memory   for each page the last link decides that holds it or calls it zero. The pages go into one memfd, which is
 *            settled and sealed as that of a parent would be (mem/image.h).
 *   state    that of the last link, to which a disk section is added: which layer holds each block
 *   layers   the disk0.layer of every link that holds blocks, opened read-only; the section's layers are these
 *
 * Checked are: snapshot.json and its sum; that each diff names its parent's content hash; length and sum of every
 * other file; every block that a link holds, whether a later one overrides it or not; and the base image. Errors name
 * the snapshot, the file and the part of it.
 *
 * Invariant. What is handed out was read and summed up in this process, but for the layers, which are read again when
 * a guest reads them: their files must not be writable by others. */
#ifndef FORKD_SNAP_CHAIN_H
#define FORKD_SNAP_CHAIN_H

#include "mem/image.h"
#include "proto/snapshot_meta.h"
#include "snap/block_map.h"
#include "snap/snapshot_files.h"

enum { CHAIN_MAX = 200 }; /* links: as many descriptors as a control message carries, and layers as a disk has */

struct chain_link {
    int fd[SNAPSHOT_FILES]; /* -1 where there is none */
    struct snapshot_meta meta;
    struct block_map memory, disk;
};

struct chain {
    unsigned count;
    struct chain_link *link; /* root first; owned */
    /* Set by who loads it, after chain_open(), or NULL: now and then, on the caller's thread, how many bytes of pages
     * and blocks were read, and of how many. */
    void (*progress)(void *owner, uint64_t done, uint64_t total);
    void *owner;
    _Atomic uint64_t done;
    uint64_t total, told_ns;
};

/* What was made of it. The descriptors are the caller's. */
struct chain_image {
    struct image image;
    int memory; /* sealed memfd */
    int state;  /* likewise */
    uint64_t state_bytes;
    unsigned layer_count;
    int layer[CHAIN_MAX]; /* oldest first, read-only */
};

/* The directories stay the caller's. On failure nothing is left open. */
int chain_open(struct chain *chain, const int *dirs, unsigned count, struct err *err);
void chain_close(struct chain *chain);

/* Reads and checks description and maps of a chain of one, a whole snapshot, whose disk has so many bytes (0: none);
 * its blocks are not looked at. */
int chain_inspect(struct chain *chain, uint64_t disk_bytes, struct err *err);

/* `base` is the disk's base image, -1 where there is none. On failure nothing is handed out. */
int chain_load(struct chain *chain, int base, struct chain_image *image, struct err *err);
void chain_image_close(struct chain_image *image);

#endif
