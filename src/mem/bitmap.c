/* bitmap.c: see bitmap.h. */
#include "mem/bitmap.h"

#include <sys/mman.h>

uint64_t *bitmap_map(size_t words)
{
    void *map = mmap(NULL, words * sizeof(uint64_t), PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    return map == MAP_FAILED ? NULL : map;
}

void bitmap_unmap(uint64_t *bitmap, size_t words)
{
    if (bitmap)
        munmap(bitmap, words * sizeof *bitmap);
}

void bitmap_clear(uint64_t *bitmap, size_t words)
{
    /* Private anonymous memory that was given back reads as zero. */
    madvise(bitmap, words * sizeof *bitmap, MADV_DONTNEED);
}

size_t bitmap_next(const uint64_t *bitmap, size_t words, size_t from)
{
    size_t i = from;
    for (; i < words && i % 8; i++)
        if (bitmap[i])
            return i;
    for (; i + 8 <= words; i += 8) {
        const uint64_t *w = bitmap + i;
        if (w[0] | w[1] | w[2] | w[3] | w[4] | w[5] | w[6] | w[7])
            break;
    }
    while (i < words && !bitmap[i])
        i++;
    return i;
}

uint64_t bitmap_count(const uint64_t *bitmap, size_t words)
{
    uint64_t count = 0;
    for (size_t i = bitmap_next(bitmap, words, 0); i < words; i = bitmap_next(bitmap, words, i + 1))
        count += (uint64_t)__builtin_popcountll(bitmap[i]);
    return count;
}

void bitmap_add(uint64_t *into, const uint64_t *bitmap, size_t words)
{
    for (size_t i = bitmap_next(bitmap, words, 0); i < words; i = bitmap_next(bitmap, words, i + 1))
        into[i] |= bitmap[i];
}

size_t bitmap_summed_next(const struct bitmap_summed *bitmap, size_t from)
{
    size_t groups = bitmap_summary_words(bitmap->words);
    for (size_t group = from / 64; group < groups; group++) {
        uint64_t used = bitmap->summary[group];
        if (group == from / 64)
            used &= UINT64_MAX << from % 64;
        for (; used; used &= used - 1) {
            size_t word = group * 64 + (size_t)__builtin_ctzll(used);
            if (bitmap->word[word])
                return word;
        }
    }
    return bitmap->words;
}

void bitmap_summed_add(struct bitmap_summed *into, const uint64_t *bitmap)
{
    for (size_t i = bitmap_next(bitmap, into->words, 0); i < into->words; i = bitmap_next(bitmap, into->words, i + 1))
        bitmap_summed_or(into, i, bitmap[i]);
}
