/* driver.h: a small guest driver for tests: RAM, rings, and the register accesses of a virtio-mmio driver.
 *
 * RAM is a mapping without reserve, so a guest of several GiB costs what is touched. Rings and buffers are
 * taken from it upwards and never given back. Descriptors are used round and round: a test has fewer in flight
 * than the ring has entries. */
#ifndef FORKD_TESTS_DRIVER_H
#define FORKD_TESTS_DRIVER_H

#include "dev/virtio.h"
#include "sys/loop.h"

enum { DRIVER_RAM = 16 << 20, DRIVER_QUEUE_SIZE = 64 };

struct driver_queue {
    uint16_t size;
    uint64_t desc, avail, used;
    uint16_t next_desc, avail_idx, used_idx;
    uint16_t chain_len[VIRTQ_SIZE_MAX]; /* by head */
};

struct driver {
    struct gmem gmem;
    uint64_t heap; /* the next free address */
    struct virtio_dev *dev;
    struct driver_queue queue[VIRTIO_QUEUES_MAX];
    unsigned raised; /* edges seen */
    bool awake;      /* the device asked to be served */
};

/* A buffer of the guest's as a descriptor has it. */
struct driver_buf {
    uint64_t gpa;
    uint32_t len;
    bool writable;
};

void driver_init(struct driver *d, uint64_t ram);
void driver_destroy(struct driver *d);
/* The same guest in another life: copies the RAM and what the driver knows; the device is the caller's. */
void driver_fork(struct driver *child, const struct driver *d);

uint64_t driver_alloc(struct driver *d, uint64_t len);
void *driver_at(struct driver *d, uint64_t gpa, uint64_t len);

/* Rings without a device, for tests of virtq alone. */
void driver_make_ring(struct driver *d, unsigned queue, uint16_t size);
void driver_set_desc(struct driver *d, unsigned queue, uint16_t i, uint64_t gpa, uint32_t len, uint16_t flags,
                     uint16_t next);
/* Makes a head available without looking at what it is. */
void driver_offer(struct driver *d, unsigned queue, uint16_t head);
void driver_set_avail_idx(struct driver *d, unsigned queue, uint16_t idx);
/* The queue as a device sees it once it is enabled. */
struct virtq driver_virtq(struct driver *d, unsigned queue);

uint32_t driver_read32(struct driver *d, uint32_t reg);
void driver_write32(struct driver *d, uint32_t reg, uint32_t v);
/* Takes the place of the machine around the device (raise, wake). */
void driver_connect(struct driver *d, struct virtio_dev *dev);
/* Connects, and brings the device up as virtio 3.1.1 has it; all features offered are accepted. */
void driver_probe(struct driver *d, struct virtio_dev *dev);

/* Makes a chain available; returns its head. */
uint16_t driver_add(struct driver *d, unsigned queue, const struct driver_buf *bufs, unsigned n);
/* Notifies the queue and has the device serve until it asks no more. */
void driver_kick(struct driver *d, unsigned queue);
/* Serves as long as the device asks for it. */
void driver_serve(struct driver *d);
/* Serves, waits up to `timeout_ms` for something in the loop, delivers it and the timers that are due; false if
 * nothing but timers came. */
bool driver_step(struct driver *d, struct loop *loop, int timeout_ms);
/* Steps until nothing is ready; a loop that never comes to rest aborts. */
void driver_settle(struct driver *d, struct loop *loop);
/* Takes one used entry; false when there is none. */
bool driver_take(struct driver *d, unsigned queue, uint16_t *head, uint32_t *len);

#endif
