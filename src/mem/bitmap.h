/* bitmap.h: one bit per page of RAM, in 64-bit words.
 *
 * Mapped without reserve: words that nobody touched cost nothing, and reading them costs no page either. Most bitmaps
 * are nearly empty and scanned in the pause of a branch: bitmap_next() skips eight words at a time. */
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
/* Bits set. */
uint64_t bitmap_count(const uint64_t *bitmap, size_t words);
void bitmap_add(uint64_t *into, const uint64_t *bitmap, size_t words);

#endif
