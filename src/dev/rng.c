/* rng.c: see rng.h.
 *
 * SECCOMP: getrandom - random numbers for guests */
#include "dev/rng.h"

#include <errno.h>
#include <string.h>
#include <sys/random.h>

enum { RNG_ID = 4, RNG_BUFFER_MAX = 4096, RNG_BUFFERS_AT_ONCE = 16 };

/* getrandom never waits once the host has booted and gives up to 256 bytes whole; a signal may cut more. */
static bool random_fill(uint8_t *into, uint32_t len)
{
    while (len) {
        ssize_t n = getrandom(into, len, 0);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return false;
        into += n;
        len -= (uint32_t)n;
    }
    return true;
}

static uint32_t buffer_fill(struct rng *rng, const struct virtq_chain *chain)
{
    uint8_t bytes[RNG_BUFFER_MAX];
    uint32_t len = chain->writable_len < sizeof bytes ? chain->writable_len : (uint32_t)sizeof bytes;
    if (!random_fill(bytes, len))
        return 0;
    uint32_t written = virtq_chain_write(chain, rng->virtio.gmem, 0, bytes, len);
    explicit_bzero(bytes, sizeof bytes);
    return written;
}

static void rng_notify(struct virtio_dev *dev, unsigned queue)
{
    struct rng *rng = (struct rng *)dev;
    struct virtq_chain chain;
    int rc = 0, done = 0;
    for (; done < RNG_BUFFERS_AT_ONCE; done++) {
        rc = virtq_pop(&dev->queue[queue], dev->gmem, &chain);
        if (rc <= 0)
            break;
        virtq_push(&dev->queue[queue], dev->gmem, chain.head, buffer_fill(rng, &chain));
    }
    if (done)
        virtio_interrupt(dev, queue);
    if (rc < 0)
        virtio_break(dev, "a malformed ring");
    else if (rc > 0)
        virtio_again(dev, queue);
}

static void rng_config(struct virtio_dev *dev, uint32_t at, void *into, uint32_t len)
{
    memset(into, 0, len); /* 5.4.4: none */
}

static void rng_reset(struct virtio_dev *dev)
{
}

static void rng_save(struct virtio_dev *dev, struct pack *p)
{
}

static int rng_load(struct virtio_dev *dev, struct unpack *u, struct err *err)
{
    return 0;
}

static void rng_resume(struct virtio_dev *dev)
{
}

static const struct virtio_kind rng_kind = {
    .name = "rng",
    .id = RNG_ID,
    .queues = 1,
    .config = rng_config,
    .notify = rng_notify,
    .reset = rng_reset,
    .save = rng_save,
    .load = rng_load,
    .resume = rng_resume,
};

void rng_init(struct rng *rng, struct gmem *gmem)
{
    virtio_init(&rng->virtio, &rng_kind, gmem);
}
