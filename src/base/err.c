/* err.c: see err.h. */
#include "base/err.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static int negative(int code)
{
    return code > 0 ? -code : -EIO;
}

int err_set(struct err *err, int code, const char *fmt, ...)
{
    if (!err)
        return negative(code);
    err->code = -negative(code);
    va_list args;
    va_start(args, fmt);
    int n = vsnprintf(err->text, sizeof err->text, fmt, args);
    va_end(args);
    if (n >= 0 && (size_t)n < sizeof err->text)
        snprintf(err->text + n, sizeof err->text - (size_t)n, ": %s", strerrordesc_np(err->code));
    return -err->code;
}

int err_say(struct err *err, int code, const char *fmt, ...)
{
    if (!err)
        return negative(code);
    err->code = -negative(code);
    va_list args;
    va_start(args, fmt);
    vsnprintf(err->text, sizeof err->text, fmt, args);
    va_end(args);
    return -err->code;
}

int err_wrap(struct err *err, const char *fmt, ...)
{
    if (!err)
        return -EIO;
    char below[ERR_TEXT_MAX];
    memcpy(below, err->text, sizeof below);
    va_list args;
    va_start(args, fmt);
    int n = vsnprintf(err->text, sizeof err->text, fmt, args);
    va_end(args);
    if (n >= 0 && (size_t)n < sizeof err->text)
        snprintf(err->text + n, sizeof err->text - (size_t)n, ": %s", below);
    return negative(err->code);
}
