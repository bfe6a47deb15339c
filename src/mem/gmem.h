/* gmem.h: guest memory, the only translator of guest-physical addresses.
 *
 * Theory of operation. A guest's RAM is one contiguous host mapping. Guest-physical it is one range from 0,
 * or two: what would reach into the hole below 4 GiB (devices, IOAPIC, LAPIC live there) continues at 4 GiB.
 * "RAM offset" means the position in the host mapping; page n of RAM is at RAM offset n * 4096 whatever the
 * hole does. Images, bitmaps and the stream count in RAM offsets; guests and devices in addresses.
 *
 * Every write of our own devices to guest memory goes through gmem_write() or gmem_dma(), which mark the
 * page, since KVM's dirty log sees only what the guest's CPUs write.
 *
 * Invariants.
 * 1. No pointer is handed out for a range that is not wholly inside one region.
 * 2. A page is marked before a device writes it and again after (the mark may be fetched in between).
 * 3. Guests change memory at any time: callers copy what they validate, and use the copy.
 *
 * Threads: translation is read-only; marks are set atomically from any thread. */
#ifndef FORKD_MEM_GMEM_H
#define FORKD_MEM_GMEM_H

#include "base/err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { GMEM_PAGE_SHIFT = 12, GMEM_PAGE = 1 << GMEM_PAGE_SHIFT };

#define GMEM_LOW_END   UINT64_C(0xc0000000)  /* RAM below the hole ends here at most: 3 GiB */
#define GMEM_HIGH_BASE UINT64_C(0x100000000) /* and continues here: 4 GiB */
#define GMEM_MIN       (UINT64_C(1) << 20)
#define GMEM_MAX       (UINT64_C(64) << 30)

struct gmem {
    uint8_t *base;   /* the host mapping; not owned */
    uint64_t size;   /* bytes of RAM, a multiple of GMEM_PAGE */
    uint64_t low;    /* bytes of it below the hole */
    uint64_t *marks; /* one bit per page of RAM: written by a device since the marks were last fetched; owned */
};

/* `base` must stay mapped for the life of the object. */
int gmem_init(struct gmem *gmem, void *base, uint64_t size, struct err *err);
void gmem_destroy(struct gmem *gmem);

static inline uint64_t gmem_pages(const struct gmem *gmem)
{
    return gmem->size >> GMEM_PAGE_SHIFT;
}

/* Where [gpa, gpa+len) is in the host mapping, for reading; NULL if not wholly in one region. */
const void *gmem_at(const struct gmem *gmem, uint64_t gpa, uint64_t len);

/* The same as a RAM offset; false if there is none. */
bool gmem_offset(const struct gmem *gmem, uint64_t gpa, uint64_t len, uint64_t *offset);

/* Copies out of, or into guest memory: false if the range is not RAM, and then nothing was copied. */
bool gmem_read(const struct gmem *gmem, uint64_t gpa, void *into, uint64_t len);
bool gmem_write(struct gmem *gmem, uint64_t gpa, const void *from, uint64_t len);

/* For transfers straight into guest memory (preadv): marks the pages and returns where they are, or NULL.
 * The caller calls gmem_mark() again when the transfer is complete. */
void *gmem_dma(struct gmem *gmem, uint64_t gpa, uint64_t len);
void gmem_mark(struct gmem *gmem, uint64_t gpa, uint64_t len);

/* ORs the marks into `bitmap` (one bit per page of RAM, in 64-bit words) and clears them. */
void gmem_fetch_marks(struct gmem *gmem, uint64_t *bitmap);

#endif
