/* defuse.c: see defuse.h. */
#include "cli/defuse.h"

#include <stddef.h>

/* How many bytes of it are a control character at `at` (ECMA-48: C0, DEL and C1, which terminals obey too). */
static size_t control_length(const unsigned char *at)
{
    if (*at == 0xc2 && at[1] >= 0x80 && at[1] <= 0x9f)
        return 2;
    return (*at < ' ' && *at != '\n' && *at != '\t') || *at == 0x7f;
}

char *text_defuse(char *text)
{
    unsigned char *put = (unsigned char *)text;
    for (const unsigned char *at = put; *at;) {
        size_t control = control_length(at);
        *put++ = control ? '?' : *at;
        at += control ? control : 1;
    }
    *put = 0;
    return text;
}
