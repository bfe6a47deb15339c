/* virtio.h: a test guest's side of virtio-mmio (virtio 1.2, section 4.2): enough for drivers that are honest. */
#ifndef GUEST_VIRTIO_H
#define GUEST_VIRTIO_H

#include <stdbool.h>
#include <stdint.h>

enum { VQ_SIZE = 32 };

enum { VIRTIO_ID_BLK = 2, VIRTIO_ID_RNG = 4, VIRTIO_ID_VSOCK = 19 };

enum { VQ_NEXT = 1, VQ_WRITE = 2 }; /* descriptor flags */

struct virtio {
    uint64_t gpa;
    unsigned gsi;
    uint32_t irqs_acked;
};

/* One queue. */
struct vq {
    struct {
        uint64_t addr;
        uint32_t len;
        uint16_t flags, next;
    } desc[VQ_SIZE];
    struct {
        uint16_t flags, idx, ring[VQ_SIZE];
    } avail;
    struct {
        uint16_t flags, idx;
        struct {
            uint32_t id, len;
        } ring[VQ_SIZE];
    } used __attribute__((aligned(4)));
    struct virtio *dev;
    uint16_t index, seen;
} __attribute__((aligned(16)));

/* The first device of this kind on the board, reset, acknowledged, with VIRTIO_F_VERSION_1 and its interrupt
 * routed; false if there is none. virtio_go() follows when the queues are set. */
bool virtio_find(struct virtio *dev, uint32_t id);
void virtio_queue(struct virtio *dev, struct vq *vq, unsigned index);
void virtio_go(struct virtio *dev);
/* Acknowledges what was raised since the last call, if anything was. */
void virtio_ack(struct virtio *dev);
uint32_t virtio_config32(const struct virtio *dev, uint32_t at);

/* Makes the chain that begins with descriptor `head` available; vq_notify() tells the device. */
void vq_add(struct vq *vq, uint16_t head);
void vq_notify(struct vq *vq);
/* The next chain the device returned, and how much it wrote. */
bool vq_take(struct vq *vq, uint16_t *head, uint32_t *len);

#endif
