/* pack.c: see pack.h. */
#include "base/pack.h"

#include <string.h>

void pack_bytes(struct pack *p, const void *bytes, size_t len)
{
    if (p->full || len > p->cap - p->len) {
        p->full = true;
        return;
    }
    if (len)
        memcpy(p->buf + p->len, bytes, len);
    p->len += len;
}

void pack_u8(struct pack *p, uint8_t v)
{
    pack_bytes(p, &v, sizeof v);
}

static void pack_le(struct pack *p, uint64_t v, size_t width)
{
    uint8_t b[8];
    for (size_t i = 0; i < width; i++)
        b[i] = (uint8_t)(v >> (8 * i));
    pack_bytes(p, b, width);
}

void pack_u16(struct pack *p, uint16_t v)
{
    pack_le(p, v, sizeof v);
}

void pack_u32(struct pack *p, uint32_t v)
{
    pack_le(p, v, sizeof v);
}

void pack_u64(struct pack *p, uint64_t v)
{
    pack_le(p, v, sizeof v);
}

void pack_blob(struct pack *p, const void *bytes, size_t len)
{
    if (len > UINT32_MAX) {
        p->full = true;
        return;
    }
    pack_u32(p, (uint32_t)len);
    pack_bytes(p, bytes, len);
}

void pack_str(struct pack *p, const char *s)
{
    pack_blob(p, s, strlen(s));
}

const uint8_t *unpack_span(struct unpack *u, size_t len)
{
    if (u->bad || len > u->len - u->at) {
        u->bad = true;
        return NULL;
    }
    const uint8_t *span = u->buf + u->at;
    u->at += len;
    return span;
}

bool unpack_bytes(struct unpack *u, void *into, size_t len)
{
    const uint8_t *span = unpack_span(u, len);
    if (!span)
        return false;
    if (len)
        memcpy(into, span, len);
    return true;
}

static uint64_t unpack_le(struct unpack *u, size_t width)
{
    const uint8_t *span = unpack_span(u, width);
    uint64_t v = 0;
    for (size_t i = 0; span && i < width; i++)
        v |= (uint64_t)span[i] << (8 * i);
    return v;
}

uint8_t unpack_u8(struct unpack *u)
{
    return (uint8_t)unpack_le(u, 1);
}

uint16_t unpack_u16(struct unpack *u)
{
    return (uint16_t)unpack_le(u, 2);
}

uint32_t unpack_u32(struct unpack *u)
{
    return (uint32_t)unpack_le(u, 4);
}

uint64_t unpack_u64(struct unpack *u)
{
    return unpack_le(u, 8);
}

const uint8_t *unpack_blob(struct unpack *u, size_t *len)
{
    size_t n = unpack_u32(u);
    const uint8_t *span = unpack_span(u, n);
    *len = span ? n : 0;
    return span;
}

bool unpack_str(struct unpack *u, char *into, size_t cap)
{
    size_t len;
    const uint8_t *span = unpack_blob(u, &len);
    if (!span || len >= cap || memchr(span, 0, len)) {
        u->bad = true;
        if (cap)
            into[0] = 0;
        return false;
    }
    memcpy(into, span, len);
    into[len] = 0;
    return true;
}
