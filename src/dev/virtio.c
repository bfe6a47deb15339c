/* virtio.c: see virtio.h. Section numbers are those of virtio 1.2. */
#include "dev/virtio.h"

#include "base/log.h"

#include <errno.h>
#include <string.h>

/* 4.2.2, table 4.1 */
enum {
    REG_MAGIC = 0x000,
    REG_VERSION = 0x004,
    REG_DEVICE_ID = 0x008,
    REG_VENDOR_ID = 0x00c,
    REG_DEVICE_FEATURES = 0x010,
    REG_DEVICE_FEATURES_SEL = 0x014,
    REG_DRIVER_FEATURES = 0x020,
    REG_DRIVER_FEATURES_SEL = 0x024,
    REG_QUEUE_SEL = 0x030,
    REG_QUEUE_SIZE_MAX = 0x034,
    REG_QUEUE_SIZE = 0x038,
    REG_QUEUE_READY = 0x044,
    REG_QUEUE_NOTIFY = 0x050,
    REG_INTERRUPT_STATUS = 0x060,
    REG_INTERRUPT_ACK = 0x064,
    REG_STATUS = 0x070,
    REG_QUEUE_DESC = 0x080,
    REG_QUEUE_DRIVER = 0x090,
    REG_QUEUE_DEVICE = 0x0a0,
    REG_SHM_LEN_LOW = 0x0b0,
    REG_SHM_BASE_HIGH = 0x0bc,
    REG_CONFIG_GENERATION = 0x0fc,
    REG_CONFIG = 0x100,
};

enum { MAGIC = 0x74726976, VERSION = 2, VENDOR = 0x444b5246 }; /* "virt", "FRKD" */
enum { BREAKS_LOGGED = 8 };

/* 2.1 */
enum {
    STATUS_ACKNOWLEDGE = 1,
    STATUS_DRIVER = 2,
    STATUS_DRIVER_OK = 4,
    STATUS_FEATURES_OK = 8,
    STATUS_NEEDS_RESET = 64,
    STATUS_FAILED = 128,
    STATUS_OF_DRIVER = STATUS_ACKNOWLEDGE | STATUS_DRIVER | STATUS_DRIVER_OK | STATUS_FEATURES_OK | STATUS_FAILED,
};

enum { INTERRUPT_QUEUE = 1, INTERRUPT_CONFIG = 2 };

#define F_VERSION_1 (UINT64_C(1) << 32)

void virtio_init(struct virtio_dev *dev, const struct virtio_kind *kind, struct gmem *gmem)
{
    *dev = (struct virtio_dev){.kind = kind, .gmem = gmem};
}

bool virtio_is_running(const struct virtio_dev *dev)
{
    return (dev->status & (STATUS_DRIVER_OK | STATUS_NEEDS_RESET)) == STATUS_DRIVER_OK;
}

static uint64_t features_offered(const struct virtio_dev *dev)
{
    return dev->features | F_VERSION_1;
}

static void raise_interrupt(struct virtio_dev *dev, uint32_t cause)
{
    dev->interrupt_status |= cause;
    if (dev->raise)
        dev->raise(dev);
}

void virtio_interrupt(struct virtio_dev *dev, unsigned queue)
{
    if (virtio_is_running(dev) && virtq_wants_interrupt(&dev->queue[queue], dev->gmem))
        raise_interrupt(dev, INTERRUPT_QUEUE);
}

void virtio_break(struct virtio_dev *dev, const char *why)
{
    if (dev->status & STATUS_NEEDS_RESET)
        return;
    if (dev->breaks++ < BREAKS_LOGGED)
        log_warn("virtio-%s: the guest's driver is out of order (%s); the device waits for its reset", dev->kind->name,
                 why);
    dev->status |= STATUS_NEEDS_RESET;
    if (dev->status & STATUS_DRIVER_OK) /* 2.1.2 */
        raise_interrupt(dev, INTERRUPT_CONFIG);
}

static void reset(struct virtio_dev *dev)
{
    dev->kind->reset(dev);
    for (unsigned i = 0; i < VIRTIO_QUEUES_MAX; i++)
        virtq_reset(&dev->queue[i]);
    dev->status = dev->interrupt_status = dev->notified = 0;
    dev->device_features_sel = dev->driver_features_sel = dev->queue_sel = 0;
    dev->driver_features = 0;
}

static bool features_acceptable(const struct virtio_dev *dev)
{
    return dev->driver_features & F_VERSION_1 && !(dev->driver_features & ~features_offered(dev));
}

static void status_write(struct virtio_dev *dev, uint32_t v)
{
    if (!v) {
        reset(dev);
        return;
    }
    uint32_t status = dev->status | (v & STATUS_OF_DRIVER); /* 2.1.1: bits are never cleared one by one */
    if (!features_acceptable(dev))
        status &= ~(uint32_t)STATUS_FEATURES_OK; /* 3.1.1, step 6: the driver reads it back */
    if (!(status & STATUS_FEATURES_OK))
        status &= ~(uint32_t)STATUS_DRIVER_OK;
    dev->status = status;
}

static void driver_features_write(struct virtio_dev *dev, uint32_t v)
{
    if (dev->status & STATUS_FEATURES_OK)
        return;
    unsigned shift = dev->driver_features_sel ? 32 : 0;
    dev->driver_features = (dev->driver_features & ~(UINT64_C(0xffffffff) << shift)) | (uint64_t)v << shift;
}

/* The queue selected, or NULL if there is none of that number. */
static struct virtq *queue_selected(struct virtio_dev *dev)
{
    return dev->queue_sel < dev->kind->queues ? &dev->queue[dev->queue_sel] : NULL;
}

static void queue_ready_write(struct virtio_dev *dev, struct virtq *vq, uint32_t v)
{
    if (!v)
        vq->ready = false;
    else if (!vq->ready && !(dev->status & STATUS_DRIVER_OK) && virtq_enable(vq, dev->gmem) < 0)
        virtio_break(dev, "a queue that is not in its memory");
}

static void half_write(uint64_t *address, bool high, uint32_t v)
{
    unsigned shift = high ? 32 : 0;
    *address = (*address & ~(UINT64_C(0xffffffff) << shift)) | (uint64_t)v << shift;
}

static void queue_write(struct virtio_dev *dev, uint32_t at, uint32_t v)
{
    struct virtq *vq = queue_selected(dev);
    if (!vq)
        return;
    if (at == REG_QUEUE_READY) {
        queue_ready_write(dev, vq, v);
        return;
    }
    if (vq->ready) /* 4.2.2.2: not while it is in use */
        return;
    switch (at) {
    case REG_QUEUE_SIZE:
        vq->size = v <= VIRTQ_SIZE_MAX ? (uint16_t)v : 0; /* 0 is refused by virtq_enable() */
        break;
    case REG_QUEUE_DESC:
    case REG_QUEUE_DESC + 4:
        half_write(&vq->desc, at & 4, v);
        break;
    case REG_QUEUE_DRIVER:
    case REG_QUEUE_DRIVER + 4:
        half_write(&vq->avail, at & 4, v);
        break;
    case REG_QUEUE_DEVICE:
    case REG_QUEUE_DEVICE + 4:
        half_write(&vq->used, at & 4, v);
        break;
    }
}

static uint32_t reg_read(struct virtio_dev *dev, uint32_t at)
{
    struct virtq *vq = queue_selected(dev);
    switch (at) {
    case REG_MAGIC:
        return MAGIC;
    case REG_VERSION:
        return VERSION;
    case REG_DEVICE_ID:
        return dev->kind->id;
    case REG_VENDOR_ID:
        return VENDOR;
    case REG_DEVICE_FEATURES:
        return dev->device_features_sel > 1 ? 0 : (uint32_t)(features_offered(dev) >> (32 * dev->device_features_sel));
    case REG_QUEUE_SIZE_MAX:
        return vq ? VIRTQ_SIZE_MAX : 0;
    case REG_QUEUE_READY:
        return vq && vq->ready;
    case REG_INTERRUPT_STATUS:
        return dev->interrupt_status;
    case REG_STATUS:
        return dev->status;
    case REG_CONFIG_GENERATION:
        return dev->config_generation;
    default:
        /* 4.2.2.1: a shared memory region that does not exist has length and base of all ones. */
        return at >= REG_SHM_LEN_LOW && at <= REG_SHM_BASE_HIGH ? UINT32_MAX : 0;
    }
}

static void reg_write(struct virtio_dev *dev, uint32_t at, uint32_t v)
{
    switch (at) {
    case REG_DEVICE_FEATURES_SEL:
        dev->device_features_sel = v;
        break;
    case REG_DRIVER_FEATURES:
        if (dev->driver_features_sel <= 1)
            driver_features_write(dev, v);
        break;
    case REG_DRIVER_FEATURES_SEL:
        dev->driver_features_sel = v;
        break;
    case REG_QUEUE_SEL:
        dev->queue_sel = v;
        break;
    case REG_QUEUE_NOTIFY:
        virtio_again(dev, v);
        break;
    case REG_INTERRUPT_ACK:
        dev->interrupt_status &= ~v;
        break;
    case REG_STATUS:
        status_write(dev, v);
        break;
    default:
        queue_write(dev, at, v);
    }
}

void virtio_mmio_read(struct virtio_dev *dev, uint32_t at, void *into, uint32_t len)
{
    memset(into, 0, len);
    if (at >= REG_CONFIG && len <= sizeof(uint64_t)) {
        dev->kind->config(dev, at - REG_CONFIG, into, len);
    } else if (at < REG_CONFIG && at % 4 == 0 && len == sizeof(uint32_t)) {
        uint32_t v = reg_read(dev, at);
        memcpy(into, &v, sizeof v);
    }
}

void virtio_mmio_write(struct virtio_dev *dev, uint32_t at, const void *from, uint32_t len)
{
    uint32_t v;
    /* No device here has configuration that its driver may write. */
    if (at >= REG_CONFIG || at % 4 || len != sizeof v)
        return;
    memcpy(&v, from, sizeof v);
    reg_write(dev, at, v);
}

void virtio_notify(struct virtio_dev *dev, unsigned queue)
{
    if (queue < dev->kind->queues)
        dev->notified |= 1u << queue;
}

void virtio_again(struct virtio_dev *dev, unsigned queue)
{
    virtio_notify(dev, queue);
    if (dev->wake)
        dev->wake(dev);
}

void virtio_serve(struct virtio_dev *dev)
{
    /* A device that marks a queue again while it is served has its turn after the others. */
    uint32_t notified = dev->notified;
    dev->notified = 0;
    for (unsigned i = 0; i < dev->kind->queues; i++)
        if (notified & 1u << i && dev->queue[i].ready && virtio_is_running(dev))
            dev->kind->notify(dev, i);
}

void virtio_save(struct virtio_dev *dev, struct pack *p)
{
    pack_u32(p, dev->status);
    pack_u32(p, dev->interrupt_status);
    pack_u32(p, dev->config_generation);
    pack_u32(p, dev->device_features_sel);
    pack_u32(p, dev->driver_features_sel);
    pack_u32(p, dev->queue_sel);
    pack_u64(p, dev->driver_features);
    for (unsigned i = 0; i < dev->kind->queues; i++)
        virtq_save(&dev->queue[i], p);
    dev->kind->save(dev, p);
}

/* The status bits that follow from one another in the states of virtio.h. */
static bool status_consistent(const struct virtio_dev *dev)
{
    uint32_t s = dev->status;
    if (s & ~(uint32_t)(STATUS_OF_DRIVER | STATUS_NEEDS_RESET))
        return false;
    if (s & STATUS_DRIVER_OK && !(s & STATUS_FEATURES_OK))
        return false;
    return !(s & STATUS_FEATURES_OK) || features_acceptable(dev);
}

int virtio_load(struct virtio_dev *dev, struct unpack *u, struct err *err)
{
    dev->status = unpack_u32(u);
    dev->interrupt_status = unpack_u32(u) & (INTERRUPT_QUEUE | INTERRUPT_CONFIG);
    dev->config_generation = unpack_u32(u);
    dev->device_features_sel = unpack_u32(u);
    dev->driver_features_sel = unpack_u32(u);
    dev->queue_sel = unpack_u32(u);
    dev->driver_features = unpack_u64(u);
    dev->notified = 0;
    if (u->bad || !status_consistent(dev))
        return err_say(err, EINVAL, "the state of virtio-%s is malformed", dev->kind->name);
    for (unsigned i = 0; i < dev->kind->queues; i++)
        if (virtq_load(&dev->queue[i], dev->gmem, u, err) < 0)
            return err_wrap(err, "virtio-%s, queue %u", dev->kind->name, i);
    int rc = dev->kind->load(dev, u, err);
    return rc < 0 ? err_wrap(err, "virtio-%s", dev->kind->name) : 0;
}

void virtio_resume(struct virtio_dev *dev)
{
    if (dev->status & STATUS_NEEDS_RESET && dev->status & STATUS_DRIVER_OK)
        raise_interrupt(dev, INTERRUPT_CONFIG);
    if (!virtio_is_running(dev))
        return;
    /* An interrupt may have been under way between irqfd and LAPIC when the state was saved, or the driver was
     * between its last look at the ring and the end of its suppression. One that finds nothing is harmless. */
    raise_interrupt(dev, INTERRUPT_QUEUE);
    dev->kind->resume(dev);
    for (unsigned i = 0; i < dev->kind->queues; i++)
        virtio_notify(dev, i);
    virtio_serve(dev);
}
