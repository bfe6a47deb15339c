/* libc.c: what forkd's own packing and protocol code needs of a C library, and its error object without words. */
#include "base/err.h"

#include <errno.h>
#include <stddef.h>
#include <string.h>

size_t strlen(const char *s)
{
    size_t n = 0;
    while (s[n]) {
        n++;
        __asm__ volatile("" : : : "memory"); /* or the compiler makes a call of strlen out of this */
    }
    return n;
}

void *memchr(const void *s, int c, size_t n)
{
    const unsigned char *at = s;
    for (size_t i = 0; i < n; i++)
        if (at[i] == (unsigned char)c)
            return (void *)(at + i);
    return NULL;
}

static int err_code(struct err *err, int code)
{
    code = code ? code : EIO;
    if (err)
        err->code = code;
    return -code;
}

int err_set(struct err *err, int code, const char *fmt, ...)
{
    return err_code(err, code);
}

int err_say(struct err *err, int code, const char *fmt, ...)
{
    return err_code(err, code);
}

int err_wrap(struct err *err, const char *fmt, ...)
{
    return err_code(err, err ? err->code : EIO);
}
