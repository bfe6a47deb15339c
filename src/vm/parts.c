/* parts.c: see parts.h. */
#include "vm/parts.h"

struct virtio_dev *machine_virtio(struct machine *m, unsigned slot)
{
    switch (slot) {
    case MACHINE_VSOCK:
        return &m->vsock.virtio;
    case MACHINE_RNG:
        return &m->rng.virtio;
    case MACHINE_BLK:
        return m->config.disk ? &m->blk.virtio : NULL;
    default:
        return NULL;
    }
}
