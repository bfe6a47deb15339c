/* fuzz_virtq.c: whatever stands in a ring, a chain comes out within the invariants of mem/virtq.h or the queue breaks.
 *
 * The first bytes choose the ring's size, its avail index and how the rest is laid out: as it is, over descriptors
 * and avail ring, or as short descriptors whose addresses and lengths are mostly good. One more choice loads the
 * queue's state from the input. */
#include "mem/virtq.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { RAM = 1 << 20, DESC = 0x1000, AVAIL = 0x3000, USED = 0x4000 };

static void check(bool ok)
{
    if (!ok)
        abort();
}

static struct gmem *guest(void)
{
    static struct gmem gmem;
    if (!gmem.base) {
        uint8_t *at = mmap(NULL, RAM + 2 * GMEM_PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        check(at != MAP_FAILED && mprotect(at + GMEM_PAGE, RAM, PROT_READ | PROT_WRITE) == 0);
        check(gmem_init(&gmem, at + GMEM_PAGE, RAM, NULL) == 0);
    }
    memset(gmem.base, 0, 0x8000);
    return &gmem;
}

static uint32_t iov_bytes(const struct iovec *iov, unsigned count)
{
    uint64_t total = 0;
    for (unsigned i = 0; i < count; i++)
        total += iov[i].iov_len;
    check(total <= UINT32_MAX);
    return (uint32_t)total;
}

static void check_chain(const struct virtq_chain *chain, struct gmem *gmem)
{
    static uint8_t buf[4096];
    struct iovec iov[VIRTQ_CHAIN_MAX];
    uint64_t readable = 0, writable = 0, offset;
    check(chain->readable + chain->writable <= VIRTQ_CHAIN_MAX);
    for (unsigned i = 0; i < chain->readable + chain->writable; i++) {
        check(chain->segment[i].len && gmem_offset(gmem, chain->segment[i].gpa, chain->segment[i].len, &offset));
        *(i < chain->readable ? &readable : &writable) += chain->segment[i].len;
    }
    check(readable == chain->readable_len && writable == chain->writable_len && readable + writable <= UINT32_MAX);
    uint32_t at = chain->readable_len / 2, want = chain->readable_len - at;
    check(virtq_chain_read(chain, gmem, at, buf, sizeof buf) == (want < sizeof buf ? want : sizeof buf));
    check(iov_bytes(iov, virtq_chain_iov(chain, gmem, false, at, UINT32_MAX, iov)) == want);
    at = chain->writable_len / 2;
    check(iov_bytes(iov, virtq_chain_iov(chain, gmem, true, at, UINT32_MAX, iov)) == chain->writable_len - at);
    virtq_chain_mark(chain, gmem, at, chain->writable_len - at);
}

/* Eight bytes each: page and offset of the address, length, flags, next. */
static void lay_short(struct gmem *gmem, const uint8_t *data, size_t size)
{
    for (unsigned i = 0; i < VIRTQ_SIZE_MAX && size >= 8; i++, data += 8, size -= 8) {
        uint64_t addr = (uint64_t)data[0] << 12 | data[1];
        uint32_t len = data[2] | (uint32_t)data[3] << (data[4] & 16);
        uint16_t flags = data[4] & 7, next = data[5];
        memcpy(gmem->base + DESC + i * 16, &addr, 8);
        memcpy(gmem->base + DESC + i * 16 + 8, &len, 4);
        memcpy(gmem->base + DESC + i * 16 + 12, &flags, 2);
        memcpy(gmem->base + DESC + i * 16 + 14, &next, 2);
        gmem->base[AVAIL + 4 + i * 2] = data[6];
    }
}

static void load(struct gmem *gmem, struct virtq *vq, const uint8_t *data, size_t size)
{
    struct err err = {0};
    struct unpack u = unpack_from(data, size);
    if (virtq_load(vq, gmem, &u, &err) < 0) {
        check(err.text[0]);
        virtq_reset(vq);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct gmem *gmem = guest();
    struct virtq vq = {.desc = DESC, .avail = AVAIL, .used = USED};
    struct virtq_chain chain;
    if (size < 4)
        return 0;
    vq.size = (uint16_t)(1 << data[0] % 9);
    check(virtq_enable(&vq, gmem) == 0);
    const uint16_t avail = (uint16_t)(data[1] | data[2] << 8);
    const uint8_t how = data[3];
    data += 4;
    size -= 4;
    if (how & 1)
        lay_short(gmem, data, size);
    else
        memcpy(gmem->base + DESC, data, size < 0x3000 ? size : 0x3000);
    memcpy(gmem->base + AVAIL + 2, &avail, 2);
    if (how & 2)
        load(gmem, &vq, data, size);

    int rc;
    unsigned popped = 0;
    while ((rc = virtq_pop(&vq, gmem, &chain)) > 0) {
        check_chain(&chain, gmem);
        virtq_push(&vq, gmem, chain.head, 1);
        check(++popped <= VIRTQ_SIZE_MAX);
        if (popped == 3 && how & 4) {
            virtq_unpop(&vq);
            check(virtq_pop(&vq, gmem, &chain) <= 1);
        }
    }
    check(rc == 0 || (vq.broken && virtq_pop(&vq, gmem, &chain) < 0));
    check(virtq_waiting(&vq, gmem) == 0);
    virtq_wants_interrupt(&vq, gmem);
    return 0;
}
