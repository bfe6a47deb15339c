/* gmem.c: see gmem.h. */
#include "mem/gmem.h"

#include "base/own.h"
#include "mem/bitmap.h"

#include <string.h>

int gmem_init(struct gmem *gmem, void *base, uint64_t size, struct err *err)
{
    *gmem = (struct gmem){0};
    if (size < GMEM_MIN || size > GMEM_MAX || size % GMEM_PAGE)
        return err_say(err, EINVAL, "memory of %llu bytes: between 1 MiB and 64 GiB in whole pages",
                       (unsigned long long)size);
    uint64_t *marks = bitmap_map(bitmap_words(size >> GMEM_PAGE_SHIFT));
    if (!marks)
        return err_set(err, errno, "map the marks of guest memory");
    *gmem = (struct gmem){.base = base, .size = size, .low = size < GMEM_LOW_END ? size : GMEM_LOW_END, .marks = marks};
    return 0;
}

void gmem_destroy(struct gmem *gmem)
{
    bitmap_unmap(gmem->marks, bitmap_words(gmem_pages(gmem)));
    *gmem = (struct gmem){0};
}

bool gmem_offset(const struct gmem *gmem, uint64_t gpa, uint64_t len, uint64_t *offset)
{
    uint64_t start = 0, size = gmem->low, skip = 0;
    if (gpa >= GMEM_HIGH_BASE) {
        start = GMEM_HIGH_BASE;
        size = gmem->size - gmem->low;
        skip = gmem->low;
    }
    uint64_t at = gpa - start;
    if (at >= size || len > size - at)
        return false;
    *offset = skip + at;
    return true;
}

const void *gmem_at(const struct gmem *gmem, uint64_t gpa, uint64_t len)
{
    uint64_t offset;
    return gmem_offset(gmem, gpa, len, &offset) ? gmem->base + offset : NULL;
}

static void mark_pages(struct gmem *gmem, uint64_t offset, uint64_t len)
{
    if (!len)
        return;
    uint64_t last = (offset + len - 1) >> GMEM_PAGE_SHIFT;
    for (uint64_t page = offset >> GMEM_PAGE_SHIFT; page <= last; page++)
        __atomic_fetch_or(&gmem->marks[page / 64], UINT64_C(1) << (page % 64), __ATOMIC_SEQ_CST);
}

void gmem_mark(struct gmem *gmem, uint64_t gpa, uint64_t len)
{
    uint64_t offset;
    if (gmem_offset(gmem, gpa, len, &offset))
        mark_pages(gmem, offset, len);
}

void *gmem_dma(struct gmem *gmem, uint64_t gpa, uint64_t len)
{
    uint64_t offset;
    if (!gmem_offset(gmem, gpa, len, &offset))
        return NULL;
    mark_pages(gmem, offset, len);
    return gmem->base + offset;
}

bool gmem_read(const struct gmem *gmem, uint64_t gpa, void *into, uint64_t len)
{
    const void *at = gmem_at(gmem, gpa, len);
    if (!at)
        return false;
    memcpy(into, at, len);
    return true;
}

bool gmem_write(struct gmem *gmem, uint64_t gpa, const void *from, uint64_t len)
{
    void *at = gmem_dma(gmem, gpa, len);
    if (!at)
        return false;
    memcpy(at, from, len);
    gmem_mark(gmem, gpa, len);
    return true;
}

void gmem_fetch_marks(struct gmem *gmem, uint64_t *bitmap)
{
    size_t words = bitmap_words(gmem_pages(gmem));
    /* A plain look first: an exchange would touch, and so allocate, every page of the marks. A mark that is set behind
     * the look is fetched the next time, as one set after the call. */
    for (size_t w = bitmap_next(gmem->marks, words, 0); w < words; w = bitmap_next(gmem->marks, words, w + 1))
        bitmap[w] |= __atomic_exchange_n(&gmem->marks[w], 0, __ATOMIC_SEQ_CST);
}
