/* disk.h: a sandbox's disk: a read-only base image, frozen layers, and one private layer.
 *
 * Theory of operation. A layer is a sparse file in which block n of the disk, if it is there at all, is at offset
 * n * DISK_BLOCK. Which layer holds a block stands in an index in memory, one byte per block; the index, not the
 * holes of the files, is the truth. All writes go into the private layer, at the same offset; the block's byte
 * in the index is set after that. What is in no layer is in the base image, and zero beyond its end.
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
 * Invariants.
 * 1. The base image and frozen layers are never written, save for the request under way at the instant of the
 *    freeze.
 * 2. The index names a layer for a block only when the block is there as a whole.
 * 3. Blocks outside `touched` pages of the index are in the base: what nobody wrote costs no memory, and saving
 *    does not look at it.
 *
 * Threads. read, write, zero, flush: one thread, the worker. Everything else: the loop's thread; disk_freeze() and
 * disk_save() may run while the worker does, the others may not. */
#ifndef FORKD_DISK_DISK_H
#define FORKD_DISK_DISK_H

#include "base/err.h"
#include "base/pack.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

enum {
    DISK_BLOCK = 4096,
    DISK_LAYERS_MAX = 250, /* an index byte names at most so many */
    DISK_LAYERS_FLATTEN = 200,
};

#define DISK_BYTES_MAX (UINT64_C(16) << 40)

struct disk {
    /* State. */
    uint64_t bytes;      /* of the disk, whole blocks */
    uint64_t base_bytes; /* of the base image */
    unsigned layers;     /* frozen ones, and the private one where it is open */
    uint8_t *index;      /* by block: where it is; mapped without reserve, owned */
    uint8_t *touched;    /* by page of the index: it names something else than the base; behind the index */

    /* Host. */
    int base_fd;
    int layer_fd[DISK_LAYERS_MAX];
    unsigned opened;   /* layers that have a descriptor */
    int private_layer; /* the last one, or -1 where none is private */
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
/* Takes base and frozen layers from another disk on the same base, instead of opening them: for a disk that was
 * loaded with at least those layers. `from` has no private layer, and is closed afterwards. */
int disk_take(struct disk *disk, struct disk *from, struct err *err);
/* Closes all descriptors. What the private layer held belongs to a frozen one in the state that is left. */
void disk_close(struct disk *disk);

/* The private layer becomes a frozen one, after it was saved as such; `fd` is the new private one, taken as above. */
int disk_freeze(struct disk *disk, int fd, struct err *err);
/* Copies what frozen layers hold into the private one and closes them; for disks of DISK_LAYERS_FLATTEN layers
 * and more. It takes as long as copying takes. After a failure the disk reads as before. */
int disk_flatten(struct disk *disk, struct err *err);

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
