/* blk.h: virtio-blk (virtio 1.2, section 5.2) over a backend that the owner gives.
 *
 * Theory of operation. The loop's thread takes the heads of requests from the ring into a table; one worker
 * thread, started with the first request, takes them from there, walks the chain, has the backend transfer
 * straight from or into guest memory, and reports the end through an eventfd; the loop's thread then returns the
 * chain to the driver and frees the entry. An idle device has no thread.
 *
 * Requests in flight are state: an entry is what was taken from the ring and not returned. Saving writes their
 * heads and waits for nobody; a fork of that state walks them again in its own memory and does them again, the
 * source completes them as if nothing had happened. That is right because each of them may be done twice: the
 * driver leaves the buffers alone until the chain comes back. While a state is saved the worker may go on writing
 * into the buffers of requests in flight, and into nothing else.
 *
 * A backend that is out of space (ENOSPC, EDQUOT), or a worker that cannot be started, does not fail a request:
 * it stays in flight, the device stalls and tells its owner (on_stall), who stops the guest, and has it done again
 * with blk_retry(). A guest never sees EIO for a full disk of the host's.
 *
 * FLUSH ends where the backend says; a sandbox's disk dies with it.
 *
 * A backend may have work of its own that must not run beside its requests (disk/merge.c). Its owner announces it with
 * blk_tend(); the worker does it in steps while no request waits, and under load one step after so many requests that
 * it is felt little and yet ends.
 *
 * States of an entry (under `mutex`): free -> queued -> (worker) -> done -> free. Only the loop's thread, or a
 * reset, takes entries from and gives them to `free`; only the worker makes one done.
 *
 * Invariants.
 * 1. The worker holds the mutex only between requests, and never takes the device lock: whoever holds that lock
 *    may wait for it.
 * 2. A reset returns when the worker writes into guest memory no more.
 * 3. At most VIRTQ_SIZE_MAX requests are in flight, whatever the ring says; further ones wait in the ring.
 * 4. Requests that wait go before a step of the backend's own work, except that after BLK_TEND_EVERY of them one step
 *    is done. None is done while the device is stalled.
 *
 * Threads: as virtio.h; the backend is called on the worker alone. */
#ifndef FORKD_DEV_BLK_H
#define FORKD_DEV_BLK_H

#include "dev/virtio.h"
#include "sys/loop.h"

enum { BLK_SECTOR = 512, BLK_BLOCK = 4096, BLK_SEGMENTS_MAX = VIRTQ_CHAIN_MAX - 2, BLK_TEND_EVERY = 8 };

/* What is behind the device. Offsets and lengths are in bytes, multiples of BLK_SECTOR, inside the device. All
 * return 0, or a negative errno: -ENOSPC and -EDQUOT stall the device, others fail the request. */
struct blk_backend {
    void *disk;
    int (*read)(void *disk, const struct iovec *iov, unsigned count, uint64_t at);
    int (*write)(void *disk, const struct iovec *iov, unsigned count, uint64_t at);
    int (*discard)(void *disk, uint64_t at, uint64_t len);
    int (*write_zeroes)(void *disk, uint64_t at, uint64_t len);
    int (*flush)(void *disk);
    bool (*tend)(void *disk); /* a short step of its own work; whether there is more. NULL: it never has any */
};

enum blk_entry_state { BLK_FREE, BLK_QUEUED, BLK_TAKEN, BLK_DONE };

struct blk_entry {
    uint8_t state; /* enum blk_entry_state */
    uint16_t head;
    int rc;       /* when done: 0, or -EINVAL if the chain lies */
    uint32_t len; /* when done: bytes written into guest memory */
};

struct blk {
    struct virtio_dev virtio; /* first: it is the device */
    /* The device stalled, or stalled again after a retry. On the loop's thread, with the device lock; may be NULL. */
    void (*on_stall)(struct blk *blk, const struct err *why);
    /* The backend's own work is done, after blk_tend(). In the same way. */
    void (*on_tended)(struct blk *blk);

    /* State. */
    uint64_t bytes;
    bool read_only;
    char id[20]; /* what GET_ID says, padded with zeros */
    struct blk_entry entry[VIRTQ_SIZE_MAX];

    /* Host. */
    struct loop *loop;
    const struct blk_backend *backend;
    struct loop_source done;
    int done_fd;
    bool started; /* the worker runs */
    pthread_t worker;
    pthread_mutex_t mutex;
    pthread_cond_t work, idle;
    struct virtq ring; /* where the worker finds chains: a copy, since the driver may move the queue */
    bool stop, busy, stalled, stall_told;
    int stall_rc;
    bool tending, tended;           /* there are steps to do; they are done, and on_tended was not called */
    bool wanted;                    /* the worker is to stop its steps and look; read without the mutex */
    unsigned untended;              /* requests since the last step */
    uint16_t queue[VIRTQ_SIZE_MAX]; /* entries queued, a ring in the order they came */
    unsigned queue_at, queue_len;
};

/* A device of `bytes`, rounded up to whole blocks: reads beyond the backend's end are the backend's matter.
 * on_stall and on_tended are set by the machine after. */
void blk_init(struct blk *blk, struct gmem *gmem, uint64_t bytes, bool read_only);
/* `backend` stays valid until blk_detach(). */
int blk_attach(struct blk *blk, struct loop *loop, const struct blk_backend *backend, struct err *err);
/* Waits for the request the worker is in; those in flight stay in the table. */
void blk_detach(struct blk *blk);

/* A request waits for blk_retry(). On the loop's thread, like the next. */
bool blk_is_stalled(struct blk *blk);
/* Does the request again that stalled. A device that is not stalled is left alone. */
void blk_retry(struct blk *blk);
/* The backend has work of its own. Where no worker can be started for it, the next request's does it. */
void blk_tend(struct blk *blk);

#endif
