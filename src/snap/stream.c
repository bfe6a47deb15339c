/* stream.c: see stream.h. */
#include "snap/stream.h"

#include "base/io.h"
#include "mem/bitmap.h"
#include "mem/gmem.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* /proc/PID/mem copies through one page at a time whatever is asked; larger reads only save system calls. */
enum { RUN_PAGES = 512, COMPARE_PAGES = 256 };

static int read_pages(const struct stream *s, void *into, uint64_t page, uint64_t count, struct err *err)
{
    int rc = io_pread_all(s->memory_fd, into, count * GMEM_PAGE, s->source + page * GMEM_PAGE, err);
    if (rc == -EPIPE)
        return err_say(err, EPIPE, "the source of the branch ended");
    return rc < 0 ? err_wrap(err, "read the source's memory") : 0;
}

/* The next run of set bits from `page` on, at most `most` long; 0 when there is none. */
static uint64_t next_run(const struct stream *s, const uint64_t *bitmap, uint64_t *page, uint64_t most)
{
    size_t words = bitmap_words(s->pages);
    uint64_t at = *page;
    uint64_t word = at < s->pages ? bitmap[at / 64] >> at % 64 : 0;
    if (word) {
        at += (uint64_t)__builtin_ctzll(word);
    } else {
        size_t next = bitmap_next(bitmap, words, at / 64 + 1);
        at = next < words ? next * 64 + (uint64_t)__builtin_ctzll(bitmap[next] | UINT64_C(1) << 63) : s->pages;
    }
    if (at >= s->pages)
        return 0;
    *page = at;
    uint64_t end = at;
    while (end < s->pages && end - at < most && bitmap[end / 64] >> (end % 64) & 1)
        end++;
    return end - at;
}

static void clear_run(uint64_t *bitmap, uint64_t page, uint64_t count)
{
    for (uint64_t p = page; p < page + count; p++)
        bitmap[p / 64] &= ~(UINT64_C(1) << (p % 64));
}

int64_t stream_copy(const struct stream *s, uint64_t *bitmap, struct err *err)
{
    int64_t total = 0;
    uint64_t page = 0, count;
    while ((count = next_run(s, bitmap, &page, RUN_PAGES))) {
        int rc = read_pages(s, s->into + page * GMEM_PAGE, page, count, err);
        if (rc < 0)
            return rc;
        clear_run(bitmap, page, count);
        page += count;
        total += (int64_t)count;
    }
    return total;
}

int64_t stream_compare(const struct stream *s, struct err *err)
{
    int64_t differ = 0;
    uint8_t *buf = malloc((size_t)COMPARE_PAGES * GMEM_PAGE);
    if (!buf)
        return err_set(err, ENOMEM, "compare memory");
    for (uint64_t page = 0; page < s->pages; page += COMPARE_PAGES) {
        uint64_t count = s->pages - page < COMPARE_PAGES ? s->pages - page : COMPARE_PAGES;
        int rc = read_pages(s, buf, page, count, err);
        if (rc < 0) {
            free(buf);
            return rc;
        }
        for (uint64_t i = 0; i < count; i++)
            differ += memcmp(buf + i * GMEM_PAGE, s->into + (page + i) * GMEM_PAGE, GMEM_PAGE) != 0;
    }
    free(buf);
    return differ;
}
