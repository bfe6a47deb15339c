/* fuzz_blk.c: whatever requests a guest makes, the backend sees only good ones, each is done, refused or breaks the
 * device, and none is lost: across stalls, forks and resets.
 *
 * The input is a script, as in fuzz_vsock.c. */
#include "base/log.h"
#include "dev/blk.h"
#include "tests/unit/driver.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { DISK = 64 << 10, STEPS_MAX = 200, PATIENCE_MS = 10000 };

struct script {
    const uint8_t *at;
    size_t left;
};

struct world {
    struct driver d;
    struct blk blk;
    struct loop loop;
    struct blk_backend backend;
    _Atomic int fail; /* what the backend answers from now on */
    bool stalled;
    uint8_t disk[DISK];
};

static void check(bool ok)
{
    if (!ok)
        abort();
}

static uint8_t byte(struct script *s)
{
    if (!s->left)
        return 0;
    s->left--;
    return *s->at++;
}

static uint32_t word(struct script *s)
{
    uint32_t v = byte(s);
    v |= (uint32_t)byte(s) << 8;
    v |= (uint32_t)byte(s) << 16;
    return v | (uint32_t)byte(s) << 24;
}

static void check_range(uint64_t at, uint64_t len)
{
    check(at % BLK_SECTOR == 0 && len % BLK_SECTOR == 0 && at <= DISK && len <= DISK - at);
}

static int move(struct world *w, const struct iovec *iov, unsigned count, uint64_t at, bool write)
{
    uint64_t total = 0;
    for (unsigned i = 0; i < count; i++)
        total += iov[i].iov_len;
    check(total > 0);
    check_range(at, total);
    for (unsigned i = 0; i < count && !w->fail; at += iov[i++].iov_len)
        memmove(write ? w->disk + at : iov[i].iov_base, write ? iov[i].iov_base : w->disk + at, iov[i].iov_len);
    return w->fail;
}

static int do_read(void *disk, const struct iovec *iov, unsigned count, uint64_t at)
{
    return move(disk, iov, count, at, false);
}

static int do_write(void *disk, const struct iovec *iov, unsigned count, uint64_t at)
{
    return move(disk, iov, count, at, true);
}

static int do_zero(void *disk, uint64_t at, uint64_t len)
{
    struct world *w = disk;
    check_range(at, len);
    memset(w->disk + at, 0, (size_t)len);
    return w->fail;
}

static int do_flush(void *disk)
{
    return ((struct world *)disk)->fail;
}

static void on_stall(struct blk *blk, const struct err *why)
{
    struct world *w = (struct world *)((char *)blk - offsetof(struct world, blk));
    check(why->code == ENOSPC && why->text[0]);
    w->stalled = true;
}

static bool in_flight(struct world *w)
{
    bool any = false;
    pthread_mutex_lock(&w->blk.mutex);
    for (unsigned i = 0; i < VIRTQ_SIZE_MAX; i++)
        any |= w->blk.entry[i].state != BLK_FREE;
    pthread_mutex_unlock(&w->blk.mutex);
    return any;
}

/* Until nothing is in flight, or the device stalls. */
static void rest(struct world *w)
{
    while (in_flight(w) && virtio_is_running(&w->blk.virtio) && !w->stalled)
        check(driver_step(&w->d, &w->loop, PATIENCE_MS));
    driver_settle(&w->d, &w->loop);
}

/* A chain of up to eight pieces. The header is mostly good. */
static void request(struct world *w, struct script *s)
{
    struct driver_buf bufs[10];
    uint8_t how = byte(s);
    unsigned n = 0;
    uint64_t gpa = driver_alloc(&w->d, 16);
    uint8_t *header = driver_at(&w->d, gpa, 16);
    uint32_t type = byte(s) % 16;
    uint64_t sector = how & 1 ? word(s) : byte(s) % (DISK / BLK_SECTOR + 4);
    if (how & 2)
        sector |= (uint64_t)word(s) << 32;
    memcpy(header, &type, 4);
    memcpy(header + 8, &sector, 8);
    bufs[n++] = (struct driver_buf){gpa, how & 4 ? byte(s) % 20 : 16, false};
    for (unsigned pieces = how >> 4 & 7; pieces; pieces--) {
        uint8_t b = byte(s);
        uint32_t len = b & 64 ? word(s) % (1 << 17) : (uint32_t)(b % 9) * BLK_SECTOR / 2;
        if (!len)
            len = 16;
        uint64_t at = driver_alloc(&w->d, len);
        if (b & 32)
            for (uint32_t i = 0; i < len && i < 48; i++)
                *(uint8_t *)driver_at(&w->d, at + i, 1) = byte(s);
        bufs[n++] = (struct driver_buf){at, len, b & 128};
    }
    bufs[n++] = (struct driver_buf){driver_alloc(&w->d, 1), 1, !(how & 8)};
    for (unsigned i = 0; i < n; i++)
        if (!bufs[i].len)
            bufs[i].len = 1;
    driver_add(&w->d, 0, bufs, n);
    driver_kick(&w->d, 0);
}

/* The device in another life, with the same guest and disk. */
static void fork_device(struct world *w)
{
    static uint8_t state[4096];
    struct err err = {0};
    struct pack p = pack_into(state, sizeof state);
    virtio_save(&w->blk.virtio, &p);
    check(!p.full);
    blk_detach(&w->blk);
    blk_init(&w->blk, &w->d.gmem, DISK, false);
    w->blk.on_stall = on_stall;
    driver_connect(&w->d, &w->blk.virtio);
    struct unpack u = unpack_from(state, p.len);
    check(virtio_load(&w->blk.virtio, &u, &err) == 0 && unpack_done(&u));
    check(blk_attach(&w->blk, &w->loop, &w->backend, &err) == 0);
    w->stalled = false;
    virtio_resume(&w->blk.virtio);
}

static void step(struct world *w, struct script *s)
{
    static const int answers[] = {0, 0, -EIO, -ENOSPC};
    switch (byte(s) % 8) {
    case 0:
    case 1:
    case 2:
        request(w, s);
        break;
    case 3:
        w->fail = answers[byte(s) % 4];
        w->stalled = false;
        blk_retry(&w->blk);
        break;
    case 4:
        fork_device(w);
        break;
    case 5:
        rest(w);
        break;
    case 6:
        driver_probe(&w->d, &w->blk.virtio);
        w->stalled = false;
        break;
    case 7:
        if (byte(s) & 1)
            driver_offer(&w->d, 0, byte(s) % (DRIVER_QUEUE_SIZE + 2));
        else
            driver_set_desc(&w->d, 0, byte(s) % DRIVER_QUEUE_SIZE, word(s), word(s), byte(s) & 7, byte(s));
        driver_kick(&w->d, 0);
        break;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct world w;
    struct script s = {data, size};
    log_init(LOG_ERROR, "fuzz");
    memset(&w, 0, sizeof w);
    w.backend = (struct blk_backend){&w, do_read, do_write, do_zero, do_zero, do_flush, NULL};
    driver_init(&w.d, DRIVER_RAM * 4);
    blk_init(&w.blk, &w.d.gmem, DISK, false);
    w.blk.on_stall = on_stall;
    check(loop_init(&w.loop, NULL) == 0 && blk_attach(&w.blk, &w.loop, &w.backend, NULL) == 0);
    driver_probe(&w.d, &w.blk.virtio);
    for (int i = 0; s.left && i < STEPS_MAX && w.d.heap < DRIVER_RAM * 3; i++)
        step(&w, &s);
    w.fail = 0;
    w.stalled = false;
    blk_retry(&w.blk);
    rest(&w);
    check(!w.stalled && (!in_flight(&w) || !virtio_is_running(&w.blk.virtio)));
    blk_detach(&w.blk);
    loop_destroy(&w.loop);
    driver_destroy(&w.d);
    return 0;
}
