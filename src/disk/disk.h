/* disk.h: a sandbox's disk: a read-only base image, frozen layers, and one private layer.
 *
 * Theory of operation. A layer is a sparse file in which block n of the disk, if it is there at all, is at offset
 * n * DISK_BLOCK. Which layer holds a block stands in an index in memory, one byte per block; the index, not the
 * holes of the files, is the truth. All writes go into the private layer, at the same offset; the block's byte
 * in the index is set after that. What is in no layer is in the base image, and zero beyond its end.
 *
 * The index names layers by *slot*, a place in a table of descriptors, which a layer keeps as long as it lives. The
 * world outside knows layers by their *number*, from 0, oldest first, without gaps; the table `order` leads from one
 * to the other. The state is saved in numbers. So a layer can leave the middle of the row, and its slot can serve
 * another, without one byte of the index being touched; after a load, slots and numbers are the same.
 *
 * disk_freeze() makes the private layer the newest frozen one and takes a fresh file for the next: constant time.
 * A branch saves the state and then freezes, while the guest stands still; the state names the layers of before
 * the freeze, which the fork opens read-only, and it adds a private layer of its own: children never share a
 * file that is written.
 *
 * A request may be under way on the worker's thread while the loop's thread saves and freezes. It goes on in the
 * layer that was private when it began, which is a frozen one now, of the source and of the fork. That is right
 * because the fork does every request again that was in flight (dev/blk.h): until it has, whatever a block of
 * that request reads as, old, new or half, is what a disk may give for a request that has not come back; and
 * after it has, the fork reads the block from its own layer. Sectors beside it in the same block are rewritten
 * with what they were.
 *
 * Each freeze adds a layer, and a fork of a fork begins with those of all its ancestors. Where they grow many, the
 * worker *merges* some: it copies the blocks that they still hold into the private layer, a small step at a time
 * between the guest's requests (merge.c). When no block is in them any more they leave the row.
 *
 * Invariants.
 * 1. The base image and frozen layers are never written, save for the request, or the step of a merge, under way at the
 *    instant of the freeze.
 * 2. The index names a layer for a block only when the block is there as a whole.
 * 3. Blocks outside `touched` pages of the index are in the base: what nobody wrote costs no memory, and saving
 *    does not look at it.
 * 4. Layers are taken out of the row in disk_merge() alone, which counts in `row.merges` how often. Of two disks of one
 *    line of forks whose rows have one name and one count, one has the layers of the other in the same places, and
 *    perhaps newer ones. A snapshot that is loaded again has other files, and so a row of another name.
 * 5. A slot is free when no number leads to it and its descriptor is closed; the index does not name it then.
 *
 * Threads. read, write, zero, flush, merge_step: one thread, the worker. Everything else: the loop's thread;
 * disk_freeze(), disk_merge() and disk_save() may run while the worker does, the others may not. */
#ifndef FORKD_DISK_DISK_H
#define FORKD_DISK_DISK_H

#include "base/err.h"
#include "base/pack.h"
#include "disk/index.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

enum {
    DISK_BLOCK = 4096,
    DISK_SLOTS = 250,      /* an index byte names at most so many */
    DISK_LAYERS_MAX = 220, /* with the private one; a control message carries as many */
    /* A disk of more frozen layers than this has some of them merged, until as many are left as the last says. The
     * distance is how many branches share the price of one merge. A sandbox that was not branched yet may never be, and
     * has many siblings with the same layers: it begins later. Both are far from the limit, since branches go on
     * meanwhile. */
    DISK_MERGE_ABOVE = 64,
    DISK_MERGE_ABOVE_AT_BIRTH = 128,
    DISK_MERGE_KEEP = 32,
};

_Static_assert((int)PLACE_LAYER + (int)DISK_SLOTS <= 256, "a byte of the index names every slot");
_Static_assert((int)DISK_LAYERS_MAX <= (int)DISK_SLOTS, "every layer has a slot");

#define DISK_BYTES_MAX (UINT64_C(16) << 40)

/* The one who may touch a merge is told by its phase. */
enum disk_merge_phase {
    MERGE_IDLE,   /* the loop: there is none */
    MERGE_COUNT,  /* the worker: counts the blocks in each candidate, then chooses who leaves */
    MERGE_COPY,   /* the worker: copies what those hold */
    MERGE_COPIED, /* the loop: no block is in them */
    MERGE_CLOSE,  /* the worker: they are in the row no more; closes their files, which may take as long as freeing */
    MERGE_CLOSED, /* the loop */
    MERGE_FAILED, /* the loop: given up; the disk reads as before, and some blocks are in the private layer already */
};

struct disk_merge {
    enum disk_merge_phase phase;
    uint8_t candidate[DISK_SLOTS]; /* slots that were frozen when it began; those that leave come first */
    unsigned candidates, leaving;
    uint64_t block;     /* counted, or copied, up to here */
    uint64_t live[256]; /* blocks, by place */
    bool leaves[256];   /* by place */
    int rc;             /* why it failed */
};

/* Which row of layers it is: in no file. */
struct disk_row {
    uint64_t name; /* random, drawn when its files are opened for a template; inherited by fork */
    uint32_t merges;
};

static inline bool disk_row_same(struct disk_row a, struct disk_row b)
{
    return a.name == b.name && a.merges == b.merges;
}

struct disk {
    /* State. */
    uint64_t bytes;        /* of the disk, whole blocks */
    uint64_t base_bytes;   /* of the base image */
    unsigned layers;       /* frozen ones, and the private one, which is the last, where it is open */
    unsigned birth_layers; /* the oldest ones, not written in this life: all that are left of those it began with */
    struct disk_row row;
    uint8_t order[DISK_LAYERS_MAX]; /* slots, by number */
    struct disk_index index;

    /* Host. */
    int base_fd;
    int layer_fd[DISK_SLOTS];
    unsigned opened;   /* layers that have a descriptor */
    int private_layer; /* its slot, or -1 where none is private */
    struct disk_merge merge;
};

/* A disk of `bytes`, rounded up to whole blocks, all of it in a base that is yet to be opened. It may be larger
 * than the base. disk_destroy() ends it and closes what is open. */
int disk_init(struct disk *disk, uint64_t bytes, struct err *err);
void disk_destroy(struct disk *disk);

/* The length in bytes of an image, a file or a block device. */
int64_t disk_image_bytes(int fd, struct err *err);

/* These take the descriptor, whether they succeed or not.
 * The base: a file or a block device, opened read-only. Not longer than the disk; after a load, as long as it was. */
int disk_open_base(struct disk *disk, int fd, struct err *err);
/* The next frozen layer after a load, oldest first. */
int disk_open_frozen(struct disk *disk, int fd, struct err *err);
/* The private layer: a regular file, empty, opened for reading and writing, that nobody else writes to. Base and
 * all frozen layers are open. */
int disk_open_private(struct disk *disk, int fd, struct err *err);
/* Takes the base and the oldest `layers` frozen layers from another disk on the same base, instead of opening them: for
 * a disk that was loaded with at least those layers. `from` has no private layer, and is closed afterwards. */
int disk_take(struct disk *disk, struct disk *from, unsigned layers, struct err *err);
/* Closes all descriptors. What the private layer held belongs to a frozen one in the state that is left. */
void disk_close(struct disk *disk);

/* The private layer becomes a frozen one, after it was saved as such; `fd` is the new private one, taken as above.
 * -EMFILE: there are too many; merging will make room. */
int disk_freeze(struct disk *disk, int fd, struct err *err);

/* The frozen layers: how many, and the descriptor of one, which stays the disk's. */
unsigned disk_frozen(const struct disk *disk);
int disk_layer_fd(const struct disk *disk, unsigned number);

/* The loop's part of merging, in constant time: begins a merge that is due, and takes layers that hold nothing out of
 * the row. True: disk_merge_step() is to be called. A merge that failed is begun again at the next call. */
bool disk_merge(struct disk *disk);
/* The worker's part, a small step. False: disk_merge() is to be called. */
bool disk_merge_step(struct disk *disk);

/* Requests: multiples of 512 bytes, inside the disk. 0 or a negative errno. The iov is not changed. */
int disk_read(struct disk *disk, const struct iovec *iov, unsigned count, uint64_t at);
int disk_write(struct disk *disk, const struct iovec *iov, unsigned count, uint64_t at);
/* Reads as zeros afterwards; the space is given back where the filesystem can. */
int disk_zero(struct disk *disk, uint64_t at, uint64_t len);
/* A sandbox's disk dies with it: its writes are as safe as they will be once the host's page cache has them. */
int disk_flush(struct disk *disk);

/* An upper bound of what disk_save() packs. */
size_t disk_state_bound(const struct disk *disk);
void disk_save(const struct disk *disk, struct pack *p);
/* Into a disk of the same size that was just initialised. The state may come from a hostile file. */
int disk_load(struct disk *disk, struct unpack *u, struct err *err);

#endif
