/* tail.h: the last line of an output, kept while the output goes by. */
#ifndef FORKD_AGENT_TAIL_H
#define FORKD_AGENT_TAIL_H

#include <stddef.h>
#include <stdint.h>

enum { TAIL_MAX = 200 };

struct tail {
    char line[TAIL_MAX + 1]; /* the beginning of the last line that is not empty, terminated */
    size_t len;
    int ended; /* the next character begins a new line */
};

static inline void tail_take(struct tail *t, const uint8_t *bytes, size_t len)
{
    for (size_t i = 0; i < len; i++) {
        if (bytes[i] == '\n' || bytes[i] == 0) {
            t->ended = 1;
            continue;
        }
        if (t->ended)
            t->len = 0;
        t->ended = 0;
        if (t->len < TAIL_MAX)
            t->line[t->len++] = (char)bytes[i];
        t->line[t->len] = 0;
    }
}

#endif
