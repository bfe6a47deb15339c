/* virtq.c: see virtq.h. Section numbers are those of virtio 1.2. */
#include "mem/virtq.h"

#include <assert.h>
#include <errno.h>
#include <string.h>

/* The layouts of 2.7.5, 2.7.6 and 2.7.8. */
enum { DESC_BYTES = 16, DESC_ALIGN = 16, AVAIL_ALIGN = 2, USED_ALIGN = 4 };
enum { AVAIL_FLAGS = 0, AVAIL_IDX = 2, AVAIL_RING = 4, USED_IDX = 2, USED_RING = 4, USED_BYTES = 8 };
enum { DESC_F_NEXT = 1, DESC_F_WRITE = 2, AVAIL_F_NO_INTERRUPT = 1 };

struct desc {
    uint64_t addr;
    uint32_t len;
    uint16_t flags, next;
};
static_assert(sizeof(struct desc) == DESC_BYTES, "a descriptor as 2.7.5 has it");
static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "rings are little-endian and read in place");

/* Each part lies in one region as a whole, so the accesses below cannot fail once the queue is ready. The two
 * bytes of used_event and avail_event at the ends are not counted: EVENT_IDX is not offered. */
static bool ring_fits(const struct virtq *vq, const struct gmem *gmem)
{
    uint64_t n = vq->size, offset;
    return n && n <= VIRTQ_SIZE_MAX && !(n & (n - 1)) && vq->desc % DESC_ALIGN == 0 && vq->avail % AVAIL_ALIGN == 0 &&
           vq->used % USED_ALIGN == 0 && gmem_offset(gmem, vq->desc, n * DESC_BYTES, &offset) &&
           gmem_offset(gmem, vq->avail, AVAIL_RING + n * 2, &offset) &&
           gmem_offset(gmem, vq->used, USED_RING + n * USED_BYTES, &offset);
}

int virtq_enable(struct virtq *vq, const struct gmem *gmem)
{
    if (!ring_fits(vq, gmem))
        return -EINVAL;
    vq->ready = true;
    vq->broken = false;
    vq->next_avail = vq->next_used = 0;
    return 0;
}

void virtq_reset(struct virtq *vq)
{
    *vq = (struct virtq){0};
}

/* One aligned 16-bit field of the avail ring, read once. */
static uint16_t avail_load(const struct virtq *vq, const struct gmem *gmem, uint32_t at, int order)
{
    const uint16_t *field = gmem_at(gmem, vq->avail + at, sizeof *field);
    if (!field)
        return 0;
    return order == __ATOMIC_ACQUIRE ? __atomic_load_n(field, __ATOMIC_ACQUIRE)
                                     : __atomic_load_n(field, __ATOMIC_RELAXED);
}

uint16_t virtq_waiting(const struct virtq *vq, const struct gmem *gmem)
{
    if (!vq->ready || vq->broken)
        return 0;
    uint16_t waiting = (uint16_t)(avail_load(vq, gmem, AVAIL_IDX, __ATOMIC_ACQUIRE) - vq->next_avail);
    return waiting <= vq->size ? waiting : 0;
}

/* Puts one copied descriptor at the end of the chain, or refuses it (invariant 1). */
static bool chain_append(struct virtq_chain *chain, const struct gmem *gmem, const struct desc *d)
{
    unsigned n = chain->readable + chain->writable;
    uint64_t offset;
    uint32_t total;
    bool writable = d->flags & DESC_F_WRITE;
    if (d->flags & ~(DESC_F_NEXT | DESC_F_WRITE) || n == VIRTQ_CHAIN_MAX || !d->len)
        return false;
    if (!writable && chain->writable) /* 2.7.4.2: readable ones come first */
        return false;
    if (!gmem_offset(gmem, d->addr, d->len, &offset))
        return false;
    if (__builtin_add_overflow(chain->readable_len, chain->writable_len, &total) ||
        __builtin_add_overflow(total, d->len, &total))
        return false;
    chain->segment[n] = (struct virtq_segment){.gpa = d->addr, .len = d->len};
    if (writable) {
        chain->writable++;
        chain->writable_len += d->len;
    } else {
        chain->readable++;
        chain->readable_len += d->len;
    }
    return true;
}

int virtq_walk(const struct virtq *vq, const struct gmem *gmem, uint16_t head, struct virtq_chain *chain)
{
    chain->head = head;
    chain->readable = chain->writable = 0;
    chain->readable_len = chain->writable_len = 0;
    uint16_t at = head;
    /* A chain longer than the ring is a loop. */
    for (unsigned n = 0; n < vq->size; n++) {
        struct desc d;
        if (at >= vq->size || !gmem_read(gmem, vq->desc + (uint64_t)at * DESC_BYTES, &d, sizeof d))
            return -EINVAL;
        if (!chain_append(chain, gmem, &d))
            return -EINVAL;
        if (!(d.flags & DESC_F_NEXT))
            return 0;
        at = d.next;
    }
    return -EINVAL;
}

int virtq_pop_head(struct virtq *vq, const struct gmem *gmem, uint16_t *head)
{
    if (vq->broken)
        return -EINVAL;
    if (!vq->ready)
        return 0;
    /* Acquire: the descriptors were written before the index that publishes them (2.7.13.3). */
    uint16_t waiting = (uint16_t)(avail_load(vq, gmem, AVAIL_IDX, __ATOMIC_ACQUIRE) - vq->next_avail);
    if (!waiting)
        return 0;
    uint16_t slot = vq->next_avail & (vq->size - 1);
    *head = avail_load(vq, gmem, AVAIL_RING + slot * 2u, __ATOMIC_RELAXED);
    if (waiting > vq->size || *head >= vq->size) {
        vq->broken = true;
        return -EINVAL;
    }
    vq->next_avail++;
    return 1;
}

void virtq_unpop(struct virtq *vq)
{
    vq->next_avail--;
}

int virtq_pop(struct virtq *vq, const struct gmem *gmem, struct virtq_chain *chain)
{
    uint16_t head;
    int rc = virtq_pop_head(vq, gmem, &head);
    if (rc > 0 && virtq_walk(vq, gmem, head, chain) < 0) {
        virtq_unpop(vq);
        vq->broken = true;
        return -EINVAL;
    }
    return rc;
}

void virtq_push(struct virtq *vq, struct gmem *gmem, uint16_t head, uint32_t len)
{
    if (!vq->ready || vq->broken)
        return;
    const uint32_t elem[2] = {head, len};
    uint64_t slot = vq->next_used & (vq->size - 1u);
    gmem_write(gmem, vq->used + USED_RING + slot * USED_BYTES, elem, sizeof elem);
    uint16_t *idx = gmem_dma(gmem, vq->used + USED_IDX, sizeof *idx);
    if (!idx)
        return;
    /* Release: the entry, and the data it speaks of, are seen before the index (2.7.8.2). */
    __atomic_store_n(idx, ++vq->next_used, __ATOMIC_RELEASE);
    gmem_mark(gmem, vq->used + USED_IDX, sizeof *idx);
}

bool virtq_wants_interrupt(const struct virtq *vq, const struct gmem *gmem)
{
    if (!vq->ready || vq->broken)
        return false;
    /* Full: a driver that clears the flag and then looks at the used index must not be missed (2.7.7.2). */
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    return !(avail_load(vq, gmem, AVAIL_FLAGS, __ATOMIC_RELAXED) & AVAIL_F_NO_INTERRUPT);
}

/* The part of the segments that begins at byte *at, at most `len` bytes and within one segment; false at the end. */
static bool segments_slice(const struct virtq_segment *segment, unsigned count, uint32_t at, uint32_t len,
                           struct virtq_segment *slice)
{
    for (; count; segment++, count--) {
        if (at < segment->len) {
            uint32_t rest = segment->len - at;
            *slice = (struct virtq_segment){.gpa = segment->gpa + at, .len = rest < len ? rest : len};
            return true;
        }
        at -= segment->len;
    }
    return false;
}

uint32_t virtq_chain_read(const struct virtq_chain *chain, const struct gmem *gmem, uint32_t at, void *into,
                          uint32_t len)
{
    struct virtq_segment slice;
    uint32_t done = 0;
    while (done < len && segments_slice(chain->segment, chain->readable, at + done, len - done, &slice)) {
        if (!gmem_read(gmem, slice.gpa, (uint8_t *)into + done, slice.len))
            break;
        done += slice.len;
    }
    return done;
}

uint32_t virtq_chain_write(const struct virtq_chain *chain, struct gmem *gmem, uint32_t at, const void *from,
                           uint32_t len)
{
    struct virtq_segment slice;
    uint32_t done = 0;
    while (done < len &&
           segments_slice(chain->segment + chain->readable, chain->writable, at + done, len - done, &slice)) {
        if (!gmem_write(gmem, slice.gpa, (const uint8_t *)from + done, slice.len))
            break;
        done += slice.len;
    }
    return done;
}

unsigned virtq_chain_iov(const struct virtq_chain *chain, struct gmem *gmem, bool writable, uint32_t at, uint32_t len,
                         struct iovec *iov)
{
    const struct virtq_segment *segment = chain->segment + (writable ? chain->readable : 0);
    unsigned count = writable ? chain->writable : chain->readable, n = 0;
    for (; count && len; segment++, count--) {
        if (at >= segment->len) {
            at -= segment->len;
            continue;
        }
        uint32_t part = segment->len - at < len ? segment->len - at : len;
        void *host =
            writable ? gmem_dma(gmem, segment->gpa + at, part) : (void *)gmem_at(gmem, segment->gpa + at, part);
        if (!host)
            break;
        iov[n++] = (struct iovec){.iov_base = host, .iov_len = part};
        len -= part;
        at = 0;
    }
    return n;
}

void virtq_chain_mark(const struct virtq_chain *chain, struct gmem *gmem, uint32_t at, uint32_t len)
{
    struct virtq_segment slice;
    uint32_t done = 0;
    while (done < len &&
           segments_slice(chain->segment + chain->readable, chain->writable, at + done, len - done, &slice)) {
        gmem_mark(gmem, slice.gpa, slice.len);
        done += slice.len;
    }
}

void virtq_save(const struct virtq *vq, struct pack *p)
{
    pack_u16(p, vq->size);
    pack_u8(p, vq->ready);
    pack_u8(p, vq->broken);
    pack_u64(p, vq->desc);
    pack_u64(p, vq->avail);
    pack_u64(p, vq->used);
    pack_u16(p, vq->next_avail);
    pack_u16(p, vq->next_used);
}

int virtq_load(struct virtq *vq, const struct gmem *gmem, struct unpack *u, struct err *err)
{
    struct virtq q = {0};
    q.size = unpack_u16(u);
    uint8_t ready = unpack_u8(u), broken = unpack_u8(u);
    q.desc = unpack_u64(u);
    q.avail = unpack_u64(u);
    q.used = unpack_u64(u);
    q.next_avail = unpack_u16(u);
    q.next_used = unpack_u16(u);
    if (u->bad || ready > 1 || broken > 1 || q.size > VIRTQ_SIZE_MAX)
        return err_say(err, EINVAL, "the state of a virtqueue is malformed");
    if (ready && !ring_fits(&q, gmem))
        return err_say(err, EINVAL, "the rings of a virtqueue are not in guest memory");
    q.ready = ready;
    q.broken = broken;
    *vq = q;
    return 0;
}
