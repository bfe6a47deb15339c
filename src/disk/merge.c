/* merge.c: keeps a disk's layers few; see disk.h.
 *
 * Theory of operation. A merge makes one pass over the index to count the blocks in each layer that was frozen when it
 * began, and chooses those that hold the least: what they hold must be copied, and a large layer low in a tree is
 * better shared than copied into each sandbox. A second pass copies their blocks into the private layer. A block that
 * the guest wrote or discarded meanwhile is in them no more, and nothing is added to them: so after one pass no block
 * names them, whatever was written and frozen meanwhile. They leave the row then, and their files are closed.
 *
 * A freeze in the midst makes the layer that was copied into a frozen one, and the pass goes on into the next. The
 * state saved with it names layers that are all still in the row: for each block the one it is copied from, or the one
 * it was copied to. A step that is under way at that instant ends in the frozen layer, at a place that the state does
 * not name.
 *
 * A merge that fails, for want of room or by an error, has done no harm and has not worked for nothing: the blocks it
 * copied are in a newer layer, and the next merge has so many fewer to copy. It leaves a reserve of room to the guests,
 * who would stop without.
 *
 * Invariants.
 * 1. The worker's part is called between requests: the one that was under way when the last candidate was frozen, and
 *    that may still have written to it, is over.
 * 2. Blocks are copied before the index says so: a reader finds them in one layer or in the other.
 * 3. A layer leaves the row when the pass over the whole index is done, and its slot is free when its file is closed.
 *
 * SECCOMP: pread64 - blocks of the layers that are merged
 * SECCOMP: pwrite64 - into the private layer
 * SECCOMP: fstatfs - whether there is room to merge layers
 * SECCOMP: fallocate - gives back the room of a block that was copied in part
 * SECCOMP: close - a layer that holds nothing any more */
#include "base/io.h"
#include "base/log.h"
#include "disk/disk.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/statfs.h>
#include <unistd.h>

/* A step is a few dozen microseconds: so long a request that comes meanwhile waits. */
enum { COPY_BLOCKS = 16, SCAN_RUNS = 512, SCAN_BLOCKS = 1 << 18, RESERVE_PART = 16 };

#define RESERVE_MAX_BYTES (UINT64_C(1) << 30)

static enum disk_merge_phase phase_of(const struct disk *disk)
{
    return __atomic_load_n(&disk->merge.phase, __ATOMIC_ACQUIRE);
}

/* Hands the merge over where the phase is the other thread's. */
static void set_phase(struct disk *disk, enum disk_merge_phase phase)
{
    __atomic_store_n(&disk->merge.phase, phase, __ATOMIC_RELEASE);
}

/* The worker's part */

static bool fail(struct disk *disk, int rc)
{
    disk->merge.rc = rc;
    set_phase(disk, MERGE_FAILED);
    return false;
}

/* In place, by insertion: they are few, and qsort(3) asks the kernel how much memory there is, which it may not. */
static void sort(uint64_t *key, unsigned count)
{
    for (unsigned i = 1; i < count; i++) {
        uint64_t moving = key[i];
        unsigned at = i;
        for (; at && key[at - 1] > moving; at--)
            key[at] = key[at - 1];
        key[at] = moving;
    }
}

/* All but DISK_MERGE_KEEP leave, and empty ones in any case. */
static void choose(struct disk_merge *m)
{
    uint64_t key[DISK_SLOTS]; /* blocks, of which a disk has at most 2^32, and the slot */
    for (unsigned i = 0; i < m->candidates; i++)
        key[i] = m->live[place_of_slot(m->candidate[i])] << 8 | m->candidate[i];
    sort(key, m->candidates);
    m->leaving = m->candidates - DISK_MERGE_KEEP;
    while (m->leaving < m->candidates && key[m->leaving] >> 8 == 0)
        m->leaving++;
    for (unsigned i = 0; i < m->candidates; i++) {
        m->candidate[i] = (uint8_t)key[i];
        m->leaves[place_of_slot(m->candidate[i])] = i < m->leaving;
    }
}

/* Where a step's look at the index ends, if it has not found work before. */
static uint64_t scan_end(const struct disk *disk)
{
    uint64_t left = disk->index.blocks - disk->merge.block;
    return disk->merge.block + (left < SCAN_BLOCKS ? left : SCAN_BLOCKS);
}

static bool count_step(struct disk *disk)
{
    struct disk_merge *m = &disk->merge;
    uint64_t end = scan_end(disk);
    for (unsigned runs = 0; runs < SCAN_RUNS && m->block < end; runs++) {
        uint8_t place = index_get(&disk->index, m->block);
        uint64_t run = index_run(&disk->index, m->block, end - m->block, place);
        m->live[place] += run;
        m->block += run;
    }
    if (m->block < disk->index.blocks)
        return true;
    choose(m);
    m->block = 0;
    set_phase(disk, MERGE_COPY);
    return true;
}

static bool has_room(int fd)
{
    struct statfs fs;
    if (fstatfs(fd, &fs) < 0 || fs.f_blocks == 0) /* without limit */
        return true;
    uint64_t reserve = fs.f_blocks / RESERVE_PART, most = RESERVE_MAX_BYTES / (uint64_t)fs.f_bsize;
    return fs.f_bavail > (reserve < most ? reserve : most);
}

static int copy_run(struct disk *disk, uint8_t place, uint64_t block, uint64_t count)
{
    uint8_t buf[COPY_BLOCKS * DISK_BLOCK];
    uint64_t at = block * DISK_BLOCK;
    size_t len = (size_t)count * DISK_BLOCK;
    int slot = __atomic_load_n(&disk->private_layer, __ATOMIC_ACQUIRE), into = disk->layer_fd[slot];
    if (!has_room(into))
        return -ENOSPC;
    int rc = io_pread_all(disk->layer_fd[place - PLACE_LAYER], buf, len, at, NULL);
    if (rc < 0)
        return rc == -EPIPE ? -EIO : rc; /* the layer was cut off */
    rc = io_pwrite_all(into, buf, len, at, NULL);
    if (rc == 0)
        index_set(&disk->index, block, count, place_of_slot((unsigned)slot));
    else
        fallocate(into, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)at, (off_t)len);
    return rc;
}

static bool copy_step(struct disk *disk)
{
    struct disk_merge *m = &disk->merge;
    uint64_t end = scan_end(disk);
    bool copied = false;
    for (unsigned runs = 0; runs < SCAN_RUNS && m->block < end && !copied; runs++) {
        uint8_t place = index_get(&disk->index, m->block);
        copied = m->leaves[place];
        uint64_t most = end - m->block;
        if (copied && most > COPY_BLOCKS)
            most = COPY_BLOCKS;
        uint64_t run = index_run(&disk->index, m->block, most, place);
        int rc = copied ? copy_run(disk, place, m->block, run) : 0;
        if (rc < 0)
            return fail(disk, rc);
        m->block += run;
    }
    if (m->block < disk->index.blocks)
        return true;
    set_phase(disk, MERGE_COPIED);
    return false;
}

/* One file a step: the last to close a large one frees its blocks. */
static bool close_step(struct disk *disk)
{
    struct disk_merge *m = &disk->merge;
    if (m->leaving) {
        int *fd = &disk->layer_fd[m->candidate[--m->leaving]];
        close(*fd);
        __atomic_store_n(fd, -1, __ATOMIC_RELEASE);
        return true;
    }
    set_phase(disk, MERGE_CLOSED);
    return false;
}

bool disk_merge_step(struct disk *disk)
{
    switch (phase_of(disk)) {
    case MERGE_COUNT:
        return count_step(disk);
    case MERGE_COPY:
        return copy_step(disk);
    case MERGE_CLOSE:
        return close_step(disk);
    default:
        return false;
    }
}

/* The loop's part */

static bool begin(struct disk *disk)
{
    struct disk_merge *m = &disk->merge;
    unsigned frozen = disk_frozen(disk);
    unsigned above = frozen == disk->birth_layers ? DISK_MERGE_ABOVE_AT_BIRTH : DISK_MERGE_ABOVE;
    if (disk->private_layer < 0 || frozen <= above)
        return false;
    memcpy(m->candidate, disk->order, frozen * sizeof *disk->order);
    memset(m->live, 0, sizeof m->live);
    memset(m->leaves, 0, sizeof m->leaves);
    m->candidates = frozen;
    m->leaving = 0;
    m->block = 0;
    m->rc = 0;
    set_phase(disk, MERGE_COUNT);
    return true;
}

static void leave_row(struct disk *disk)
{
    unsigned stay = 0, birth = 0;
    for (unsigned i = 0; i < disk->layers; i++) {
        if (disk->merge.leaves[place_of_slot(disk->order[i])])
            continue;
        birth += i < disk->birth_layers;
        disk->order[stay++] = disk->order[i];
    }
    disk->layers = disk->opened = stay;
    disk->birth_layers = birth;
    disk->row.merges++;
}

bool disk_merge(struct disk *disk)
{
    switch (phase_of(disk)) {
    case MERGE_IDLE:
    case MERGE_CLOSED:
        set_phase(disk, MERGE_IDLE);
        return begin(disk);
    case MERGE_COPIED:
        leave_row(disk);
        set_phase(disk, MERGE_CLOSE);
        return true;
    case MERGE_FAILED:
        log_warn("the disk has %u layers, which cannot be merged now: %s", disk->layers,
                 strerrordesc_np(-disk->merge.rc));
        set_phase(disk, MERGE_IDLE);
        return false;
    default:
        return true;
    }
}
