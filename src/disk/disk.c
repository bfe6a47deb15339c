/* disk.c: see disk.h.
 *
 * SECCOMP: preadv - from a layer into guest memory
 * SECCOMP: pwritev - from guest memory into the private layer
 * SECCOMP: pread64 - the rest of a block that is written in part
 * SECCOMP: pwrite64 - such a block as a whole
 * SECCOMP: fallocate - gives back the space of what the guest discarded
 * SECCOMP: fcntl[a1 == F_GETFL] - a base image must be open read-only
 * SECCOMP: lseek - the length of a base image */
#include "disk/disk.h"

#include "base/io.h"
#include "base/own.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

enum { IOV_CHUNK = 64 };

/* Making and opening */

int disk_init(struct disk *disk, uint64_t bytes, struct err *err)
{
    *disk = (struct disk){.base_fd = -1, .private_layer = -1};
    for (unsigned i = 0; i < DISK_SLOTS; i++)
        disk->layer_fd[i] = -1;
    for (unsigned i = 0; i < DISK_LAYERS_MAX; i++)
        disk->order[i] = (uint8_t)i;
    if (bytes == 0 || bytes > DISK_BYTES_MAX)
        return err_say(err, EINVAL, "a disk of %llu bytes: at least one byte and at most 16 TiB",
                       (unsigned long long)bytes);
    disk->bytes = (bytes + DISK_BLOCK - 1) / DISK_BLOCK * DISK_BLOCK;
    return index_map(&disk->index, disk->bytes / DISK_BLOCK, err);
}

void disk_destroy(struct disk *disk)
{
    disk_close(disk);
    index_unmap(&disk->index);
}

void disk_close(struct disk *disk)
{
    fd_close(&disk->base_fd);
    for (unsigned i = 0; i < DISK_SLOTS; i++)
        fd_close(&disk->layer_fd[i]);
    disk->opened = 0;
    disk->private_layer = -1;
    disk->merge.phase = MERGE_IDLE;
}

int64_t disk_image_bytes(int fd, struct err *err)
{
    off_t end = lseek(fd, 0, SEEK_END); /* works for block devices, too */
    if (end < 0)
        return err_set(err, errno, "find the length of a disk image");
    if (end == 0)
        return err_say(err, EINVAL, "the disk image is empty");
    return end;
}

static int access_mode(int fd)
{
    int flags = fcntl(fd, F_GETFL);
    return flags < 0 ? -1 : flags & O_ACCMODE;
}

int disk_open_base(struct disk *disk, int fd, struct err *err)
{
    own_fd int base = fd;
    if (access_mode(base) != O_RDONLY)
        return err_say(err, EINVAL, "the disk image must be open for reading only: it is shared");
    int64_t bytes = disk_image_bytes(base, err);
    if (bytes < 0)
        return (int)bytes;
    if ((uint64_t)bytes > disk->bytes)
        return err_say(err, EINVAL, "the disk image has %lld bytes, the disk %llu", (long long)bytes,
                       (unsigned long long)disk->bytes);
    if (disk->base_bytes && disk->base_bytes != (uint64_t)bytes)
        return err_say(err, EINVAL, "the disk image has %lld bytes, it had %llu when the state was saved",
                       (long long)bytes, (unsigned long long)disk->base_bytes);
    disk->base_bytes = (uint64_t)bytes;
    fd_close(&disk->base_fd);
    disk->base_fd = steal_fd(&base);
    return 0;
}

static int check_regular(int fd, struct stat *st, struct err *err)
{
    if (fstat(fd, st) < 0)
        return err_set(err, errno, "fstat of a disk layer");
    if (!S_ISREG(st->st_mode))
        return err_say(err, EINVAL, "a disk layer must be a regular file");
    return 0;
}

int disk_open_frozen(struct disk *disk, int fd, struct err *err)
{
    own_fd int layer = fd;
    struct stat st;
    int rc = check_regular(layer, &st, err);
    if (rc < 0)
        return rc;
    if (disk->private_layer >= 0 || disk->opened == disk->layers)
        return err_say(err, EINVAL, "the disk's state names %u layers, not more", disk->layers);
    disk->layer_fd[disk->order[disk->opened++]] = steal_fd(&layer);
    disk->birth_layers = disk->opened;
    return 0;
}

unsigned disk_frozen(const struct disk *disk)
{
    return disk->private_layer < 0 ? disk->opened : disk->layers - 1;
}

int disk_layer_fd(const struct disk *disk, unsigned number)
{
    return disk->layer_fd[disk->order[number]];
}

/* Invariant 5; -1: there is none. */
static int free_slot(const struct disk *disk)
{
    bool taken[DISK_SLOTS] = {0};
    for (unsigned i = 0; i < disk->layers; i++)
        taken[disk->order[i]] = true;
    for (int slot = 0; slot < DISK_SLOTS; slot++)
        if (!taken[slot] && __atomic_load_n(&disk->layer_fd[slot], __ATOMIC_ACQUIRE) < 0)
            return slot;
    return -1;
}

/* Appends a layer that is fit to be private. */
static int append_private(struct disk *disk, int fd, struct err *err)
{
    own_fd int layer = fd;
    struct stat st;
    int rc = check_regular(layer, &st, err);
    if (rc < 0)
        return rc;
    if (access_mode(layer) != O_RDWR || st.st_size != 0)
        return err_say(err, EINVAL, "the private layer of a disk must be an empty file, open for reading and writing");
    int slot = disk->layers < DISK_LAYERS_MAX ? free_slot(disk) : -1;
    if (slot < 0)
        return err_say(err, EMFILE, "the disk has %u layers, that is the limit", disk->layers);
    disk->layer_fd[slot] = steal_fd(&layer);
    disk->order[disk->layers++] = (uint8_t)slot;
    disk->opened = disk->layers;
    /* Last: a request that begins now finds the descriptor in place. */
    __atomic_store_n(&disk->private_layer, slot, __ATOMIC_RELEASE);
    return 0;
}

int disk_open_private(struct disk *disk, int fd, struct err *err)
{
    own_fd int layer = fd;
    if (disk->base_fd < 0 || disk->private_layer >= 0 || disk->opened != disk->layers)
        return err_say(err, EINVAL, "the disk has %u of its %u frozen layers and %s base image", disk->opened,
                       disk->layers, disk->base_fd < 0 ? "no" : "a");
    return append_private(disk, steal_fd(&layer), err);
}

int disk_take(struct disk *disk, struct disk *from, unsigned layers, struct err *err)
{
    if (from->private_layer >= 0 || layers > from->opened)
        return err_say(err, EINVAL, "a disk of %u frozen layers cannot give %u away", disk_frozen(from), layers);
    int rc = disk_open_base(disk, steal_fd(&from->base_fd), err);
    for (unsigned i = 0; rc == 0 && i < layers; i++)
        rc = disk_open_frozen(disk, steal_fd(&from->layer_fd[from->order[i]]), err);
    disk_close(from);
    return rc;
}

int disk_freeze(struct disk *disk, int fd, struct err *err)
{
    own_fd int layer = fd;
    if (disk->private_layer < 0)
        return err_say(err, EINVAL, "the disk has no private layer to freeze");
    return append_private(disk, steal_fd(&layer), err);
}

/* Pieces of an iov */

struct cursor {
    const struct iovec *iov;
    unsigned count;
    size_t at; /* in the first */
};

/* The next bytes, at most `len`, as at most IOV_CHUNK pieces; returns how many bytes they are. */
static uint64_t cursor_look(const struct cursor *c, uint64_t len, struct iovec *piece, unsigned *pieces)
{
    uint64_t total = 0;
    size_t at = c->at;
    *pieces = 0;
    for (unsigned i = 0; i < c->count && total < len && *pieces < IOV_CHUNK; i++, at = 0) {
        size_t n = c->iov[i].iov_len - at;
        if (n > len - total)
            n = (size_t)(len - total);
        if (!n)
            continue;
        piece[(*pieces)++] = (struct iovec){(uint8_t *)c->iov[i].iov_base + at, n};
        total += n;
    }
    return total;
}

static void cursor_skip(struct cursor *c, uint64_t len)
{
    while (c->count && len >= c->iov->iov_len - c->at) {
        len -= c->iov->iov_len - c->at;
        c->iov++;
        c->count--;
        c->at = 0;
    }
    c->at += (size_t)len;
}

static uint64_t cursor_left(const struct cursor *c)
{
    uint64_t total = 0;
    for (unsigned i = 0; i < c->count; i++)
        total += c->iov[i].iov_len;
    return total - c->at;
}

static void cursor_zero(struct cursor *c, uint64_t len)
{
    struct iovec piece[IOV_CHUNK];
    unsigned pieces;
    while (len) {
        uint64_t n = cursor_look(c, len, piece, &pieces);
        if (!n)
            return;
        for (unsigned i = 0; i < pieces; i++)
            memset(piece[i].iov_base, 0, piece[i].iov_len);
        cursor_skip(c, n);
        len -= n;
    }
}

/* All `len` bytes between a file and the iov; an end of file before that is -EIO. */
static int cursor_transfer(struct cursor *c, int fd, uint64_t at, uint64_t len, bool write)
{
    struct iovec piece[IOV_CHUNK];
    unsigned pieces;
    while (len) {
        if (!cursor_look(c, len, piece, &pieces))
            return -EINVAL;
        ssize_t n = write ? pwritev(fd, piece, (int)pieces, (off_t)at) : preadv(fd, piece, (int)pieces, (off_t)at);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -errno;
        if (n == 0)
            return -EIO;
        cursor_skip(c, (uint64_t)n);
        at += (uint64_t)n;
        len -= (uint64_t)n;
    }
    return 0;
}

/* Requests */

static bool range_fits(const struct disk *disk, uint64_t at, uint64_t len)
{
    return at <= disk->bytes && len <= disk->bytes - at;
}

/* How many bytes from `at` on, at most `len`, are in one place. */
static uint64_t place_extent(const struct disk *disk, uint64_t at, uint64_t len, uint8_t *place)
{
    uint64_t block = at / DISK_BLOCK, last = (at + len - 1) / DISK_BLOCK;
    *place = index_get(&disk->index, block);
    uint64_t end = (block + index_run(&disk->index, block, last - block + 1, *place)) * DISK_BLOCK;
    return end - at < len ? end - at : len;
}

static int read_base(const struct disk *disk, struct cursor *c, uint64_t at, uint64_t len)
{
    uint64_t there = at < disk->base_bytes ? disk->base_bytes - at : 0;
    if (there > len)
        there = len;
    int rc = there ? cursor_transfer(c, disk->base_fd, at, there, false) : 0;
    if (rc == 0)
        cursor_zero(c, len - there);
    return rc;
}

static int read_place(const struct disk *disk, struct cursor *c, uint8_t place, uint64_t at, uint64_t len)
{
    if (place == PLACE_BASE)
        return read_base(disk, c, at, len);
    if (place != PLACE_ZERO)
        return cursor_transfer(c, disk->layer_fd[place - PLACE_LAYER], at, len, false);
    cursor_zero(c, len);
    return 0;
}

int disk_read(struct disk *disk, const struct iovec *iov, unsigned count, uint64_t at)
{
    struct cursor c = {iov, count, 0};
    uint64_t left = cursor_left(&c);
    if (!range_fits(disk, at, left))
        return -EINVAL;
    while (left) {
        uint8_t place;
        uint64_t n = place_extent(disk, at, left, &place);
        int rc = read_place(disk, &c, place, at, n);
        if (rc < 0)
            return rc;
        at += n;
        left -= n;
    }
    return 0;
}

/* Part of a block: what is around it comes from where the block is now. */
static int write_part(struct disk *disk, struct cursor *c, unsigned slot, uint64_t at, uint64_t len)
{
    uint64_t block = at / DISK_BLOCK;
    int fd = disk->layer_fd[slot];
    if (index_get(&disk->index, block) == place_of_slot(slot))
        return cursor_transfer(c, fd, at, len, true);
    uint8_t bytes[DISK_BLOCK];
    const struct iovec whole = {bytes, sizeof bytes};
    int rc = disk_read(disk, &whole, 1, block * DISK_BLOCK);
    if (rc < 0)
        return rc;
    struct iovec piece[IOV_CHUNK];
    unsigned pieces;
    for (uint64_t done = 0, n; done < len; done += n) {
        n = cursor_look(c, len - done, piece, &pieces);
        if (!n)
            return -EINVAL;
        size_t to = (size_t)(at % DISK_BLOCK + done);
        for (unsigned i = 0; i < pieces; to += piece[i++].iov_len)
            memcpy(bytes + to, piece[i].iov_base, piece[i].iov_len);
        cursor_skip(c, n);
    }
    rc = io_pwrite_all(fd, bytes, sizeof bytes, block * DISK_BLOCK, NULL);
    if (rc == 0)
        index_set(&disk->index, block, 1, place_of_slot(slot));
    return rc;
}

static int write_blocks(struct disk *disk, struct cursor *c, unsigned slot, uint64_t at, uint64_t len)
{
    int rc = cursor_transfer(c, disk->layer_fd[slot], at, len, true);
    if (rc == 0)
        index_set(&disk->index, at / DISK_BLOCK, len / DISK_BLOCK, place_of_slot(slot));
    return rc;
}

/* The slot of the layer that a request goes to, from its first byte to its last. */
static int private_slot(const struct disk *disk)
{
    return __atomic_load_n(&disk->private_layer, __ATOMIC_ACQUIRE);
}

static int write_cursor(struct disk *disk, struct cursor *c, unsigned slot, uint64_t at, uint64_t left)
{
    while (left) {
        uint64_t into = at % DISK_BLOCK, n = left - left % DISK_BLOCK;
        int rc;
        if (into || !n) {
            n = DISK_BLOCK - into < left ? DISK_BLOCK - into : left;
            rc = write_part(disk, c, slot, at, n);
        } else {
            rc = write_blocks(disk, c, slot, at, n);
        }
        if (rc < 0)
            return rc;
        at += n;
        left -= n;
    }
    return 0;
}

int disk_write(struct disk *disk, const struct iovec *iov, unsigned count, uint64_t at)
{
    struct cursor c = {iov, count, 0};
    uint64_t left = cursor_left(&c);
    int slot = private_slot(disk);
    if (slot < 0 || !range_fits(disk, at, left))
        return slot < 0 ? -EROFS : -EINVAL;
    return write_cursor(disk, &c, (unsigned)slot, at, left);
}

/* Whole blocks. The index first: what it calls zero nobody reads, whatever becomes of the punch. */
static void zero_blocks(struct disk *disk, unsigned slot, uint64_t at, uint64_t len)
{
    while (len) {
        uint8_t place;
        uint64_t n = place_extent(disk, at, len, &place);
        bool zero_already = place == PLACE_ZERO || (place == PLACE_BASE && at >= disk->base_bytes);
        if (!zero_already)
            index_set(&disk->index, at / DISK_BLOCK, n / DISK_BLOCK, PLACE_ZERO);
        if (place == place_of_slot(slot))
            fallocate(disk->layer_fd[slot], FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)at, (off_t)n);
        at += n;
        len -= n;
    }
}

int disk_zero(struct disk *disk, uint64_t at, uint64_t len)
{
    static const uint8_t zeros[DISK_BLOCK];
    int slot = private_slot(disk);
    if (slot < 0 || !range_fits(disk, at, len))
        return slot < 0 ? -EROFS : -EINVAL;
    while (len) {
        uint64_t into = at % DISK_BLOCK, n = len - len % DISK_BLOCK;
        if (into || !n) {
            n = DISK_BLOCK - into < len ? DISK_BLOCK - into : len;
            const struct iovec part = {(void *)zeros, (size_t)n};
            struct cursor c = {&part, 1, 0};
            int rc = write_part(disk, &c, (unsigned)slot, at, n);
            if (rc < 0)
                return rc;
        } else {
            zero_blocks(disk, (unsigned)slot, at, n);
        }
        at += n;
        len -= n;
    }
    return 0;
}

int disk_flush(struct disk *disk)
{
    return 0;
}

/* State */

size_t disk_state_bound(const struct disk *disk)
{
    return 2 * sizeof(uint64_t) + sizeof(uint16_t) + index_state_bound(&disk->index);
}

void disk_save(const struct disk *disk, struct pack *p)
{
    pack_u64(p, disk->bytes);
    pack_u64(p, disk->base_bytes);
    pack_u16(p, (uint16_t)disk->layers);
    index_save(&disk->index, disk->order, disk->layers, p);
}

int disk_load(struct disk *disk, struct unpack *u, struct err *err)
{
    uint64_t bytes = unpack_u64(u), base_bytes = unpack_u64(u);
    uint16_t layers = unpack_u16(u);
    if (u->bad || bytes != disk->bytes || base_bytes == 0 || base_bytes > bytes || layers > DISK_LAYERS_MAX)
        return err_say(err, EINVAL, "the state of the disk is malformed");
    disk->base_bytes = base_bytes;
    disk->layers = layers;
    return index_load(&disk->index, layers, u, err);
}
