/* blk.c: see blk.h. Section numbers are those of virtio 1.2. */
#include "dev/blk.h"

#include "base/log.h"
#include "base/own.h"

#include <assert.h>
#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/eventfd.h>

enum { BLK_ID = 2, QUEUE = 0 };

/* 5.2.3 */
#define F_SEG_MAX      (UINT64_C(1) << 2)
#define F_RO           (UINT64_C(1) << 5)
#define F_BLK_SIZE     (UINT64_C(1) << 6)
#define F_FLUSH        (UINT64_C(1) << 9)
#define F_DISCARD      (UINT64_C(1) << 13)
#define F_WRITE_ZEROES (UINT64_C(1) << 14)

enum { RANGES_MAX = 16, RANGE_SECTORS_MAX = 1 << 21 }; /* 1 GiB a range */

/* 5.2.4 */
struct blk_config {
    uint64_t capacity; /* sectors */
    uint32_t size_max, seg_max;
    uint16_t cylinders;
    uint8_t heads, sectors;
    uint32_t blk_size;
    uint8_t physical_block_exp, alignment_offset;
    uint16_t min_io_size;
    uint32_t opt_io_size;
    uint8_t writeback, unused0;
    uint16_t num_queues;
    uint32_t max_discard_sectors, max_discard_seg, discard_sector_alignment;
    uint32_t max_write_zeroes_sectors, max_write_zeroes_seg;
    uint8_t write_zeroes_may_unmap, unused1[3];
} __attribute__((packed));
static_assert(sizeof(struct blk_config) == 60, "the configuration as 5.2.4 has it");

/* 5.2.6 */
struct blk_header {
    uint32_t type, reserved;
    uint64_t sector;
};
static_assert(sizeof(struct blk_header) == 16, "a request's header as 5.2.6 has it");

struct blk_range {
    uint64_t sector;
    uint32_t sectors, flags;
};
static_assert(sizeof(struct blk_range) == 16, "a range to discard as 5.2.6 has it");

enum { T_IN = 0, T_OUT = 1, T_FLUSH = 4, T_GET_ID = 8, T_DISCARD = 11, T_WRITE_ZEROES = 13 };
enum { S_OK = 0, S_IOERR = 1, S_UNSUPP = 2 };
enum { RANGE_UNMAP = 1 };

/* Requests: on the worker's thread */

static bool is_out_of_space(int rc)
{
    return rc == -ENOSPC || rc == -EDQUOT;
}

static bool range_fits(const struct blk *blk, uint64_t sector, uint64_t len)
{
    uint64_t sectors = blk->bytes / BLK_SECTOR;
    return len % BLK_SECTOR == 0 && sector <= sectors && len / BLK_SECTOR <= sectors - sector;
}

static int transfer_in(struct blk *blk, const struct virtq_chain *chain, uint64_t sector, uint32_t len)
{
    struct iovec iov[VIRTQ_CHAIN_MAX];
    if (!range_fits(blk, sector, len))
        return -EIO;
    unsigned count = virtq_chain_iov(chain, blk->virtio.gmem, true, 0, len, iov);
    int rc = len ? blk->backend->read(blk->backend->disk, iov, count, sector * BLK_SECTOR) : 0;
    virtq_chain_mark(chain, blk->virtio.gmem, 0, len);
    return rc;
}

static int transfer_out(struct blk *blk, const struct virtq_chain *chain, uint64_t sector, uint32_t len)
{
    struct iovec iov[VIRTQ_CHAIN_MAX];
    if (blk->read_only || !range_fits(blk, sector, len))
        return -EIO;
    unsigned count = virtq_chain_iov(chain, blk->virtio.gmem, false, sizeof(struct blk_header), len, iov);
    return len ? blk->backend->write(blk->backend->disk, iov, count, sector * BLK_SECTOR) : 0;
}

/* DISCARD and WRITE_ZEROES: a list of ranges, each done or refused as a whole. */
static int do_ranges(struct blk *blk, const struct virtq_chain *chain, uint32_t type, uint32_t len)
{
    struct blk_range ranges[RANGES_MAX];
    uint32_t known = type == T_WRITE_ZEROES ? RANGE_UNMAP : 0;
    if (blk->read_only || len == 0 || len % sizeof *ranges || len > sizeof ranges)
        return -EIO;
    if (virtq_chain_read(chain, blk->virtio.gmem, sizeof(struct blk_header), ranges, len) != len)
        return -EIO;
    for (uint32_t i = 0; i < len / sizeof *ranges; i++) {
        const struct blk_range *r = &ranges[i];
        if (r->flags & ~known) /* 5.2.6.2 */
            return -EOPNOTSUPP;
        uint64_t bytes = (uint64_t)r->sectors * BLK_SECTOR;
        if (r->sectors > RANGE_SECTORS_MAX || !range_fits(blk, r->sector, bytes))
            return -EIO;
        int (*fn)(void *, uint64_t, uint64_t) = type == T_DISCARD ? blk->backend->discard : blk->backend->write_zeroes;
        int rc = fn(blk->backend->disk, r->sector * BLK_SECTOR, bytes);
        if (rc < 0)
            return rc;
    }
    return 0;
}

/* `in` and `out` are the bytes of data behind the header and before the status. */
static int request_do(struct blk *blk, const struct virtq_chain *chain, uint32_t out, uint32_t in, uint32_t *written)
{
    struct blk_header header;
    int rc;
    virtq_chain_read(chain, blk->virtio.gmem, 0, &header, sizeof header);
    *written = 0;
    switch (header.type) {
    case T_IN:
        rc = transfer_in(blk, chain, header.sector, in);
        *written = rc == 0 ? in : 0;
        return rc;
    case T_OUT:
        return transfer_out(blk, chain, header.sector, out);
    case T_FLUSH:
        return blk->backend->flush(blk->backend->disk);
    case T_GET_ID:
        *written = virtq_chain_write(chain, blk->virtio.gmem, 0, blk->id, in < sizeof blk->id ? in : sizeof blk->id);
        return 0;
    case T_DISCARD:
    case T_WRITE_ZEROES:
        return do_ranges(blk, chain, header.type, out);
    default:
        return -EOPNOTSUPP;
    }
}

/* 0 and *len; -EINVAL: the chain lies; out of space: nothing is to be returned to the driver. */
static int chain_do(struct blk *blk, const struct virtq *ring, uint16_t head, uint32_t *len)
{
    struct virtq_chain chain;
    uint32_t written;
    if (virtq_walk(ring, blk->virtio.gmem, head, &chain) < 0 || chain.readable_len < sizeof(struct blk_header) ||
        chain.writable_len < 1)
        return -EINVAL;
    uint32_t in = chain.writable_len - 1;
    int rc = request_do(blk, &chain, chain.readable_len - (uint32_t)sizeof(struct blk_header), in, &written);
    if (is_out_of_space(rc))
        return rc;
    uint8_t status = rc == 0 ? S_OK : rc == -EOPNOTSUPP ? S_UNSUPP : S_IOERR;
    virtq_chain_write(&chain, blk->virtio.gmem, in, &status, sizeof status);
    *len = written == in ? in + 1 : written; /* the status is the last byte: counted where all before it is */
    return 0;
}

static void tell_loop(struct blk *blk)
{
    const uint64_t one = 1;
    ssize_t n = write(blk->done_fd, &one, sizeof one);
    (void)n; /* EAGAIN: the loop was told already */
}

static bool steps_are_due(const struct blk *blk)
{
    return blk->tending && !blk->stalled && (!blk->queue_len || blk->untended >= BLK_TEND_EVERY);
}

/* Steps of the backend's own work until a request waits, one at least. Without the mutex, and without taking it in
 * between: steps may be so short that others would hardly get it. */
static void steps_do(struct blk *blk)
{
    bool more;
    blk->untended = 0;
    __atomic_store_n(&blk->wanted, blk->queue_len > 0, __ATOMIC_RELAXED);
    pthread_mutex_unlock(&blk->mutex);
    do
        more = blk->backend->tend(blk->backend->disk);
    while (more && !__atomic_load_n(&blk->wanted, __ATOMIC_RELAXED));
    pthread_mutex_lock(&blk->mutex);
    if (more)
        return;
    blk->tending = false;
    blk->tended = true;
    tell_loop(blk);
}

/* The entry to do next, or -1 when the worker is to end. */
static int work_take(struct blk *blk)
{
    while (!blk->stop && (blk->stalled || !blk->queue_len || steps_are_due(blk))) {
        if (steps_are_due(blk))
            steps_do(blk);
        else
            pthread_cond_wait(&blk->work, &blk->mutex);
    }
    if (blk->stop)
        return -1;
    blk->untended++;
    int i = blk->queue[blk->queue_at];
    blk->queue_at = (blk->queue_at + 1) % VIRTQ_SIZE_MAX;
    blk->queue_len--;
    blk->entry[i].state = BLK_TAKEN;
    blk->busy = true;
    return i;
}

static void work_put(struct blk *blk, int i, int rc, uint32_t len)
{
    struct blk_entry *e = &blk->entry[i];
    blk->busy = false;
    if (is_out_of_space(rc)) {
        blk->stalled = true;
        blk->stall_told = false;
        blk->stall_rc = rc;
        e->state = BLK_QUEUED;
        blk->queue_at = (blk->queue_at + VIRTQ_SIZE_MAX - 1) % VIRTQ_SIZE_MAX;
        blk->queue[blk->queue_at] = (uint16_t)i;
        blk->queue_len++;
    } else {
        e->state = BLK_DONE;
        e->rc = rc;
        e->len = len;
    }
    pthread_cond_signal(&blk->idle);
    tell_loop(blk);
}

static void *worker_main(void *arg)
{
    struct blk *blk = arg;
    int i;
    pthread_mutex_lock(&blk->mutex);
    while ((i = work_take(blk)) >= 0) {
        uint32_t len = 0;
        const struct virtq ring = blk->ring;
        const uint16_t head = blk->entry[i].head;
        pthread_mutex_unlock(&blk->mutex);
        int rc = chain_do(blk, &ring, head, &len);
        pthread_mutex_lock(&blk->mutex);
        work_put(blk, i, rc, len);
    }
    pthread_mutex_unlock(&blk->mutex);
    return NULL;
}

/* The loop's side */

/* All signals blocked: those of the process, and the kick of its vCPUs, are for other threads. */
static int worker_start(struct blk *blk)
{
    sigset_t all, before;
    if (blk->started)
        return 0;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int rc = pthread_create(&blk->worker, NULL, worker_main, blk);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    blk->started = rc == 0;
    return -rc;
}

/* Has the worker look up, whatever it does between requests. */
static void worker_want(struct blk *blk)
{
    __atomic_store_n(&blk->wanted, true, __ATOMIC_RELAXED);
    pthread_cond_signal(&blk->work);
}

/* Appends an entry that holds a head to the worker's queue. */
static void enqueue(struct blk *blk, unsigned i)
{
    blk->entry[i].state = BLK_QUEUED;
    blk->queue[(blk->queue_at + blk->queue_len++) % VIRTQ_SIZE_MAX] = (uint16_t)i;
}

/* Has the worker look at its queue. A worker that cannot be started is a stall. */
static void work_begin(struct blk *blk)
{
    pthread_mutex_lock(&blk->mutex);
    blk->ring = blk->virtio.queue[QUEUE];
    int rc = blk->queue_len ? worker_start(blk) : 0;
    if (rc < 0 && !blk->stalled) {
        blk->stalled = true;
        blk->stall_told = false;
        blk->stall_rc = rc;
        tell_loop(blk);
    }
    worker_want(blk);
    pthread_mutex_unlock(&blk->mutex);
}

/* A free entry, lowest first, so that a device with little in flight touches little memory; -1: none. */
static int entry_free(const struct blk *blk)
{
    for (int i = 0; i < VIRTQ_SIZE_MAX; i++)
        if (blk->entry[i].state == BLK_FREE)
            return i;
    return -1;
}

static void blk_notify(struct virtio_dev *dev, unsigned queue)
{
    struct blk *blk = (struct blk *)dev;
    int rc = 0, i;
    if (!blk->loop)
        return;
    pthread_mutex_lock(&blk->mutex);
    while ((i = entry_free(blk)) >= 0) {
        rc = virtq_pop_head(&dev->queue[queue], dev->gmem, &blk->entry[i].head);
        if (rc <= 0)
            break;
        enqueue(blk, (unsigned)i);
    }
    pthread_mutex_unlock(&blk->mutex);
    work_begin(blk);
    if (rc < 0)
        virtio_break(dev, "a malformed ring");
}

/* Returns what is done to the driver. */
static void complete(struct blk *blk)
{
    struct virtio_dev *dev = &blk->virtio;
    bool pushed = false, lied = false, stalled = false, tended = false;
    pthread_mutex_lock(&blk->mutex);
    for (unsigned i = 0; i < VIRTQ_SIZE_MAX; i++) {
        struct blk_entry *e = &blk->entry[i];
        if (e->state != BLK_DONE)
            continue;
        e->state = BLK_FREE;
        lied |= e->rc < 0;
        if (e->rc < 0 || !virtio_is_running(dev))
            continue;
        virtq_push(&dev->queue[QUEUE], dev->gmem, e->head, e->len);
        pushed = true;
    }
    stalled = blk->stalled && !blk->stall_told;
    blk->stall_told |= stalled;
    tended = blk->tended;
    blk->tended = false;
    pthread_mutex_unlock(&blk->mutex);
    if (pushed)
        virtio_interrupt(dev, QUEUE);
    if (lied)
        virtio_break(dev, "a malformed request");
    if (stalled && blk->on_stall) {
        struct err why = {0};
        err_set(&why, -blk->stall_rc, "%s", blk->started ? "write to the disk" : "start the worker of the disk");
        blk->on_stall(blk, &why);
    }
    if (tended && blk->on_tended)
        blk->on_tended(blk);
}

static void on_done(struct loop_source *source, uint32_t events)
{
    struct blk *blk = list_entry(source, struct blk, done);
    uint64_t count;
    virtio_lock(&blk->virtio);
    if (read(blk->done_fd, &count, sizeof count) == sizeof count) {
        complete(blk);
        /* The table may have been full: what waited in the ring was not notified again. */
        if (virtio_is_running(&blk->virtio) && virtq_waiting(&blk->virtio.queue[QUEUE], blk->virtio.gmem))
            blk_notify(&blk->virtio, QUEUE);
    }
    virtio_unlock(&blk->virtio);
}

bool blk_is_stalled(struct blk *blk)
{
    if (!blk->loop)
        return false;
    pthread_mutex_lock(&blk->mutex);
    bool stalled = blk->stalled;
    pthread_mutex_unlock(&blk->mutex);
    return stalled;
}

void blk_retry(struct blk *blk)
{
    if (!blk->loop)
        return;
    pthread_mutex_lock(&blk->mutex);
    blk->stalled = false;
    pthread_mutex_unlock(&blk->mutex);
    work_begin(blk);
}

void blk_tend(struct blk *blk)
{
    if (!blk->loop || !blk->backend->tend)
        return;
    pthread_mutex_lock(&blk->mutex);
    blk->tending = true;
    if (worker_start(blk) == 0)
        worker_want(blk);
    pthread_mutex_unlock(&blk->mutex);
}

/* The device */

static void blk_config(struct virtio_dev *dev, uint32_t at, void *into, uint32_t len)
{
    const struct blk *blk = (const struct blk *)dev;
    const struct blk_config config = {
        .capacity = blk->bytes / BLK_SECTOR,
        .seg_max = BLK_SEGMENTS_MAX,
        .blk_size = BLK_BLOCK,
        .num_queues = 1,
        .max_discard_sectors = RANGE_SECTORS_MAX,
        .max_discard_seg = RANGES_MAX,
        .discard_sector_alignment = BLK_BLOCK / BLK_SECTOR,
        .max_write_zeroes_sectors = RANGE_SECTORS_MAX,
        .max_write_zeroes_seg = RANGES_MAX,
        .write_zeroes_may_unmap = 1,
    };
    memset(into, 0, len);
    if (at < sizeof config)
        memcpy(into, (const uint8_t *)&config + at, len < sizeof config - at ? len : sizeof config - at);
}

static void entries_clear(struct blk *blk)
{
    for (unsigned i = 0; i < VIRTQ_SIZE_MAX; i++)
        if (blk->entry[i].state != BLK_FREE) /* untouched memory stays so */
            blk->entry[i].state = BLK_FREE;
}

static void blk_reset(struct virtio_dev *dev)
{
    struct blk *blk = (struct blk *)dev;
    if (!blk->loop) {
        entries_clear(blk);
        return;
    }
    pthread_mutex_lock(&blk->mutex);
    blk->queue_len = 0;
    blk->stalled = false;
    while (blk->busy)
        pthread_cond_wait(&blk->idle, &blk->mutex);
    /* The request it was in may have stalled meanwhile. */
    blk->queue_len = 0;
    blk->stalled = false;
    entries_clear(blk);
    pthread_mutex_unlock(&blk->mutex);
}

static void blk_save(struct virtio_dev *dev, struct pack *p)
{
    struct blk *blk = (struct blk *)dev;
    uint32_t count = 0;
    if (blk->loop)
        pthread_mutex_lock(&blk->mutex);
    for (unsigned i = 0; i < VIRTQ_SIZE_MAX; i++)
        count += blk->entry[i].state != BLK_FREE;
    pack_u32(p, count);
    for (unsigned i = 0; i < VIRTQ_SIZE_MAX; i++)
        if (blk->entry[i].state != BLK_FREE)
            pack_u16(p, blk->entry[i].head);
    if (blk->loop)
        pthread_mutex_unlock(&blk->mutex);
}

/* While there is no worker: a device that is attached loads nothing. */
static int blk_load(struct virtio_dev *dev, struct unpack *u, struct err *err)
{
    struct blk *blk = (struct blk *)dev;
    uint32_t count = unpack_u32(u);
    if (u->bad || blk->loop || count > VIRTQ_SIZE_MAX)
        return err_say(err, EINVAL, "the device's state is malformed");
    entries_clear(blk);
    for (uint32_t i = 0; i < count; i++) {
        uint16_t head = unpack_u16(u);
        if (!dev->queue[QUEUE].ready) /* the driver took the queue away: there is nobody to return it to */
            continue;
        if (head >= dev->queue[QUEUE].size)
            return err_say(err, EINVAL, "a request in flight is malformed");
        blk->entry[i].head = head;
        blk->entry[i].state = BLK_QUEUED;
    }
    if (u->bad)
        return err_say(err, EINVAL, "the device's state is cut off");
    return 0;
}

static void blk_resume(struct virtio_dev *dev)
{
    struct blk *blk = (struct blk *)dev;
    if (blk->loop)
        work_begin(blk);
}

static const struct virtio_kind blk_kind = {
    .name = "blk",
    .id = BLK_ID,
    .queues = 1,
    .config = blk_config,
    .notify = blk_notify,
    .reset = blk_reset,
    .save = blk_save,
    .load = blk_load,
    .resume = blk_resume,
};

void blk_init(struct blk *blk, struct gmem *gmem, uint64_t bytes, bool read_only)
{
    *blk = (struct blk){.bytes = (bytes + BLK_BLOCK - 1) / BLK_BLOCK * BLK_BLOCK,
                        .read_only = read_only,
                        .id = "forkd",
                        .done_fd = -1,
                        .done.fd = -1};
    virtio_init(&blk->virtio, &blk_kind, gmem);
    blk->virtio.features = F_SEG_MAX | F_BLK_SIZE | F_FLUSH | (read_only ? F_RO : F_DISCARD | F_WRITE_ZEROES);
}

int blk_attach(struct blk *blk, struct loop *loop, const struct blk_backend *backend, struct err *err)
{
    own_fd int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (fd < 0)
        return err_set(err, errno, "eventfd of the disk");
    blk->done = (struct loop_source){.fd = -1, .fn = on_done};
    int rc = loop_add(loop, &blk->done, fd, EPOLLIN, err);
    if (rc < 0)
        return rc;
    pthread_mutex_init(&blk->mutex, NULL);
    pthread_cond_init(&blk->work, NULL);
    pthread_cond_init(&blk->idle, NULL);
    blk->stop = blk->busy = blk->stalled = blk->stall_told = blk->started = blk->tending = blk->tended = false;
    blk->queue_at = blk->queue_len = blk->untended = 0;
    for (unsigned i = 0; i < VIRTQ_SIZE_MAX; i++) /* of an earlier life */
        if (blk->entry[i].state != BLK_FREE)
            enqueue(blk, i);
    blk->done_fd = steal_fd(&fd);
    blk->backend = backend;
    blk->loop = loop;
    return 0;
}

void blk_detach(struct blk *blk)
{
    if (!blk->loop)
        return;
    pthread_mutex_lock(&blk->mutex);
    blk->stop = true;
    worker_want(blk);
    pthread_mutex_unlock(&blk->mutex);
    if (blk->started)
        pthread_join(blk->worker, NULL);
    loop_remove(blk->loop, &blk->done);
    fd_close(&blk->done_fd);
    pthread_cond_destroy(&blk->idle);
    pthread_cond_destroy(&blk->work);
    pthread_mutex_destroy(&blk->mutex);
    blk->loop = NULL;
    blk->backend = NULL;
    blk->started = false;
}
