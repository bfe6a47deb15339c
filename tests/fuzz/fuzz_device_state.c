/* fuzz_device_state.c: whatever a state file holds of a device or a disk, it is refused in words, or the device
 * lives with it: it resumes, comes to rest, and saves what loads again.
 *
 * The first byte chooses the device, and whether the rest is the state or changes to a good one: two bytes say
 * where, the third what. Guest memory is as the good state left it. */
#include "base/log.h"
#include "dev/blk.h"
#include "dev/rng.h"
#include "dev/serial.h"
#include "dev/vsock.h"
#include "disk/disk.h"
#include "tests/unit/driver.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { STATE_MAX = 8192, DISK = 4 << 20 };

static uint8_t state[STATE_MAX], again[STATE_MAX];

static void check(bool ok)
{
    if (!ok)
        abort();
}

static size_t save(struct virtio_dev *dev, uint8_t *into)
{
    struct pack p = pack_into(into, STATE_MAX);
    virtio_save(dev, &p);
    check(!p.full);
    return p.len;
}

/* The input, or the good state in `state` with the input's changes. Returns the length. */
static size_t lay(size_t good, bool changes, const uint8_t *data, size_t size)
{
    if (!changes) {
        size = size < STATE_MAX ? size : STATE_MAX;
        memcpy(state, data, size);
        return size;
    }
    for (; size >= 3; data += 3, size -= 3)
        state[(data[0] | data[1] << 8) % good] ^= data[2];
    return good;
}

static int no_disk(void *disk, const struct iovec *iov, unsigned count, uint64_t at)
{
    check(at <= DISK);
    return 0;
}

static int no_range(void *disk, uint64_t at, uint64_t len)
{
    check(at <= DISK && len <= DISK - at);
    return 0;
}

static int no_flush(void *disk)
{
    return 0;
}

struct devices {
    struct driver d;
    struct loop loop;
    struct rng rng;
    struct vsock vsock;
    struct blk blk;
};

static struct virtio_dev *device(struct devices *v, unsigned which)
{
    if (which == 0) {
        rng_init(&v->rng, &v->d.gmem);
        return &v->rng.virtio;
    }
    if (which == 1) {
        vsock_init(&v->vsock, &v->d.gmem);
        return &v->vsock.virtio;
    }
    blk_init(&v->blk, &v->d.gmem, DISK, false);
    return &v->blk.virtio;
}

static void live(struct devices *v, struct virtio_dev *dev)
{
    static const struct blk_backend backend = {NULL, no_disk, no_disk, no_range, no_range, no_flush, NULL};
    driver_connect(&v->d, dev);
    check(loop_init(&v->loop, NULL) == 0);
    if (dev == &v->vsock.virtio)
        check(vsock_attach(&v->vsock, &v->loop, -1, NULL) == 0);
    if (dev == &v->blk.virtio)
        check(blk_attach(&v->blk, &v->loop, &backend, NULL) == 0);
    virtio_resume(dev);
    driver_settle(&v->d, &v->loop);
    if (dev == &v->vsock.virtio)
        vsock_detach(&v->vsock);
    if (dev == &v->blk.virtio)
        blk_detach(&v->blk);
    loop_destroy(&v->loop);
}

static void virtio_check(unsigned which, bool changes, const uint8_t *data, size_t size)
{
    static struct devices v;
    struct err err = {0};
    driver_init(&v.d, DRIVER_RAM);
    struct virtio_dev *dev = device(&v, which);
    driver_probe(&v.d, dev);
    for (unsigned q = 0; q < dev->kind->queues; q++) /* something to find */
        driver_add(&v.d, q, (struct driver_buf[]){{0x100000, 64, false}, {0x200000, 4096, true}}, 2);
    size_t len = lay(save(dev, state), changes, data, size);
    dev = device(&v, which);
    struct unpack u = unpack_from(state, len);
    if (virtio_load(dev, &u, &err) < 0) {
        check(err.text[0]);
    } else {
        live(&v, dev);
        struct unpack u2 = unpack_from(again, save(dev, again));
        dev = device(&v, which);
        check(virtio_load(dev, &u2, &err) == 0 && unpack_done(&u2));
    }
    driver_destroy(&v.d);
}

static void serial_check(bool changes, const uint8_t *data, size_t size)
{
    static struct serial serial;
    struct pack p = pack_into(state, sizeof state);
    serial_init(&serial);
    serial_save(&serial, &p);
    struct unpack u = unpack_from(state, lay(p.len, changes, data, size));
    if (serial_load(&serial, &u, NULL) < 0)
        return;
    serial_resume(&serial);
    for (unsigned i = 0; i < 64; i++) {
        serial_read(&serial, i % 8);
        serial_write(&serial, i % 8, (uint8_t)(i * 37));
    }
}

static void disk_check(bool changes, const uint8_t *data, size_t size)
{
    struct disk disk;
    struct err err = {0};
    struct pack p = pack_into(state, sizeof state), p2 = pack_into(again, sizeof again);
    check(disk_init(&disk, DISK, NULL) == 0);
    disk.base_bytes = DISK;
    disk_save(&disk, &p);
    disk.base_bytes = 0;
    struct unpack u = unpack_from(state, lay(p.len, changes, data, size));
    if (disk_load(&disk, &u, &err) < 0) {
        check(err.text[0]);
    } else {
        disk_save(&disk, &p2);
        check(!p2.full && p2.len <= disk_state_bound(&disk));
        for (uint64_t b = 0; b < DISK / DISK_BLOCK; b++)
            check(disk.index.place[b] < 2 + disk.layers);
    }
    disk_destroy(&disk);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (!size)
        return 0;
    log_init(LOG_ERROR, "fuzz");
    unsigned which = data[0] % 5;
    bool changes = data[0] & 128;
    if (which < 3)
        virtio_check(which, changes, data + 1, size - 1);
    else if (which == 3)
        serial_check(changes, data + 1, size - 1);
    else
        disk_check(changes, data + 1, size - 1);
    return 0;
}
