/* blk.h: a test guest's virtio-blk (virtio 1.2, section 5.2): blocks of 4 KiB, a few requests at a time. */
#ifndef GUEST_BLK_H
#define GUEST_BLK_H

#include <stdbool.h>
#include <stdint.h>

enum { BLK_SLOTS = 8, BLK_BLOCK = 4096 };

enum blk_op { BLK_READ = 0, BLK_WRITE = 1, BLK_FLUSH = 4 };

struct blk_slot {
    void (*done)(struct blk_slot *slot); /* NULL: the slot is free */
    void *owner;
    enum blk_op op;
    uint64_t block;
    uint64_t round; /* the load's */
    bool bad;       /* the device says the request failed */
    uint64_t *data; /* of the slot, BLK_BLOCK bytes */
};

bool blk_start(void);
uint64_t blk_blocks(void);
/* A free slot for done and owner, or NULL. */
struct blk_slot *blk_take(void (*done)(struct blk_slot *slot), void *owner);
/* The request goes to the device; its done() is called by blk_poll(), and may submit the slot again. */
void blk_submit(struct blk_slot *slot, enum blk_op op, uint64_t block);
void blk_release(struct blk_slot *slot);
bool blk_poll(void);
void blk_ack(void);

/* Keeps `slots` requests in flight for good: each writes a block of its own, reads it back and compares. */
void blk_load(unsigned slots);
struct blk_load {
    unsigned slots;
    uint64_t slowest, total; /* rounds of the slowest slot, and of all */
    uint64_t errors;
};
struct blk_load blk_load_state(void);

#endif
