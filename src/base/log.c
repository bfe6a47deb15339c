/* log.c: see log.h. */
#include "base/log.h"

#include <stdarg.h>
#include <stdio.h>
#include <unistd.h>

static enum log_level log_most = LOG_INFO;
static const char *log_component = "forkd";

static const char *const level_names[] = {
    [LOG_ERROR] = "error",
    [LOG_WARN] = "warning",
    [LOG_INFO] = "info",
    [LOG_DEBUG] = "debug",
};
_Static_assert(sizeof level_names / sizeof *level_names == LOG_DEBUG + 1, "every level has a name");

void log_init(enum log_level most, const char *component)
{
    log_most = most;
    log_component = component;
}

void log_line(enum log_level level, const char *fmt, ...)
{
    if (level > log_most)
        return;
    char line[1024];
    int n = snprintf(line, sizeof line, "%s %s: ", level_names[level], log_component);
    va_list args;
    va_start(args, fmt);
    int m = vsnprintf(line + n, sizeof line - (size_t)n - 1, fmt, args);
    va_end(args);
    size_t len = (size_t)n + (m > 0 ? (size_t)m : 0);
    if (len > sizeof line - 2)
        len = sizeof line - 2;
    line[len++] = '\n';
    ssize_t written = write(STDERR_FILENO, line, len);
    (void)written; /* there is nowhere else to complain */
}
