/* blk.c: see blk.h. */
#include "blk.h"

#include "rt.h"
#include "virtio.h"

#include <stddef.h>

static HOT struct virtio dev;
static HOT struct vq queue;
static HOT bool found;
static uint64_t data[BLK_SLOTS][BLK_BLOCK / 8] __attribute__((aligned(4096)));
static struct blk_slot slots[BLK_SLOTS];
static struct {
    uint32_t type, reserved;
    uint64_t sector;
    volatile uint8_t status;
    uint8_t apart[15];
} request[BLK_SLOTS];
static struct blk_load load;

bool blk_start(void)
{
    found = virtio_find(&dev, VIRTIO_ID_BLK);
    if (!found)
        return false;
    virtio_queue(&dev, &queue, 0);
    virtio_go(&dev);
    return true;
}

uint64_t blk_blocks(void)
{
    return found ? (virtio_config32(&dev, 0) | (uint64_t)virtio_config32(&dev, 4) << 32) / 8 : 0;
}

struct blk_slot *blk_take(void (*done)(struct blk_slot *slot), void *owner)
{
    for (unsigned i = 0; found && i < BLK_SLOTS; i++)
        if (!slots[i].done) {
            slots[i] = (struct blk_slot){.done = done, .owner = owner, .data = data[i]};
            return &slots[i];
        }
    return NULL;
}

void blk_release(struct blk_slot *slot)
{
    slot->done = NULL;
}

void blk_submit(struct blk_slot *slot, enum blk_op op, uint64_t block)
{
    unsigned i = (unsigned)(slot - slots);
    uint16_t head = (uint16_t)(i * 3), last = (uint16_t)(head + 2);
    slot->op = op;
    slot->block = block;
    request[i].type = op;
    request[i].sector = op == BLK_FLUSH ? 0 : block * 8;
    request[i].status = 0xff;
    queue.desc[head].addr = (uintptr_t)&request[i];
    queue.desc[head].len = 16;
    queue.desc[head].flags = VQ_NEXT;
    queue.desc[head].next = op == BLK_FLUSH ? last : (uint16_t)(head + 1);
    queue.desc[head + 1].addr = (uintptr_t)slot->data;
    queue.desc[head + 1].len = BLK_BLOCK;
    queue.desc[head + 1].flags = VQ_NEXT | (op == BLK_READ ? VQ_WRITE : 0);
    queue.desc[head + 1].next = last;
    queue.desc[last].addr = (uintptr_t)&request[i].status;
    queue.desc[last].len = 1;
    queue.desc[last].flags = VQ_WRITE;
    vq_add(&queue, head);
    vq_notify(&queue);
}

bool blk_poll(void)
{
    uint16_t head;
    uint32_t len;
    bool any = false;
    while (found && vq_take(&queue, &head, &len)) {
        unsigned i = head / 3;
        if (i >= BLK_SLOTS || !slots[i].done)
            continue;
        slots[i].bad = request[i].status != 0;
        slots[i].done(&slots[i]);
        any = true;
    }
    return any;
}

void blk_ack(void)
{
    if (found)
        virtio_ack(&dev);
}

static uint64_t pattern(const struct blk_slot *slot, unsigned word)
{
    return (slot->block << 40 | slot->round << 12 | word) * UINT64_C(0x9e3779b97f4a7c15);
}

static void load_write(struct blk_slot *slot)
{
    for (unsigned i = 0; i < BLK_BLOCK / 8; i++)
        slot->data[i] = pattern(slot, i);
    blk_submit(slot, BLK_WRITE, slot->block);
}

static void load_step(struct blk_slot *slot)
{
    load.errors += slot->bad;
    if (slot->op == BLK_WRITE) {
        for (unsigned i = 0; i < BLK_BLOCK / 8; i++)
            slot->data[i] = 0;
        blk_submit(slot, BLK_READ, slot->block);
        return;
    }
    for (unsigned i = 0; i < BLK_BLOCK / 8; i++)
        if (slot->data[i] != pattern(slot, i)) {
            load.errors++;
            break;
        }
    slot->round++;
    load.total++;
    load_write(slot);
}

void blk_load(unsigned n)
{
    for (; load.slots < n; load.slots++) {
        struct blk_slot *slot = blk_take(load_step, &load);
        if (!slot)
            break;
        slot->block = 64 + load.slots;
        load_write(slot);
    }
}

struct blk_load blk_load_state(void)
{
    load.slowest = UINT64_MAX;
    for (unsigned i = 0; i < BLK_SLOTS; i++)
        if (slots[i].owner == &load && slots[i].round < load.slowest)
            load.slowest = slots[i].round;
    return load;
}
