/* virtio.c: see virtio.h. */
#include "virtio.h"

#include "rt.h"

enum { WINDOWS = 0xd0000000, WINDOW = 0x1000, WINDOWS_MAX = 8, FIRST_GSI = 6 };

enum {
    REG_MAGIC = 0x000,
    REG_DEVICE_ID = 0x008,
    REG_DRIVER_FEATURES = 0x020,
    REG_DRIVER_FEATURES_SEL = 0x024,
    REG_QUEUE_SEL = 0x030,
    REG_QUEUE_SIZE = 0x038,
    REG_QUEUE_READY = 0x044,
    REG_QUEUE_NOTIFY = 0x050,
    REG_INTERRUPT_ACK = 0x064,
    REG_STATUS = 0x070,
    REG_QUEUE_DESC = 0x080,
    REG_QUEUE_DRIVER = 0x090,
    REG_QUEUE_DEVICE = 0x0a0,
    REG_CONFIG = 0x100,
};

enum { INTERRUPT_QUEUE = 1, INTERRUPT_CONFIG = 2 };

enum { ACKNOWLEDGE = 1, DRIVER = 2, DRIVER_OK = 4, FEATURES_OK = 8 };

bool virtio_find(struct virtio *dev, uint32_t id)
{
    for (unsigned i = 0; i < WINDOWS_MAX; i++) {
        uint64_t gpa = WINDOWS + (uint64_t)i * WINDOW;
        if (mmio_read32(gpa + REG_MAGIC) != 0x74726976 || mmio_read32(gpa + REG_DEVICE_ID) != id)
            continue;
        *dev = (struct virtio){.gpa = gpa, .gsi = FIRST_GSI + i};
        mmio_write32(gpa + REG_STATUS, 0);
        mmio_write32(gpa + REG_STATUS, ACKNOWLEDGE | DRIVER);
        mmio_write32(gpa + REG_DRIVER_FEATURES_SEL, 1);
        mmio_write32(gpa + REG_DRIVER_FEATURES, 1); /* VIRTIO_F_VERSION_1 */
        mmio_write32(gpa + REG_DRIVER_FEATURES_SEL, 0);
        mmio_write32(gpa + REG_DRIVER_FEATURES, 0);
        mmio_write32(gpa + REG_STATUS, ACKNOWLEDGE | DRIVER | FEATURES_OK);
        irq_route(dev->gsi);
        return true;
    }
    return false;
}

static void address_write(const struct virtio *dev, uint32_t at, const volatile void *p)
{
    mmio_write32(dev->gpa + at, (uint32_t)(uintptr_t)p);
    mmio_write32(dev->gpa + at + 4, (uint32_t)((uintptr_t)p >> 32));
}

void virtio_queue(struct virtio *dev, struct vq *vq, unsigned index)
{
    vq->dev = dev;
    vq->index = (uint16_t)index;
    mmio_write32(dev->gpa + REG_QUEUE_SEL, index);
    mmio_write32(dev->gpa + REG_QUEUE_SIZE, VQ_SIZE);
    address_write(dev, REG_QUEUE_DESC, &vq->desc);
    address_write(dev, REG_QUEUE_DRIVER, &vq->avail);
    address_write(dev, REG_QUEUE_DEVICE, &vq->used);
    mmio_write32(dev->gpa + REG_QUEUE_READY, 1);
}

void virtio_go(struct virtio *dev)
{
    mmio_write32(dev->gpa + REG_STATUS, ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK);
}

void virtio_ack(struct virtio *dev)
{
    uint32_t taken = irq_count[VECTOR_GSI + dev->gsi];
    if (taken == dev->irqs_acked)
        return;
    dev->irqs_acked = taken;
    /* Both causes at once, without asking which it was: rings are looked at anyway, and each access is an exit. */
    mmio_write32(dev->gpa + REG_INTERRUPT_ACK, INTERRUPT_QUEUE | INTERRUPT_CONFIG);
}

uint32_t virtio_config32(const struct virtio *dev, uint32_t at)
{
    return mmio_read32(dev->gpa + REG_CONFIG + at);
}

void vq_add(struct vq *vq, uint16_t head)
{
    vq->avail.ring[vq->avail.idx % VQ_SIZE] = head;
    __atomic_store_n(&vq->avail.idx, vq->avail.idx + 1, __ATOMIC_RELEASE);
}

void vq_notify(struct vq *vq)
{
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    mmio_write32(vq->dev->gpa + REG_QUEUE_NOTIFY, vq->index);
}

bool vq_take(struct vq *vq, uint16_t *head, uint32_t *len)
{
    if (__atomic_load_n(&vq->used.idx, __ATOMIC_ACQUIRE) == vq->seen)
        return false;
    *head = (uint16_t)vq->used.ring[vq->seen % VQ_SIZE].id;
    *len = vq->used.ring[vq->seen % VQ_SIZE].len;
    vq->seen++;
    return true;
}
