/* blk.c: claims about src/dev/blk.c: requests, their errors, those in flight across a fork, stalls, resets, the
 * backend's own work. */
#include "dev/blk.h"
#include "driver.h"

#include <errno.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { DISK = 1 << 20, PATIENCE_MS = 20000 };
enum { IN = 0, OUT = 1, FLUSH = 4, GET_ID = 8, DISCARD = 11, WRITE_ZEROES = 13 };
enum { OK = 0, IOERR = 1, UNSUPP = 2, NO_STATUS = 0xee };

/* A disk in memory that can be made to wait or to fail. */
struct fake {
    struct blk_backend backend;
    pthread_mutex_t mutex;
    pthread_cond_t cond;
    bool closed;      /* requests wait at the gate */
    unsigned waiting; /* at the gate now */
    unsigned done;    /* requests that passed it */
    int fail;         /* what they return instead of working */
    unsigned chores;  /* steps of its own that are left */
    unsigned done_at_step[64], steps;
    uint8_t bytes[DISK];
};

struct host {
    struct driver d;
    struct blk blk;
    struct loop loop;
    struct fake *fake;
    unsigned stalls, tended;
    int stall_code;
};

static int pass_gate(struct fake *f)
{
    pthread_mutex_lock(&f->mutex);
    f->waiting++;
    pthread_cond_broadcast(&f->cond);
    while (f->closed)
        pthread_cond_wait(&f->cond, &f->mutex);
    f->waiting--;
    f->done++;
    int rc = f->fail;
    pthread_mutex_unlock(&f->mutex);
    return rc;
}

static void gate_set(struct fake *f, bool closed)
{
    pthread_mutex_lock(&f->mutex);
    f->closed = closed;
    pthread_cond_broadcast(&f->cond);
    pthread_mutex_unlock(&f->mutex);
}

static void gate_await(struct fake *f)
{
    pthread_mutex_lock(&f->mutex);
    while (!f->waiting)
        pthread_cond_wait(&f->cond, &f->mutex);
    pthread_mutex_unlock(&f->mutex);
}

static int fake_move(struct fake *f, const struct iovec *iov, unsigned count, uint64_t at, bool write)
{
    int rc = pass_gate(f);
    if (rc < 0)
        return rc;
    for (unsigned i = 0; i < count; at += iov[i++].iov_len) {
        if (at + iov[i].iov_len > DISK)
            abort();
        if (write)
            memcpy(f->bytes + at, iov[i].iov_base, iov[i].iov_len);
        else
            memcpy(iov[i].iov_base, f->bytes + at, iov[i].iov_len);
    }
    return 0;
}

static int fake_read(void *disk, const struct iovec *iov, unsigned count, uint64_t at)
{
    return fake_move(disk, iov, count, at, false);
}

static int fake_write(void *disk, const struct iovec *iov, unsigned count, uint64_t at)
{
    return fake_move(disk, iov, count, at, true);
}

static int fake_zero(void *disk, uint64_t at, uint64_t len)
{
    struct fake *f = disk;
    int rc = pass_gate(f);
    if (rc == 0 && at + len > DISK)
        abort();
    if (rc == 0)
        memset(f->bytes + at, 0, len);
    return rc;
}

static int fake_flush(void *disk)
{
    return pass_gate(disk);
}

static bool fake_tend(void *disk)
{
    struct fake *f = disk;
    pthread_mutex_lock(&f->mutex);
    if (f->steps < sizeof f->done_at_step / sizeof *f->done_at_step)
        f->done_at_step[f->steps] = f->done;
    f->steps++;
    bool more = --f->chores;
    pthread_mutex_unlock(&f->mutex);
    return more;
}

static void on_tended(struct blk *blk)
{
    struct host *h = (struct host *)((char *)blk - offsetof(struct host, blk));
    h->tended++;
}

static void on_stall(struct blk *blk, const struct err *why)
{
    struct host *h = (struct host *)((char *)blk - offsetof(struct host, blk));
    h->stalls++;
    h->stall_code = why->code;
}

static struct fake *fake_new(void)
{
    struct fake *f = calloc(1, sizeof *f);
    assert_non_null(f);
    pthread_mutex_init(&f->mutex, NULL);
    pthread_cond_init(&f->cond, NULL);
    f->backend = (struct blk_backend){f, fake_read, fake_write, fake_zero, fake_zero, fake_flush, fake_tend};
    for (uint32_t i = 0; i < DISK; i++)
        f->bytes[i] = (uint8_t)(i / BLK_SECTOR);
    return f;
}

static void host_up(struct host *h)
{
    h->fake = fake_new();
    h->blk.on_stall = on_stall;
    h->blk.on_tended = on_tended;
    assert_int_equal(loop_init(&h->loop, NULL), 0);
    assert_int_equal(blk_attach(&h->blk, &h->loop, &h->fake->backend, NULL), 0);
}

static struct host *host_new(bool read_only)
{
    struct host *h = calloc(1, sizeof *h);
    assert_non_null(h);
    driver_init(&h->d, DRIVER_RAM);
    blk_init(&h->blk, &h->d.gmem, DISK, read_only);
    host_up(h);
    driver_probe(&h->d, &h->blk.virtio);
    return h;
}

static void host_end(struct host *h)
{
    gate_set(h->fake, false);
    blk_detach(&h->blk);
    loop_destroy(&h->loop);
    pthread_cond_destroy(&h->fake->cond);
    pthread_mutex_destroy(&h->fake->mutex);
    free(h->fake);
    driver_destroy(&h->d);
    free(h);
}

/* The same guest in another life, before its device is attached. */
static struct host *host_fork_state(struct host *h)
{
    uint8_t state[2048];
    struct pack p = pack_into(state, sizeof state);
    virtio_save(&h->blk.virtio, &p);
    assert_false(p.full);
    struct host *child = calloc(1, sizeof *child);
    assert_non_null(child);
    driver_fork(&child->d, &h->d);
    blk_init(&child->blk, &child->d.gmem, DISK, h->blk.read_only);
    driver_connect(&child->d, &child->blk.virtio);
    struct unpack u = unpack_from(state, p.len);
    assert_int_equal(virtio_load(&child->blk.virtio, &u, NULL), 0);
    assert_true(unpack_done(&u));
    return child;
}

/* A request as the driver holds it. */
struct request {
    uint64_t gpa; /* header, data and status, one after the other */
    uint32_t len; /* of the data */
    uint16_t head;
};

static uint8_t *data_of(struct host *h, struct request r)
{
    return driver_at(&h->d, r.gpa + 16, r.len + 1);
}

static uint8_t status_of(struct host *h, struct request r)
{
    return data_of(h, r)[r.len];
}

static struct request submit(struct host *h, uint32_t type, uint64_t sector, uint32_t len, const void *data)
{
    struct request r = {driver_alloc(&h->d, 16 + len + 1), len, 0};
    uint8_t *at = driver_at(&h->d, r.gpa, 16 + len + 1);
    bool in = type == IN || type == GET_ID;
    memcpy(at, &type, 4);
    memcpy(at + 8, &sector, 8);
    if (data)
        memcpy(at + 16, data, len);
    at[16 + len] = NO_STATUS;
    struct driver_buf bufs[3] = {{r.gpa, 16, false}, {r.gpa + 16, len, in}, {r.gpa + 16 + len, 1, true}};
    if (!len)
        bufs[1] = bufs[2];
    r.head = driver_add(&h->d, 0, bufs, len ? 3 : 2);
    driver_kick(&h->d, 0);
    return r;
}

static uint32_t await(struct host *h, uint16_t head)
{
    uint16_t got;
    uint32_t len;
    while (!driver_take(&h->d, 0, &got, &len))
        assert_true(driver_step(&h->d, &h->loop, PATIENCE_MS));
    assert_int_equal(got, head);
    return len;
}

static uint8_t ask(struct host *h, uint32_t type, uint64_t sector, uint32_t len, const void *data)
{
    struct request r = submit(h, type, sector, len, data);
    await(h, r.head);
    return status_of(h, r);
}

/* Claims */

static void an_idle_device_has_no_thread(void **state)
{
    struct host *h = host_new(false);
    driver_kick(&h->d, 0);
    assert_false(h->blk.started);
    assert_int_equal(ask(h, FLUSH, 0, 0, NULL), OK);
    assert_true(h->blk.started);
    host_end(h);
}

static void the_configuration_tells_the_driver_its_disk(void **state)
{
    struct host *h = host_new(false);
    assert_int_equal(driver_read32(&h->d, 0x100), DISK / BLK_SECTOR);
    assert_int_equal(driver_read32(&h->d, 0x100 + 12), BLK_SEGMENTS_MAX);
    assert_int_equal(driver_read32(&h->d, 0x100 + 20), BLK_BLOCK);
    assert_int_equal(driver_read32(&h->d, 0x100 + 64), 0);
    uint8_t last[8];
    virtio_mmio_read(&h->blk.virtio, 0x100 + 56, last, 8);
    assert_memory_equal(last, "\1\0\0\0\0\0\0\0", 8);
    host_end(h);
}

static void data_is_read_and_written(void **state)
{
    struct host *h = host_new(false);
    uint8_t block[BLK_BLOCK];
    memset(block, 0xa5, sizeof block);
    assert_int_equal(ask(h, OUT, 8, sizeof block, block), OK);
    assert_memory_equal(h->fake->bytes + BLK_BLOCK, block, sizeof block);
    struct request r = submit(h, IN, 7, 2 * BLK_SECTOR, NULL);
    assert_int_equal(await(h, r.head), r.len + 1);
    assert_int_equal(status_of(h, r), OK);
    assert_int_equal(data_of(h, r)[0], 7);
    assert_int_equal(data_of(h, r)[BLK_SECTOR], 0xa5);
    assert_true(h->d.raised > 0);
    host_end(h);
}

static void what_is_read_is_marked_when_it_is_complete(void **state)
{
    struct host *h = host_new(false);
    static uint64_t marks[DRIVER_RAM / GMEM_PAGE / 64];
    gate_set(h->fake, true);
    struct request r = submit(h, IN, 0, 3 * BLK_BLOCK, NULL);
    gate_await(h->fake);
    memset(marks, 0, sizeof marks);
    gmem_fetch_marks(&h->d.gmem, marks);                  /* a branch looks in the middle of the transfer */
    uint64_t page = (r.gpa + 16 + BLK_BLOCK) / GMEM_PAGE; /* of data alone: no status in it */
    assert_true(marks[page / 64] & UINT64_C(1) << (page % 64));
    gate_set(h->fake, false);
    await(h, r.head);
    memset(marks, 0, sizeof marks);
    gmem_fetch_marks(&h->d.gmem, marks);
    assert_true(marks[page / 64] & UINT64_C(1) << (page % 64));
    host_end(h);
}

static void ranges_are_discarded_and_zeroed(void **state)
{
    struct host *h = host_new(false);
    const struct {
        uint64_t sector;
        uint32_t sectors, flags;
    } two[] = {{8, 8, 0}, {32, 16, 0}}, unmap = {64, 8, 1}, beyond = {DISK / BLK_SECTOR - 1, 2, 0}, odd = {0, 8, 2};
    assert_int_equal(ask(h, DISCARD, 0, sizeof two, two), OK);
    assert_int_equal(h->fake->bytes[8 * 512], 0);
    assert_int_equal(h->fake->bytes[16 * 512], 16);
    assert_int_equal(h->fake->bytes[47 * 512], 0);
    assert_int_equal(ask(h, WRITE_ZEROES, 0, sizeof unmap, &unmap), OK);
    assert_int_equal(h->fake->bytes[71 * 512], 0);
    assert_int_equal(ask(h, WRITE_ZEROES, 0, sizeof beyond, &beyond), IOERR);
    assert_int_equal(ask(h, WRITE_ZEROES, 0, sizeof odd, &odd), UNSUPP);
    assert_int_equal(ask(h, DISCARD, 0, sizeof unmap, &unmap), UNSUPP);
    assert_int_equal(ask(h, DISCARD, 0, 15, two), IOERR);
    assert_int_equal(ask(h, DISCARD, 0, 0, NULL), IOERR);
    static uint8_t many[17 * 16];
    assert_int_equal(ask(h, DISCARD, 0, sizeof many, many), IOERR);
    host_end(h);
}

static void requests_that_make_no_sense_fail_alone(void **state)
{
    struct host *h = host_new(false);
    static uint8_t data[2 * BLK_BLOCK];
    assert_int_equal(ask(h, IN, DISK / BLK_SECTOR, BLK_SECTOR, NULL), IOERR);
    assert_int_equal(ask(h, IN, DISK / BLK_SECTOR - 1, BLK_BLOCK, NULL), IOERR);
    assert_int_equal(ask(h, IN, UINT64_MAX, BLK_SECTOR, NULL), IOERR);
    assert_int_equal(ask(h, IN, UINT64_MAX / BLK_SECTOR + 1, BLK_SECTOR, NULL), IOERR);
    assert_int_equal(ask(h, OUT, UINT64_C(1) << 63, BLK_SECTOR, data), IOERR);
    assert_int_equal(ask(h, OUT, 0, 100, data), IOERR);
    assert_int_equal(ask(h, 99, 0, 0, NULL), UNSUPP);
    assert_int_equal(ask(h, IN, 0, 0, NULL), OK);
    struct request r = submit(h, GET_ID, 0, 20, NULL);
    await(h, r.head);
    assert_int_equal(status_of(h, r), OK);
    assert_string_equal((char *)data_of(h, r), "forkd");
    assert_true(virtio_is_running(&h->blk.virtio));
    host_end(h);
}

static void a_read_only_disk_is_not_written(void **state)
{
    struct host *h = host_new(true);
    uint8_t block[BLK_BLOCK] = {1};
    assert_int_equal(ask(h, OUT, 0, sizeof block, block), IOERR);
    assert_int_equal(ask(h, DISCARD, 0, 16, block), IOERR);
    assert_int_equal(ask(h, IN, 0, sizeof block, NULL), OK);
    assert_int_equal(h->fake->done, 1);
    host_end(h);
}

static void an_error_of_the_backend_is_an_error_of_the_request(void **state)
{
    struct host *h = host_new(false);
    h->fake->fail = -EIO;
    assert_int_equal(ask(h, IN, 0, BLK_BLOCK, NULL), IOERR);
    assert_int_equal(ask(h, FLUSH, 0, 0, NULL), IOERR);
    assert_int_equal(h->stalls, 0);
    h->fake->fail = 0;
    assert_int_equal(ask(h, IN, 0, BLK_BLOCK, NULL), OK);
    host_end(h);
}

static void chains_that_lie_break_this_device(void **state)
{
    for (int kind = 0; kind < 5; kind++) {
        struct host *h = host_new(false);
        uint64_t gpa = driver_alloc(&h->d, 64);
        switch (kind) {
        case 0: /* a header too short */
            driver_add(&h->d, 0, (struct driver_buf[]){{gpa, 15, false}, {gpa + 32, 1, true}}, 2);
            break;
        case 1: /* no room for a status */
            driver_add(&h->d, 0, (struct driver_buf[]){{gpa, 16, false}}, 1);
            break;
        case 2: /* only room for answers */
            driver_add(&h->d, 0, (struct driver_buf[]){{gpa, 32, true}}, 1);
            break;
        case 3: /* outside memory */
            driver_add(&h->d, 0, (struct driver_buf[]){{gpa, 16, false}, {DRIVER_RAM - 1, 2, true}}, 2);
            break;
        case 4: /* outside the ring */
            driver_offer(&h->d, 0, DRIVER_QUEUE_SIZE);
            break;
        }
        driver_kick(&h->d, 0);
        while (virtio_is_running(&h->blk.virtio))
            assert_true(driver_step(&h->d, &h->loop, PATIENCE_MS));
        uint16_t head;
        uint32_t len;
        assert_false(driver_take(&h->d, 0, &head, &len));
        driver_probe(&h->d, &h->blk.virtio);
        assert_int_equal(ask(h, IN, 0, BLK_BLOCK, NULL), OK);
        host_end(h);
    }
}

/* The driver rewrites a request while the device works on it: what the device copied counts. */
static void a_chain_that_changes_while_it_is_served_harms_nobody(void **state)
{
    struct host *h = host_new(false);
    gate_set(h->fake, true);
    struct request r = submit(h, IN, 0, BLK_BLOCK, NULL);
    gate_await(h->fake);
    for (uint16_t i = 0; i < DRIVER_QUEUE_SIZE; i++)
        driver_set_desc(&h->d, 0, i, UINT64_MAX, UINT32_MAX, 7, 0xffff);
    memset(driver_at(&h->d, r.gpa, 16), 0xff, 16);
    gate_set(h->fake, false);
    await(h, r.head);
    assert_int_equal(status_of(h, r), OK);
    host_end(h);
}

static void more_requests_than_entries_all_end(void **state)
{
    struct host *h = host_new(false);
    uint16_t head;
    uint32_t len;
    unsigned ended = 0;
    gate_set(h->fake, true);
    /* The ring is offered over and over: each head twice and more before it came back. */
    for (unsigned i = 0; i < DRIVER_QUEUE_SIZE / 2; i++)
        submit(h, FLUSH, 0, 0, NULL);
    for (unsigned round = 0; round < 7; round++) {
        for (unsigned i = 0; i < DRIVER_QUEUE_SIZE / 2; i++)
            driver_offer(&h->d, 0, (uint16_t)(2 * i));
        driver_kick(&h->d, 0);
    }
    for (unsigned i = 0; i < DRIVER_QUEUE_SIZE / 2; i++)
        driver_offer(&h->d, 0, (uint16_t)(2 * i));
    driver_kick(&h->d, 0);
    assert_true(virtq_waiting(&h->blk.virtio.queue[0], &h->d.gmem) > 0);
    gate_set(h->fake, false);
    while (ended < 9 * DRIVER_QUEUE_SIZE / 2) {
        while (driver_take(&h->d, 0, &head, &len))
            ended++;
        if (ended < 9 * DRIVER_QUEUE_SIZE / 2)
            assert_true(driver_step(&h->d, &h->loop, PATIENCE_MS));
    }
    host_end(h);
}

static void requests_in_flight_are_done_again_by_a_fork(void **state)
{
    struct host *h = host_new(false);
    uint8_t block[BLK_BLOCK];
    memset(block, 0x77, sizeof block);
    gate_set(h->fake, true);
    struct request out = submit(h, OUT, 0, sizeof block, block), in = submit(h, IN, 16, BLK_BLOCK, NULL);
    gate_await(h->fake);
    struct host *child = host_fork_state(h); /* nobody waited for the gate */
    host_up(child);
    child->fake->bytes[16 * BLK_SECTOR] = 0xcc; /* its own disk */
    virtio_resume(&child->blk.virtio);
    await(child, out.head);
    await(child, in.head);
    assert_int_equal(status_of(child, out), OK);
    assert_int_equal(child->fake->bytes[0], 0x77);
    assert_int_equal(data_of(child, in)[0], 0xcc);

    /* The source completes them as if nothing had happened. */
    assert_int_equal(status_of(h, in), NO_STATUS);
    gate_set(h->fake, false);
    await(h, out.head);
    await(h, in.head);
    assert_int_equal(h->fake->bytes[0], 0x77);
    assert_int_equal(data_of(h, in)[0], 16);
    assert_int_equal(ask(child, IN, 0, BLK_BLOCK, NULL), OK);
    host_end(child);
    host_end(h);
}

static void what_is_done_but_not_returned_is_in_flight(void **state)
{
    struct host *h = host_new(false);
    struct request r = submit(h, IN, 0, BLK_BLOCK, NULL);
    uint16_t head;
    uint32_t len;
    for (bool done = false; !done;) { /* the worker ends; its loop has not heard of it */
        pthread_mutex_lock(&h->blk.mutex);
        done = h->blk.entry[0].state == BLK_DONE;
        pthread_mutex_unlock(&h->blk.mutex);
    }
    struct host *child = host_fork_state(h);
    host_up(child);
    virtio_resume(&child->blk.virtio);
    await(child, r.head);
    assert_false(driver_take(&child->d, 0, &head, &len)); /* once */
    await(h, r.head);
    host_end(child);
    host_end(h);
}

static void a_fork_of_a_fork_does_them_again(void **state)
{
    struct host *h = host_new(false);
    gate_set(h->fake, true);
    struct request r = submit(h, IN, 3, BLK_BLOCK, NULL);
    struct host *template = host_fork_state(h); /* never attached, as a template is */
    struct host *child = host_fork_state(template);
    host_up(child);
    virtio_resume(&child->blk.virtio);
    await(child, r.head);
    assert_int_equal(status_of(child, r), OK);
    driver_destroy(&template->d);
    free(template);
    host_end(child);
    host_end(h);
}

static void a_detached_device_keeps_its_requests(void **state)
{
    struct host *h = host_new(false);
    h->fake->fail = -ENOSPC;
    struct request r = submit(h, IN, 0, BLK_BLOCK, NULL);
    while (!h->stalls)
        assert_true(driver_step(&h->d, &h->loop, PATIENCE_MS));
    blk_detach(&h->blk);
    h->fake->fail = 0;
    assert_int_equal(blk_attach(&h->blk, &h->loop, &h->fake->backend, NULL), 0);
    virtio_resume(&h->blk.virtio);
    await(h, r.head);
    assert_int_equal(status_of(h, r), OK);
    host_end(h);
}

static void a_full_disk_stalls_and_the_request_is_done_again(void **state)
{
    static const int codes[] = {ENOSPC, EDQUOT};
    for (int i = 0; i < 2; i++) {
        struct host *h = host_new(false);
        uint8_t block[BLK_BLOCK] = {0x55};
        uint16_t head;
        uint32_t len;
        h->fake->fail = -codes[i];
        struct request r = submit(h, OUT, 8, sizeof block, block), next = submit(h, IN, 8, BLK_BLOCK, NULL);
        while (!h->stalls)
            assert_true(driver_step(&h->d, &h->loop, PATIENCE_MS));
        assert_int_equal(h->stall_code, codes[i]);
        assert_true(blk_is_stalled(&h->blk));
        blk_retry(&h->blk); /* still full */
        while (h->stalls < 2)
            assert_true(driver_step(&h->d, &h->loop, PATIENCE_MS));
        assert_false(driver_take(&h->d, 0, &head, &len)); /* the guest saw no error */

        struct host *child = host_fork_state(h); /* a stalled sandbox can be branched */
        host_up(child);
        virtio_resume(&child->blk.virtio);
        await(child, r.head);
        assert_int_equal(child->fake->bytes[BLK_BLOCK], 0x55);
        host_end(child);

        pthread_mutex_lock(&h->fake->mutex);
        h->fake->fail = 0;
        pthread_mutex_unlock(&h->fake->mutex);
        blk_retry(&h->blk);
        await(h, r.head);
        await(h, next.head);
        assert_int_equal(status_of(h, r), OK);
        assert_int_equal(data_of(h, next)[0], 0x55); /* in their order */
        assert_false(blk_is_stalled(&h->blk));
        host_end(h);
    }
}

static void a_worker_that_cannot_be_started_is_a_stall(void **state)
{
    struct host *h = host_new(false);
    pthread_attr_t was, huge;
    uint16_t head;
    uint32_t len;
    assert_int_equal(pthread_getattr_default_np(&was), 0);
    assert_int_equal(pthread_getattr_default_np(&huge), 0);
    assert_int_equal(pthread_attr_setstacksize(&huge, (size_t)1 << 47), 0); /* more than can be mapped */
    assert_int_equal(pthread_setattr_default_np(&huge), 0);
    struct request r = submit(h, IN, 0, BLK_BLOCK, NULL);
    while (!h->stalls)
        assert_true(driver_step(&h->d, &h->loop, PATIENCE_MS));
    assert_int_equal(h->stall_code, EAGAIN);
    assert_false(driver_take(&h->d, 0, &head, &len));
    assert_int_equal(pthread_setattr_default_np(&was), 0);
    blk_retry(&h->blk);
    await(h, r.head);
    assert_int_equal(status_of(h, r), OK);
    pthread_attr_destroy(&was);
    pthread_attr_destroy(&huge);
    host_end(h);
}

/* Once the reset has begun. */
static void *open_gate(void *arg)
{
    struct host *h = arg;
    for (bool begun = false; !begun; sched_yield()) {
        pthread_mutex_lock(&h->blk.mutex);
        begun = h->blk.queue_len == 0;
        pthread_mutex_unlock(&h->blk.mutex);
    }
    gate_set(h->fake, false);
    return NULL;
}

static void a_reset_waits_for_the_worker_and_forgets_the_rest(void **state)
{
    struct host *h = host_new(false);
    pthread_t opener;
    uint16_t head;
    uint32_t len;
    gate_set(h->fake, true);
    for (int i = 0; i < 4; i++)
        submit(h, IN, 0, BLK_BLOCK, NULL);
    gate_await(h->fake);
    assert_int_equal(pthread_create(&opener, NULL, open_gate, h), 0);
    driver_write32(&h->d, 0x70, 0); /* returns when nothing is written to guest memory any more */
    assert_false(h->blk.busy);
    pthread_join(opener, NULL);
    driver_settle(&h->d, &h->loop);
    assert_int_equal(h->fake->done, 1);
    assert_false(driver_take(&h->d, 0, &head, &len));
    driver_probe(&h->d, &h->blk.virtio);
    assert_int_equal(ask(h, IN, 0, BLK_BLOCK, NULL), OK);
    host_end(h);
}

static void a_reset_ends_a_stall(void **state)
{
    struct host *h = host_new(false);
    h->fake->fail = -ENOSPC;
    submit(h, FLUSH, 0, 0, NULL);
    while (!h->stalls)
        assert_true(driver_step(&h->d, &h->loop, PATIENCE_MS));
    h->fake->fail = 0;
    driver_probe(&h->d, &h->blk.virtio);
    assert_false(blk_is_stalled(&h->blk));
    assert_int_equal(ask(h, IN, 0, BLK_BLOCK, NULL), OK);
    host_end(h);
}

static void tend(struct host *h, unsigned steps)
{
    pthread_mutex_lock(&h->fake->mutex);
    h->fake->chores = steps;
    pthread_mutex_unlock(&h->fake->mutex);
    blk_tend(&h->blk);
}

static void await_tended(struct host *h, unsigned times)
{
    while (h->tended < times)
        assert_true(driver_step(&h->d, &h->loop, PATIENCE_MS));
}

static void the_backend_s_own_work_is_done_without_a_request(void **state)
{
    struct host *h = host_new(false);
    tend(h, 5);
    await_tended(h, 1);
    assert_int_equal(h->fake->steps, 5);
    tend(h, 1); /* by the worker that is there */
    await_tended(h, 2);
    assert_int_equal(h->fake->steps, 6);
    assert_int_equal(ask(h, IN, 0, BLK_BLOCK, NULL), OK);
    host_end(h);
}

static void requests_go_before_the_backend_s_own_work_but_do_not_starve_it(void **state)
{
    enum { REQUESTS = 3 * BLK_TEND_EVERY + 1, STEPS = 40 };
    struct host *h = host_new(false);
    uint16_t head;
    uint32_t len;
    gate_set(h->fake, true);
    for (int i = 0; i < REQUESTS; i++)
        submit(h, FLUSH, 0, 0, NULL);
    gate_await(h->fake);
    tend(h, STEPS);
    gate_set(h->fake, false);
    await_tended(h, 1);
    assert_int_equal(h->fake->steps, STEPS);
    for (unsigned i = 0; i < STEPS; i++)
        assert_int_equal(h->fake->done_at_step[i], i < 3 ? (i + 1) * BLK_TEND_EVERY : REQUESTS);
    for (int i = 0; i < REQUESTS; i++)
        assert_true(driver_take(&h->d, 0, &head, &len));
    host_end(h);
}

static void the_backend_does_not_work_while_its_disk_is_full(void **state)
{
    struct host *h = host_new(false);
    h->fake->fail = -ENOSPC;
    struct request r = submit(h, IN, 0, BLK_BLOCK, NULL);
    while (!h->stalls)
        assert_true(driver_step(&h->d, &h->loop, PATIENCE_MS));
    tend(h, 3);
    blk_retry(&h->blk);
    while (h->stalls < 2)
        assert_true(driver_step(&h->d, &h->loop, PATIENCE_MS));
    assert_int_equal(h->fake->steps, 0);
    pthread_mutex_lock(&h->fake->mutex);
    h->fake->fail = 0;
    pthread_mutex_unlock(&h->fake->mutex);
    blk_retry(&h->blk);
    await(h, r.head);
    await_tended(h, 1);
    assert_int_equal(h->fake->steps, 3);
    host_end(h);
}

static void the_backend_s_own_work_outlives_a_reset_and_not_its_device(void **state)
{
    struct host *h = host_new(false);
    tend(h, UINT32_MAX);
    assert_int_equal(ask(h, IN, 0, BLK_BLOCK, NULL), OK);
    driver_write32(&h->d, 0x70, 0);
    driver_probe(&h->d, &h->blk.virtio);
    assert_int_equal(ask(h, IN, 0, BLK_BLOCK, NULL), OK);
    blk_detach(&h->blk); /* in the midst of it */
    unsigned steps = h->fake->steps;
    assert_int_equal(blk_attach(&h->blk, &h->loop, &h->fake->backend, NULL), 0);
    assert_int_equal(ask(h, IN, 0, BLK_BLOCK, NULL), OK);
    assert_int_equal(h->fake->steps, steps);
    tend(h, 2);
    await_tended(h, 1);
    assert_int_equal(h->fake->steps, steps + 2);
    host_end(h);
}

static void malformed_state_is_refused(void **state)
{
    struct host *h = host_new(false);
    uint8_t buf[2048];
    gate_set(h->fake, true);
    submit(h, FLUSH, 0, 0, NULL);
    submit(h, FLUSH, 0, 0, NULL);
    struct pack p = pack_into(buf, sizeof buf);
    virtio_save(&h->blk.virtio, &p);
    struct blk child;
    blk_init(&child, &h->d.gmem, DISK, false);
    for (size_t i = 0; i < p.len; i++) {
        struct unpack u = unpack_from(buf, i);
        assert_true(virtio_load(&child.virtio, &u, NULL) < 0);
    }
    buf[p.len - 1] = 1; /* a head beyond the ring */
    struct unpack u = unpack_from(buf, p.len);
    assert_true(virtio_load(&child.virtio, &u, NULL) < 0);
    buf[p.len - 7] = 2; /* more than there can be */
    u = unpack_from(buf, p.len);
    assert_true(virtio_load(&child.virtio, &u, NULL) < 0);
    host_end(h);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_idle_device_has_no_thread),
        cmocka_unit_test(the_configuration_tells_the_driver_its_disk),
        cmocka_unit_test(data_is_read_and_written),
        cmocka_unit_test(what_is_read_is_marked_when_it_is_complete),
        cmocka_unit_test(ranges_are_discarded_and_zeroed),
        cmocka_unit_test(requests_that_make_no_sense_fail_alone),
        cmocka_unit_test(a_read_only_disk_is_not_written),
        cmocka_unit_test(an_error_of_the_backend_is_an_error_of_the_request),
        cmocka_unit_test(chains_that_lie_break_this_device),
        cmocka_unit_test(a_chain_that_changes_while_it_is_served_harms_nobody),
        cmocka_unit_test(more_requests_than_entries_all_end),
        cmocka_unit_test(requests_in_flight_are_done_again_by_a_fork),
        cmocka_unit_test(what_is_done_but_not_returned_is_in_flight),
        cmocka_unit_test(a_fork_of_a_fork_does_them_again),
        cmocka_unit_test(a_detached_device_keeps_its_requests),
        cmocka_unit_test(a_full_disk_stalls_and_the_request_is_done_again),
        cmocka_unit_test(a_worker_that_cannot_be_started_is_a_stall),
        cmocka_unit_test(a_reset_waits_for_the_worker_and_forgets_the_rest),
        cmocka_unit_test(a_reset_ends_a_stall),
        cmocka_unit_test(the_backend_s_own_work_is_done_without_a_request),
        cmocka_unit_test(requests_go_before_the_backend_s_own_work_but_do_not_starve_it),
        cmocka_unit_test(the_backend_does_not_work_while_its_disk_is_full),
        cmocka_unit_test(the_backend_s_own_work_outlives_a_reset_and_not_its_device),
        cmocka_unit_test(malformed_state_is_refused),
    };
    return cmocka_run_group_tests_name("blk", tests, NULL, NULL);
}
