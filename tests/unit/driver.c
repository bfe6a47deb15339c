/* driver.c: see driver.h. */
#include "driver.h"

#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum { REG_DRIVER_FEATURES = 0x20, REG_DRIVER_FEATURES_SEL = 0x24, REG_DEVICE_FEATURES = 0x10 };
enum { REG_DEVICE_FEATURES_SEL = 0x14, REG_QUEUE_SEL = 0x30, REG_QUEUE_SIZE = 0x38, REG_QUEUE_READY = 0x44 };
enum { REG_NOTIFY = 0x50, REG_STATUS = 0x70, REG_DESC = 0x80, REG_AVAIL = 0x90, REG_USED = 0xa0 };

/* What cannot fail in a test. */
static void must(bool ok)
{
    if (!ok)
        abort();
}

/* A page that nobody may touch stands on either side of RAM: an access beside it ends the test. */
void driver_init(struct driver *d, uint64_t ram)
{
    memset(d, 0, sizeof *d);
    uint8_t *at = mmap(NULL, ram + 2 * GMEM_PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    must(at != MAP_FAILED && mprotect(at + GMEM_PAGE, ram, PROT_READ | PROT_WRITE) == 0);
    must(gmem_init(&d->gmem, at + GMEM_PAGE, ram, NULL) == 0);
    d->heap = GMEM_PAGE;
}

void driver_destroy(struct driver *d)
{
    munmap(d->gmem.base - GMEM_PAGE, d->gmem.size + 2 * GMEM_PAGE);
    gmem_destroy(&d->gmem);
}

void driver_fork(struct driver *child, const struct driver *d)
{
    struct driver fresh;
    driver_init(&fresh, d->gmem.size);
    memcpy(fresh.gmem.base, d->gmem.base, d->heap);
    struct gmem gmem = fresh.gmem;
    *child = *d;
    child->gmem = gmem;
    child->dev = NULL;
    child->raised = 0;
    child->awake = false;
}

uint64_t driver_alloc(struct driver *d, uint64_t len)
{
    uint64_t at = d->heap;
    d->heap += (len + 63) & ~UINT64_C(63);
    must(d->heap <= d->gmem.low);
    return at;
}

void *driver_at(struct driver *d, uint64_t gpa, uint64_t len)
{
    const void *at = gmem_at(&d->gmem, gpa, len);
    must(at != NULL);
    return (void *)at;
}

void driver_make_ring(struct driver *d, unsigned queue, uint16_t size)
{
    struct driver_queue *q = &d->queue[queue];
    memset(q, 0, sizeof *q);
    q->size = size;
    q->desc = driver_alloc(d, size * 16u);
    q->avail = driver_alloc(d, 6 + size * 2u);
    q->used = driver_alloc(d, 6 + size * 8u);
}

struct virtq driver_virtq(struct driver *d, unsigned queue)
{
    const struct driver_queue *q = &d->queue[queue];
    struct virtq vq = {.size = q->size, .desc = q->desc, .avail = q->avail, .used = q->used};
    must(virtq_enable(&vq, &d->gmem) == 0);
    return vq;
}

void driver_set_desc(struct driver *d, unsigned queue, uint16_t i, uint64_t gpa, uint32_t len, uint16_t flags,
                     uint16_t next)
{
    uint8_t *desc = driver_at(d, d->queue[queue].desc + i * 16u, 16);
    memcpy(desc, &gpa, 8);
    memcpy(desc + 8, &len, 4);
    memcpy(desc + 12, &flags, 2);
    memcpy(desc + 14, &next, 2);
}

void driver_set_avail_idx(struct driver *d, unsigned queue, uint16_t idx)
{
    d->queue[queue].avail_idx = idx;
    __atomic_store_n((uint16_t *)driver_at(d, d->queue[queue].avail + 2, 2), idx, __ATOMIC_RELEASE);
}

void driver_offer(struct driver *d, unsigned queue, uint16_t head)
{
    struct driver_queue *q = &d->queue[queue];
    memcpy(driver_at(d, q->avail + 4 + (q->avail_idx % q->size) * 2u, 2), &head, 2);
    driver_set_avail_idx(d, queue, (uint16_t)(q->avail_idx + 1));
}

uint32_t driver_read32(struct driver *d, uint32_t reg)
{
    uint32_t v;
    virtio_mmio_read(d->dev, reg, &v, sizeof v);
    return v;
}

void driver_write32(struct driver *d, uint32_t reg, uint32_t v)
{
    virtio_mmio_write(d->dev, reg, &v, sizeof v);
}

static void on_raise(struct virtio_dev *dev)
{
    ((struct driver *)dev->owner)->raised++;
}

static void on_wake(struct virtio_dev *dev)
{
    ((struct driver *)dev->owner)->awake = true;
}

void driver_connect(struct driver *d, struct virtio_dev *dev)
{
    d->dev = dev;
    dev->owner = d;
    dev->raise = on_raise;
    dev->wake = on_wake;
}

static void write_address(struct driver *d, uint32_t reg, uint64_t gpa)
{
    driver_write32(d, reg, (uint32_t)gpa);
    driver_write32(d, reg + 4, (uint32_t)(gpa >> 32));
}

static void queue_up(struct driver *d, unsigned i)
{
    driver_make_ring(d, i, DRIVER_QUEUE_SIZE);
    driver_write32(d, REG_QUEUE_SEL, i);
    driver_write32(d, REG_QUEUE_SIZE, d->queue[i].size);
    write_address(d, REG_DESC, d->queue[i].desc);
    write_address(d, REG_AVAIL, d->queue[i].avail);
    write_address(d, REG_USED, d->queue[i].used);
    driver_write32(d, REG_QUEUE_READY, 1);
    must(driver_read32(d, REG_QUEUE_READY) == 1);
}

void driver_probe(struct driver *d, struct virtio_dev *dev)
{
    driver_connect(d, dev);
    driver_write32(d, REG_STATUS, 0);
    driver_write32(d, REG_STATUS, 1);
    driver_write32(d, REG_STATUS, 3);
    for (uint32_t sel = 0; sel < 2; sel++) {
        driver_write32(d, REG_DEVICE_FEATURES_SEL, sel);
        driver_write32(d, REG_DRIVER_FEATURES_SEL, sel);
        driver_write32(d, REG_DRIVER_FEATURES, driver_read32(d, REG_DEVICE_FEATURES));
    }
    driver_write32(d, REG_STATUS, 11);
    must(driver_read32(d, REG_STATUS) == 11);
    for (unsigned i = 0; i < dev->kind->queues; i++)
        queue_up(d, i);
    driver_write32(d, REG_STATUS, 15);
}

uint16_t driver_add(struct driver *d, unsigned queue, const struct driver_buf *bufs, unsigned n)
{
    struct driver_queue *q = &d->queue[queue];
    uint16_t head = q->next_desc;
    for (unsigned i = 0; i < n; i++) {
        uint16_t next = (uint16_t)((q->next_desc + 1) % q->size);
        uint16_t flags = (uint16_t)((i + 1 < n ? 1 : 0) | (bufs[i].writable ? 2 : 0));
        driver_set_desc(d, queue, q->next_desc, bufs[i].gpa, bufs[i].len, flags, next);
        q->next_desc = next;
    }
    driver_offer(d, queue, head);
    return head;
}

void driver_serve(struct driver *d)
{
    while (d->awake) {
        d->awake = false;
        virtio_serve(d->dev);
    }
}

void driver_kick(struct driver *d, unsigned queue)
{
    driver_write32(d, REG_NOTIFY, queue);
    driver_serve(d);
}

struct once {
    struct loop_timer timer;
    struct loop *loop;
};

static void once_stop(struct loop_timer *timer)
{
    loop_stop(((struct once *)timer)->loop);
}

bool driver_step(struct driver *d, struct loop *loop, int timeout_ms)
{
    struct pollfd p = {.fd = loop->epoll_fd, .events = POLLIN};
    driver_serve(d);
    bool came = poll(&p, 1, timeout_ms) > 0;
    struct once once = {.timer.fn = once_stop, .loop = loop};
    loop_timer_set(loop, &once.timer, 0);
    must(loop_run(loop, NULL) == 0);
    loop_timer_clear(&once.timer); /* a source may have stopped the loop */
    driver_serve(d);
    return came;
}

void driver_settle(struct driver *d, struct loop *loop)
{
    int steps = 0;
    while (driver_step(d, loop, 0))
        must(++steps < 20000);
}

bool driver_take(struct driver *d, unsigned queue, uint16_t *head, uint32_t *len)
{
    struct driver_queue *q = &d->queue[queue];
    uint16_t idx = __atomic_load_n((uint16_t *)driver_at(d, q->used + 2, 2), __ATOMIC_ACQUIRE);
    if (idx == q->used_idx)
        return false;
    uint32_t elem[2];
    memcpy(elem, driver_at(d, q->used + 4 + (q->used_idx % q->size) * 8u, 8), 8);
    q->used_idx++;
    *head = (uint16_t)elem[0];
    *len = elem[1];
    return true;
}
