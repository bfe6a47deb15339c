/* log.c: see log.h. */
#include "base/log.h"

#include "base/clock.h"
#include "base/utf8.h"

#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { TEXT_MAX = 1024, LINE_MAX = 2048 };

static enum log_level log_most = LOG_INFO;
static const char *log_component = "forkd";
static enum { FORM_PLAIN, FORM_TERMINAL, FORM_JSON } log_form = FORM_PLAIN;
static bool log_coloured;

/* The priorities of sd-daemon(3), and the colours of ECMA-48. */
static const struct {
    const char *name, *priority, *colour;
} levels[] = {
    [LOG_ERROR] = {"error", "<3>", "\033[31m"},
    [LOG_WARN] = {"warning", "<4>", "\033[33m"},
    [LOG_INFO] = {"info", "<6>", ""},
    [LOG_DEBUG] = {"debug", "<7>", "\033[2m"},
};
_Static_assert(sizeof levels / sizeof *levels == LOG_DEBUG + 1, "every level has a name");

/* JOURNAL_STREAM is inherited by programs whose stderr is something else by then: the numbers must be those of it. */
static bool is_journal(int fd)
{
    const char *named = getenv("JOURNAL_STREAM");
    unsigned long long dev, ino;
    struct stat st;
    return named && sscanf(named, "%llu:%llu", &dev, &ino) == 2 && fstat(fd, &st) == 0 && st.st_dev == dev &&
           st.st_ino == ino;
}

void log_init(enum log_level most, const char *component)
{
    const char *plain = getenv("NO_COLOR");
    log_most = most;
    log_component = component;
    log_form = is_journal(STDERR_FILENO) ? FORM_JSON : isatty(STDERR_FILENO) ? FORM_TERMINAL : FORM_PLAIN;
    log_coloured = !plain || !*plain;
    if (log_form == FORM_TERMINAL)
        tzset(); /* while its file may be opened */
}

static size_t line_plain(char *line, enum log_level level, const char *text)
{
    return (size_t)snprintf(line, LINE_MAX, "%s %s: %s", levels[level].name, log_component, text);
}

static size_t line_terminal(char *line, enum log_level level, const char *text)
{
    time_t now = (time_t)(clock_realtime_ns() / NS_PER_SEC);
    struct tm tm;
    localtime_r(&now, &tm);
    const char *colour = log_coloured ? levels[level].colour : "", *end = *colour ? "\033[0m" : "";
    size_t n = strftime(line, LINE_MAX, "%H:%M:%S ", &tm);
    if (level != LOG_INFO)
        n += (size_t)snprintf(line + n, LINE_MAX - n, "%s%s:%s ", colour, levels[level].name, end);
    return n + (size_t)snprintf(line + n, LINE_MAX - n, "%s", text);
}

/* The text as the inside of a JSON string; what does not fit before `cap`, or is no UTF-8, becomes '?' or nothing. */
static size_t put_escaped(char *into, size_t cap, const char *text)
{
    const uint8_t *in = (const uint8_t *)text;
    size_t put = 0, left = strlen(text);
    while (left && put + sizeof "\\u0000" <= cap) {
        size_t n = utf8_length(in, left);
        if (n == 0)
            into[put++] = '?';
        else if (*in == '"' || *in == '\\')
            put += (size_t)snprintf(into + put, cap - put, "\\%c", *in);
        else if (*in < 0x20 || *in == 0x7f)
            put += (size_t)snprintf(into + put, cap - put, "\\u%04x", *in);
        else {
            memcpy(into + put, in, n);
            put += n;
        }
        in += n ? n : 1;
        left -= n ? n : 1;
    }
    return put;
}

static size_t line_json(char *line, enum log_level level, const char *text)
{
    uint64_t now = clock_realtime_ns();
    time_t seconds = (time_t)(now / NS_PER_SEC);
    struct tm tm;
    gmtime_r(&seconds, &tm);
    size_t n = (size_t)snprintf(line, LINE_MAX, "%s{\"ts\":\"", levels[level].priority);
    n += strftime(line + n, LINE_MAX - n, "%Y-%m-%dT%H:%M:%S", &tm);
    n += (size_t)snprintf(line + n, LINE_MAX - n, ".%03uZ\",\"level\":\"%s\",\"component\":\"%s\",\"message\":\"",
                          (unsigned)(now % NS_PER_SEC / NS_PER_MS), levels[level].name, log_component);
    n += put_escaped(line + n, LINE_MAX - n - sizeof "\"}\n", text);
    line[n++] = '"';
    line[n++] = '}';
    return n;
}

void log_line(enum log_level level, const char *fmt, ...)
{
    static size_t (*const forms[])(char *line, enum log_level level, const char *text) = {
        [FORM_PLAIN] = line_plain, [FORM_TERMINAL] = line_terminal, [FORM_JSON] = line_json};
    if (level > log_most)
        return;
    char text[TEXT_MAX], line[LINE_MAX];
    va_list args;
    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    size_t len = forms[log_form](line, level, text);
    if (len > sizeof line - 1)
        len = sizeof line - 1;
    line[len++] = '\n';
    ssize_t written = write(STDERR_FILENO, line, len);
    (void)written; /* there is nowhere else to complain */
}
