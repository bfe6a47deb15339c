/* hostile: a driver that lies. It breaks the disk's queue in one of several ways, then answers 1 if the device asks
 * to be reset (DEVICE_NEEDS_RESET), works again after it was, and the rest of the machine never noticed.
 *
 *   lie=1 a chain without end, 2 an address outside memory, 3 an index far ahead, 4 a descriptor that does not exist,
 *   5 a ring outside memory */
#include "blk.h"
#include "rt.h"
#include "virtio.h"

enum { REG_STATUS = 0x070, REG_QUEUE_SEL = 0x030, REG_QUEUE_READY = 0x044, NEEDS_RESET = 64 };

static struct virtio dev;
static struct vq queue;
static uint32_t header[4] __attribute__((aligned(16)));

static void lie_tell(uint64_t lie)
{
    queue.desc[0].addr = (uintptr_t)header;
    queue.desc[0].len = sizeof header;
    queue.desc[0].flags = VQ_NEXT;
    queue.desc[0].next = 0; /* round and round */
    switch (lie) {
    case 2:
        queue.desc[0].addr = UINT64_C(0x7fffffffffff0000);
        queue.desc[0].flags = 0;
        break;
    case 3:
        queue.avail.idx += 1000;
        break;
    case 4:
        queue.desc[0].flags = VQ_NEXT;
        queue.desc[0].next = 9999;
        break;
    case 5:
        mmio_write32(dev.gpa + REG_QUEUE_SEL, 0);
        mmio_write32(dev.gpa + REG_QUEUE_READY, 0);
        mmio_write32(dev.gpa + 0x090 + 4, 0x7fffffff);
        mmio_write32(dev.gpa + REG_QUEUE_READY, 1);
        break;
    }
    vq_add(&queue, 0);
    vq_notify(&queue);
}

static bool done;

static void on_done(struct blk_slot *slot)
{
    done = !slot->bad;
    blk_release(slot);
}

static bool works_again(void)
{
    if (!blk_start())
        return false;
    struct blk_slot *slot = blk_take(on_done, NULL);
    uint32_t seen = irq_any;
    blk_submit(slot, BLK_READ, 0);
    while (!blk_poll()) {
        irq_wait(&irq_any, seen);
        seen = irq_any;
    }
    return done;
}

void guest_main(unsigned cpu)
{
    if (!virtio_find(&dev, VIRTIO_ID_BLK))
        guest_crash();
    virtio_queue(&dev, &queue, 0);
    if (option("lie", 1) != 5)
        virtio_go(&dev);
    mark(1);
    uint32_t seen = irq_any;
    lie_tell(option("lie", 1));
    /* The configuration interrupt comes with the bit; where the driver was never up, there is none. */
    while (!(mmio_read32(dev.gpa + REG_STATUS) & NEEDS_RESET)) {
        if (option("lie", 1) != 5)
            irq_wait(&irq_any, seen);
        seen = irq_any;
    }
    out32(PORT_ANSWER, works_again());
    ask();
    guest_poweroff();
}
