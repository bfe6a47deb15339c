/* buf.c: see buf.h. */
#include "buf.h"

#include <stdlib.h>
#include <string.h>

enum { FIRST_CAP = 4096, KEPT_CAP = 64 << 10 };

uint8_t *buf_room(struct buf *b, size_t more, size_t limit)
{
    if (b->len > limit || more > limit - b->len)
        return NULL;
    if (b->cap - b->start - b->len >= more && b->mem)
        return b->mem + b->start + b->len;
    if (b->start) {
        memmove(b->mem, b->mem + b->start, b->len);
        b->start = 0;
    }
    size_t cap = b->cap ? b->cap : FIRST_CAP;
    while (cap < b->len + more)
        cap *= 2;
    if (cap != b->cap) {
        uint8_t *mem = realloc(b->mem, cap);
        if (!mem)
            return NULL;
        b->mem = mem;
        b->cap = cap;
    }
    return b->mem + b->len;
}

bool buf_append(struct buf *b, const void *bytes, size_t len, size_t limit)
{
    if (!len)
        return true;
    uint8_t *at = buf_room(b, len, limit);
    if (!at)
        return false;
    memcpy(at, bytes, len);
    buf_grown(b, len);
    return true;
}

void buf_consume(struct buf *b, size_t len)
{
    b->start += len;
    b->len -= len;
    if (b->len)
        return;
    b->start = 0;
    if (b->cap > KEPT_CAP)
        buf_free(b);
}

void buf_free(struct buf *b)
{
    free(b->mem);
    *b = (struct buf){0};
}
