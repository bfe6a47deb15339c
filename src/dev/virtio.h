/* virtio.h: the virtio-mmio transport (virtio 1.2, section 4.2, register layout version 2) and what a device
 * behind it is.
 *
 * Theory of operation. A device is a `struct virtio_kind`: the same functions in the same order for each.
 * The transport keeps status, features, queues and the interrupt status, and calls the kind. Register accesses
 * come from vCPU threads, everything else from the machine's loop thread; both hold the machine's device lock,
 * so a device never sees two calls at once: the machine takes it around every call here, and a device's own
 * loop sources take it themselves. A QueueNotify only marks the queue and wakes the loop: queues are served on
 * the loop thread.
 *
 * A device's life has two halves. Its state is plain memory: a template process holds it, forks, and parent and
 * child both have it. The resources of the host it works with (descriptors, threads) are attached after that:
 * NAME_init() makes the plain state, NAME_attach() gives it a host, NAME_detach() takes that away again.
 *
 * States (the driver's status bits):
 *   reset        no queue is ready; config may be read
 *   negotiating  ACKNOWLEDGE/DRIVER/FEATURES_OK: features and queues may be set
 *   running      DRIVER_OK: queues are served
 *   needs reset  the guest lied (DEVICE_NEEDS_RESET): nothing is served until it writes 0 to status
 *
 * A guest that lies breaks its own device only: virtio_break(). */
#ifndef FORKD_DEV_VIRTIO_H
#define FORKD_DEV_VIRTIO_H

#include "base/pack.h"
#include "mem/virtq.h"

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

enum { VIRTIO_QUEUES_MAX = 3, VIRTIO_MMIO_SIZE = 0x1000 };

struct virtio_dev;

struct virtio_kind {
    const char *name;
    uint32_t id; /* virtio device ID */
    unsigned queues;
    /* Reads `len` bytes of device configuration at `at`, at most 8 (beyond the end: zeros). */
    void (*config)(struct virtio_dev *dev, uint32_t at, void *into, uint32_t len);
    /* Serves a queue the driver notified. */
    void (*notify)(struct virtio_dev *dev, unsigned queue);
    /* The driver reset the device, or it starts: forget requests and connections. When this returns, nothing
     * of the device writes to guest memory any more. On a vCPU's thread: the loop is not to be touched. */
    void (*reset)(struct virtio_dev *dev);
    /* State of the device's own, requests in flight included; the transport saves its part itself. */
    void (*save)(struct virtio_dev *dev, struct pack *p);
    int (*load)(struct virtio_dev *dev, struct unpack *u, struct err *err);
    /* The machine starts to run after a restore: do again what was in flight. */
    void (*resume)(struct virtio_dev *dev);
};

struct virtio_dev {
    const struct virtio_kind *kind;
    uint64_t features; /* offered besides VIRTIO_F_VERSION_1 */
    struct gmem *gmem;
    void (*raise)(struct virtio_dev *dev); /* makes an edge on the device's interrupt line */
    void (*wake)(struct virtio_dev *dev);  /* has the loop call virtio_serve(); from a vCPU thread */
    pthread_mutex_t *lock;                 /* the machine's device lock; NULL where there is one thread only */
    void *owner;                           /* the machine's, for raise and wake */

    uint32_t status, interrupt_status, config_generation;
    uint32_t device_features_sel, driver_features_sel, queue_sel;
    uint64_t driver_features;
    struct virtq queue[VIRTIO_QUEUES_MAX];
    uint32_t notified; /* queues notified and not yet served, one bit each */
    uint32_t breaks;   /* times the guest lied, so that it cannot fill the log */
};

/* `kind` and `gmem` stay valid for the device's life; features are set by the device after, where it has any; raise,
 * wake, lock and owner by the machine. */
void virtio_init(struct virtio_dev *dev, const struct virtio_kind *kind, struct gmem *gmem);

/* Register accesses of the guest: 1, 2, 4 or 8 bytes at `at` of the device's window. Wrong widths and unknown
 * registers read as zero and are ignored when written. */
void virtio_mmio_read(struct virtio_dev *dev, uint32_t at, void *into, uint32_t len);
void virtio_mmio_write(struct virtio_dev *dev, uint32_t at, const void *from, uint32_t len);

/* What a QueueNotify does, for an ioeventfd: marks the queue. The caller sees to it that virtio_serve() follows. */
void virtio_notify(struct virtio_dev *dev, unsigned queue);
/* A device has more to do for a queue than it does at once: marks the queue and wakes the loop. */
void virtio_again(struct virtio_dev *dev, unsigned queue);

/* Serves the queues that were notified. On the loop thread. */
void virtio_serve(struct virtio_dev *dev);

/* Around what a device's own loop sources do. */
static inline void virtio_lock(struct virtio_dev *dev)
{
    if (dev->lock)
        pthread_mutex_lock(dev->lock);
}

static inline void virtio_unlock(struct virtio_dev *dev)
{
    if (dev->lock)
        pthread_mutex_unlock(dev->lock);
}

/* The driver is up and the device may use its queues. */
bool virtio_is_running(const struct virtio_dev *dev);
/* The guest lied: DEVICE_NEEDS_RESET, and a configuration interrupt tells the driver. */
void virtio_break(struct virtio_dev *dev, const char *why);
/* Used entries were pushed to `queue`: raises the interrupt if the driver wants it. */
void virtio_interrupt(struct virtio_dev *dev, unsigned queue);

/* Transport and device. The loaded state is validated; it may come from a hostile file. */
void virtio_save(struct virtio_dev *dev, struct pack *p);
int virtio_load(struct virtio_dev *dev, struct unpack *u, struct err *err);
/* After a restore and attach, before the guest's CPUs run: an interrupt is raised again for whatever the driver may not
 * have seen (in spite of suppression), requests in flight are done again, and every queue is served once. */
void virtio_resume(struct virtio_dev *dev);

#endif
