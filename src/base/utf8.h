/* utf8.h: which bytes are UTF-8. */
#ifndef FORKD_BASE_UTF8_H
#define FORKD_BASE_UTF8_H

#include <stddef.h>
#include <stdint.h>

/* The length of the UTF-8 sequence at `at`, 0 when there is none (RFC 3629: no surrogates, nothing overlong). */
static inline size_t utf8_length(const uint8_t *at, size_t left)
{
    static const struct {
        uint8_t lead_low, lead_high, second_low, second_high, len;
    } forms[] = {
        {0x00, 0x7f, 0x00, 0x00, 1}, {0xc2, 0xdf, 0x80, 0xbf, 2}, {0xe0, 0xe0, 0xa0, 0xbf, 3},
        {0xe1, 0xec, 0x80, 0xbf, 3}, {0xed, 0xed, 0x80, 0x9f, 3}, {0xee, 0xef, 0x80, 0xbf, 3},
        {0xf0, 0xf0, 0x90, 0xbf, 4}, {0xf1, 0xf3, 0x80, 0xbf, 4}, {0xf4, 0xf4, 0x80, 0x8f, 4},
    };
    for (size_t f = 0; f < sizeof forms / sizeof *forms; f++) {
        if (*at < forms[f].lead_low || *at > forms[f].lead_high)
            continue;
        size_t len = forms[f].len;
        if (len > left || (len > 1 && (at[1] < forms[f].second_low || at[1] > forms[f].second_high)))
            return 0;
        for (size_t i = 2; i < len; i++)
            if ((at[i] & 0xc0) != 0x80)
                return 0;
        return len;
    }
    return 0;
}

#endif
