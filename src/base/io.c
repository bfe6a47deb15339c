/* io.c: see io.h.
 *
 * SECCOMP: read - sockets, eventfds, memory of a source
 * SECCOMP: write - sockets, eventfds, pipes
 * SECCOMP: pread64 - disks, images
 * SECCOMP: pwrite64 - disks, images */
#include "base/io.h"

#include "base/own.h"

#include <fcntl.h>

int io_read_all(int fd, void *buf, size_t len, struct err *err)
{
    for (size_t got = 0; got < len;) {
        ssize_t n = read(fd, (char *)buf + got, len - got);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return err_set(err, errno, "read");
        if (n == 0)
            return err_say(err, EPIPE, "the other end closed after %zu of %zu bytes", got, len);
        got += (size_t)n;
    }
    return 0;
}

int io_write_all(int fd, const void *buf, size_t len, struct err *err)
{
    for (size_t put = 0; put < len;) {
        ssize_t n = write(fd, (const char *)buf + put, len - put);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return err_set(err, errno, "write");
        put += (size_t)n;
    }
    return 0;
}

int io_pread_all(int fd, void *buf, size_t len, uint64_t at, struct err *err)
{
    for (size_t got = 0; got < len;) {
        ssize_t n = pread(fd, (char *)buf + got, len - got, (off_t)(at + got));
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return err_set(err, errno, "read at %llu", (unsigned long long)(at + got));
        if (n == 0)
            return err_say(err, EPIPE, "the file ends at %llu, before %llu", (unsigned long long)(at + got),
                           (unsigned long long)(at + len));
        got += (size_t)n;
    }
    return 0;
}

int io_pwrite_all(int fd, const void *buf, size_t len, uint64_t at, struct err *err)
{
    for (size_t put = 0; put < len;) {
        ssize_t n = pwrite(fd, (const char *)buf + put, len - put, (off_t)(at + put));
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return err_set(err, errno, "write at %llu", (unsigned long long)(at + put));
        put += (size_t)n;
    }
    return 0;
}

ssize_t io_read_text(int dirfd, const char *path, char *buf, size_t cap, struct err *err)
{
    own_fd int fd = openat(dirfd, path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return err_set(err, errno, "open %s", path);
    size_t got = 0;
    while (got < cap - 1) {
        ssize_t n = read(fd, buf + got, cap - 1 - got);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return err_set(err, errno, "read %s", path);
        if (n == 0)
            break;
        got += (size_t)n;
    }
    buf[got] = 0;
    return (ssize_t)got;
}
