/* stage.c: see stage.h. */
#include "snap/stage.h"

#include "mem/gmem.h"

#include <errno.h>
#include <string.h>

enum { NUMBERS_BYTES = STAGE_PAGES * sizeof(uint64_t) };
_Static_assert(NUMBERS_BYTES % GMEM_PAGE == 0, "pages of the buffer are pages");

size_t stage_bytes(void)
{
    return NUMBERS_BYTES + (size_t)STAGE_PAGES * GMEM_PAGE;
}

void stage_at(struct stage *s, void *at)
{
    s->number = at;
    s->page = (uint8_t *)at + NUMBERS_BYTES;
}

unsigned stage_fill(struct stage *s, const uint8_t *ram, struct bitmap_summed *bitmap)
{
    unsigned count = 0;
    for (size_t i = bitmap_summed_next(bitmap, 0); i < bitmap->words; i = bitmap_summed_next(bitmap, i + 1))
        for (uint64_t word = bitmap->word[i]; word; word &= word - 1) {
            if (count == STAGE_PAGES)
                return count;
            uint64_t number = i * 64 + (uint64_t)__builtin_ctzll(word);
            memcpy(s->page + (size_t)count * GMEM_PAGE, ram + number * GMEM_PAGE, GMEM_PAGE);
            s->number[count++] = number;
            bitmap->word[i] &= ~(word & -word);
        }
    return count;
}

int stage_place(const struct stage *s, unsigned count, uint8_t *ram, uint64_t pages, uint64_t *placed, struct err *err)
{
    for (unsigned i = 0; i < count; i++) {
        uint64_t number = *(const volatile uint64_t *)&s->number[i];
        if (number >= pages)
            return err_say(err, EPROTO, "the source of the branch staged a page that memory has not");
        memcpy(ram + number * GMEM_PAGE, s->page + (size_t)i * GMEM_PAGE, GMEM_PAGE);
        if (placed)
            placed[number / 64] |= UINT64_C(1) << number % 64;
    }
    return 0;
}
