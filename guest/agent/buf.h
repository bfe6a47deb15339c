/* buf.h: a queue of bytes that grows up to a limit its user sets. */
#ifndef FORKD_AGENT_BUF_H
#define FORKD_AGENT_BUF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct buf {
    uint8_t *mem;
    size_t start, len, cap; /* the bytes queued are mem[start .. start+len) */
};

static inline uint8_t *buf_at(const struct buf *b)
{
    return b->mem + b->start;
}

/* Makes room for `more` bytes behind those queued and returns the place, or NULL when that needs more than
 * `limit` bytes in all or there is no memory. buf_grown says how many of them were filled. */
uint8_t *buf_room(struct buf *b, size_t more, size_t limit);

static inline void buf_grown(struct buf *b, size_t len)
{
    b->len += len;
}

bool buf_append(struct buf *b, const void *bytes, size_t len, size_t limit);

/* Drops `len` bytes at the front. An emptied queue that had grown large gives its memory back. */
void buf_consume(struct buf *b, size_t len);

void buf_free(struct buf *b);

#endif
