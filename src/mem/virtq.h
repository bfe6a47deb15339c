/* virtq.h: split virtqueues (virtio 1.2, section 2.7), the only walker of guest rings.
 *
 * Theory of operation. The driver puts heads of descriptor chains into the avail ring, the device takes them
 * in order (virtq_pop), works, and returns each with a length in the used ring (virtq_push). Everything in
 * the rings belongs to the guest and may change at any time: a descriptor is copied once, its range checked
 * against guest memory, and only the copy used. No VIRTIO_F_EVENT_IDX and no indirect descriptors are offered.
 *
 * Invariants.
 * 1. A chain handed out has at most VIRTQ_CHAIN_MAX segments, device-readable ones before device-writable
 *    ones, each wholly inside guest memory; its length in bytes fits 32 bits.
 * 2. A ring that lies (index out of range, loop, bad address, too many avail entries) gives -EINVAL once and
 *    the queue is broken until the driver resets the device: virtq_pop() then returns -EINVAL for ever.
 * 3. What a device popped and has not pushed is the device's to save: virtq_walk() gives the same head's chain
 *    again in a fork, from the fork's own memory.
 *
 * Threads: the caller serialises calls on one queue. */
#ifndef FORKD_MEM_VIRTQ_H
#define FORKD_MEM_VIRTQ_H

#include "base/pack.h"
#include "mem/gmem.h"

#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

enum { VIRTQ_SIZE_MAX = 256, VIRTQ_CHAIN_MAX = 130 };

struct virtq {
    uint16_t size; /* entries, a power of two, at most VIRTQ_SIZE_MAX; set by the driver */
    bool ready, broken;
    uint64_t desc, avail, used; /* guest-physical addresses of the three parts */
    uint16_t next_avail;        /* the avail index of the next chain to take */
    uint16_t next_used;         /* the used index of the next chain to return */
};

struct virtq_segment {
    uint64_t gpa;
    uint32_t len;
};

struct virtq_chain {
    uint16_t head;
    uint16_t readable, writable; /* segments: `readable` first, `writable` after them */
    uint32_t readable_len, writable_len;
    struct virtq_segment segment[VIRTQ_CHAIN_MAX];
};

/* Checks size, alignment and addresses when the driver sets QueueReady; -EINVAL if they cannot be. */
int virtq_enable(struct virtq *vq, const struct gmem *gmem);
void virtq_reset(struct virtq *vq);

/* 1: a chain was taken; 0: the ring is empty or not ready; -EINVAL: the guest lies (invariant 2). */
int virtq_pop(struct virtq *vq, const struct gmem *gmem, struct virtq_chain *chain);
/* The same for who walks the chain later: takes its head alone. */
int virtq_pop_head(struct virtq *vq, const struct gmem *gmem, uint16_t *head);
/* Puts back the chain that was popped last, unused: the next virtq_pop() gives it again. */
void virtq_unpop(struct virtq *vq);
/* The chain of a head that was popped, in this life or an earlier one; 0, or -EINVAL if it lies. */
int virtq_walk(const struct virtq *vq, const struct gmem *gmem, uint16_t head, struct virtq_chain *chain);
/* Returns a chain to the driver with `len` bytes written into its writable segments. A queue that is not ready,
 * or broken, takes nothing. */
void virtq_push(struct virtq *vq, struct gmem *gmem, uint16_t head, uint32_t len);
/* Whether the driver wants an interrupt for what was pushed (VIRTQ_AVAIL_F_NO_INTERRUPT). */
bool virtq_wants_interrupt(const struct virtq *vq, const struct gmem *gmem);
/* How many chains wait to be taken, by the driver's word: at most the ring's size, else 0. */
uint16_t virtq_waiting(const struct virtq *vq, const struct gmem *gmem);

/* Copies between a chain and a buffer, from byte `at` of its readable or writable part; returns bytes copied. */
uint32_t virtq_chain_read(const struct virtq_chain *chain, const struct gmem *gmem, uint32_t at, void *into,
                          uint32_t len);
uint32_t virtq_chain_write(const struct virtq_chain *chain, struct gmem *gmem, uint32_t at, const void *from,
                           uint32_t len);

/* The readable or writable part of a chain in place, from byte `at`, at most `len` bytes, for readv and writev:
 * fills at most VIRTQ_CHAIN_MAX entries and returns their number. Writable pages are marked; the caller calls
 * virtq_chain_mark() for the same bytes when the transfer is complete. */
unsigned virtq_chain_iov(const struct virtq_chain *chain, struct gmem *gmem, bool writable, uint32_t at, uint32_t len,
                         struct iovec *iov);
void virtq_chain_mark(const struct virtq_chain *chain, struct gmem *gmem, uint32_t at, uint32_t len);

void virtq_save(const struct virtq *vq, struct pack *p);
/* Validates as virtq_enable() does. */
int virtq_load(struct virtq *vq, const struct gmem *gmem, struct unpack *u, struct err *err);

#endif
