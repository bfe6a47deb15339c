/* text.c: see text.h. */
#include "text.h"

#include <string.h>

void text_add(struct text *t, const char *s, size_t len)
{
    if (len > t->cap - t->len)
        len = t->cap - t->len;
    memcpy(t->at + t->len, s, len);
    t->len += len;
}

void text_str(struct text *t, const char *s)
{
    text_add(t, s, strlen(s));
}

static void digits(struct text *t, uint64_t v, unsigned base)
{
    char buf[20];
    size_t at = sizeof buf;
    do {
        buf[--at] = "0123456789abcdef"[v % base];
        v /= base;
    } while (v);
    text_add(t, buf + at, sizeof buf - at);
}

void text_dec(struct text *t, int64_t v)
{
    if (v < 0)
        text_str(t, "-");
    digits(t, v < 0 ? 0 - (uint64_t)v : (uint64_t)v, 10);
}

void text_hex(struct text *t, uint64_t v)
{
    text_str(t, "0x");
    digits(t, v, 16);
}

bool text_is(const char *s, size_t len, const char *what)
{
    return strlen(what) == len && !memcmp(s, what, len);
}

uint64_t text_number(const char *s, size_t len, uint64_t otherwise)
{
    uint64_t v = 0;
    unsigned base = 10, shift = 0;
    if (len > 2 && s[0] == '0' && s[1] == 'x') {
        base = 16;
        s += 2;
        len -= 2;
    } else if (len > 1 && (s[len - 1] == 'k' || s[len - 1] == 'm' || s[len - 1] == 'g')) {
        shift = s[len - 1] == 'k' ? 10 : s[len - 1] == 'm' ? 20 : 30;
        len--;
    }
    if (!len)
        return otherwise;
    for (size_t i = 0; i < len; i++) {
        unsigned digit = (unsigned)s[i] - '0';
        if (digit > 9)
            digit = (unsigned)s[i] - 'a' + 10;
        if (digit >= base)
            return otherwise;
        v = v * base + digit;
    }
    return v << shift;
}
