/* text.h: building and reading short texts without a C library. */
#ifndef GUEST_TEXT_H
#define GUEST_TEXT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct text {
    char *at;
    size_t cap, len; /* what does not fit is dropped */
};

void text_add(struct text *t, const char *s, size_t len);
void text_str(struct text *t, const char *s);
void text_dec(struct text *t, int64_t v);
void text_hex(struct text *t, uint64_t v);

bool text_is(const char *s, size_t len, const char *what);
/* The number (decimal or 0x, suffixes k, m, g) that is all of the text, else `otherwise`. */
uint64_t text_number(const char *s, size_t len, uint64_t otherwise);

#endif
