/* audit.c: see audit.h. A line is one write(2) in append mode, so lines never mix. */
#include "controller/audit.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/own.h"
#include "proto/rest.h"

#include <fcntl.h>
#include <pthread.h>
#include <string.h>

struct audit {
    pthread_mutex_t lock;
    int fd;
    bool failing;
    char *path;
};

static int file_open(const char *path, struct err *err)
{
    int fd = open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0640);
    return fd < 0 ? err_set(err, errno, "open the audit log %s", path) : fd;
}

int audit_open(const char *path, struct audit **audit, struct err *err)
{
    *audit = NULL;
    if (!path)
        return 0;
    own_fd int fd = file_open(path, err);
    if (fd < 0)
        return fd;
    struct audit *a = calloc(1, sizeof *a);
    if (!a || !(a->path = strdup(path))) {
        free(a);
        return err_say(err, ENOMEM, "out of memory");
    }
    pthread_mutex_init(&a->lock, NULL);
    a->fd = steal_fd(&fd);
    *audit = a;
    return 0;
}

void audit_close(struct audit *a)
{
    if (!a)
        return;
    fd_close(&a->fd);
    pthread_mutex_destroy(&a->lock);
    free(a->path);
    free(a);
}

int audit_reopen(struct audit *a, struct err *err)
{
    int fd = a ? file_open(a->path, err) : 0;
    if (!a || fd < 0)
        return fd;
    pthread_mutex_lock(&a->lock);
    fd_close(&a->fd);
    a->fd = fd;
    pthread_mutex_unlock(&a->lock);
    return 0;
}

/* RFC 3339 with milliseconds. */
static void timestamp(char *text, size_t cap)
{
    uint64_t now = clock_realtime_ns();
    time_t seconds = (time_t)(now / NS_PER_SEC);
    struct tm tm;
    gmtime_r(&seconds, &tm);
    size_t n = strftime(text, cap, "%Y-%m-%dT%H:%M:%S", &tm);
    snprintf(text + n, cap - n, ".%03uZ", (unsigned)(now % NS_PER_SEC / NS_PER_MS));
}

static json_t *text_or_null(const char *text)
{
    return text ? rest_json_bytes(text, strlen(text)) : json_null();
}

void audit_write(struct audit *a, const struct audit_line *line)
{
    char ts[40];
    if (!a)
        return;
    timestamp(ts, sizeof ts);
    json_t *object = json_object();
    json_object_set_new(object, "ts", json_string(ts));
    json_object_set_new(object, "method", text_or_null(line->method));
    json_object_set_new(object, "path", text_or_null(line->path));
    json_object_set_new(object, "status", json_integer(line->status));
    json_object_set_new(object, "latency_us", json_integer((json_int_t)line->latency_us));
    json_object_set_new(object, "ua", text_or_null(line->ua));
    json_object_set_new(object, "remote", text_or_null(line->remote));
    json_object_set_new(object, "token_id", text_or_null(line->token_id));
    own_free char *text = json_dumps(object, JSON_COMPACT);
    json_decref(object);
    size_t len = text ? strlen(text) : 0;
    if (!len)
        return;
    text[len] = '\n'; /* over the terminator */
    pthread_mutex_lock(&a->lock);
    ssize_t written = write(a->fd, text, len + 1);
    bool failed = written != (ssize_t)len + 1;
    if (written >= 0 && failed)
        errno = ENOSPC; /* what cuts a line of a file short */
    if (failed && !a->failing)
        log_error("the audit log %s cannot be written: %s", a->path, strerrordesc_np(errno));
    a->failing = failed;
    pthread_mutex_unlock(&a->lock);
}
