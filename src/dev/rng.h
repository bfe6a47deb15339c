/* rng.h: virtio-rng (virtio 1.2, section 5.4): the guest's source of entropy is the host's getrandom(2).
 *
 * Theory of operation. The driver lends buffers, the device fills them at once. It has no state and no host
 * resources, so there is nothing to attach or to save; a fork draws bytes of its own. What one buffer and one
 * notification get is bounded, so a guest that asks for ever keeps the loop from nobody: the rest has its turn
 * after the other devices.
 *
 * Threads: as virtio.h. */
#ifndef FORKD_DEV_RNG_H
#define FORKD_DEV_RNG_H

#include "dev/virtio.h"

struct rng {
    struct virtio_dev virtio; /* first: it is the device */
};

void rng_init(struct rng *rng, struct gmem *gmem);

#endif
