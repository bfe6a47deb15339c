/* bitmap.h: one bit per page of RAM, in 64-bit words.
 *
 * Mapped without reserve: words that nobody touched cost nothing, and reading them costs no page either. Most bitmaps
 * are nearly empty and scanned in the pause of a branch: bitmap_next() skips eight words at a time, and what has a
 * summary is not scanned at all where it is empty. */
#ifndef FORKD_MEM_BITMAP_H
#define FORKD_MEM_BITMAP_H

#include <stddef.h>
#include <stdint.h>

static inline size_t bitmap_words(uint64_t pages)
{
    return (size_t)((pages + 63) / 64);
}

/* All zero; NULL without memory. */
uint64_t *bitmap_map(size_t words);
/* NULL is fine. */
void bitmap_unmap(uint64_t *bitmap, size_t words);
/* All zero again, its memory given back. */
void bitmap_clear(uint64_t *bitmap, size_t words);

/* The next word that is not zero, from `from` on; `words` when there is none. */
size_t bitmap_next(const uint64_t *bitmap, size_t words, size_t from);
/* A bitmap with a summary: bit i of it is set when word i may not be zero. Who clears bits leaves the summary. */
struct bitmap_summed {
    uint64_t *word;
    uint64_t *summary; /* bitmap_summary_words(words) of them */
    size_t words;
};

static inline size_t bitmap_summary_words(size_t words)
{
    return (words + 63) / 64;
}

static inline void bitmap_summed_or(struct bitmap_summed *bitmap, size_t word, uint64_t bits)
{
    bitmap->word[word] |= bits;
    bitmap->summary[word / 64] |= UINT64_C(1) << word % 64;
}

/* As bitmap_next(), by the summary. */
size_t bitmap_summed_next(const struct bitmap_summed *bitmap, size_t from);
void bitmap_summed_add(struct bitmap_summed *into, const uint64_t *bitmap);

/* Bits set. */
uint64_t bitmap_count(const uint64_t *bitmap, size_t words);
void bitmap_add(uint64_t *into, const uint64_t *bitmap, size_t words);

#endif
