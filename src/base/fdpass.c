/* fdpass.c: see fdpass.h.
 *
 * SECCOMP: sendmsg - control messages to the controller, with descriptors at birth
 * SECCOMP: recvmsg - control messages from the controller, with descriptors
 * SECCOMP: poll - waits for a control message until a deadline */
#include "base/fdpass.h"

#include "base/clock.h"
#include "base/own.h"

#include <poll.h>
#include <string.h>
#include <sys/socket.h>

/* Room for a full set of descriptors, aligned as cmsg(3) wants it. */
union control {
    char bytes[CMSG_SPACE(FDPASS_MAX * sizeof(int))];
    struct cmsghdr align;
};

static int send_message(int sock, const void *bytes, size_t len, const int *fds, size_t count, int flags,
                        struct err *err)
{
    if (!len || count > FDPASS_MAX)
        return err_say(err, EINVAL, "a message of %zu bytes with %zu descriptors cannot be sent", len, count);
    union control control = {0};
    struct iovec iov = {.iov_base = (void *)bytes, .iov_len = len};
    struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};
    if (count) {
        msg.msg_control = control.bytes;
        msg.msg_controllen = CMSG_SPACE(count * sizeof(int));
        struct cmsghdr *header = CMSG_FIRSTHDR(&msg);
        header->cmsg_level = SOL_SOCKET;
        header->cmsg_type = SCM_RIGHTS;
        header->cmsg_len = CMSG_LEN(count * sizeof(int));
        memcpy(CMSG_DATA(header), fds, count * sizeof(int));
    }
    ssize_t n;
    do
        n = sendmsg(sock, &msg, MSG_NOSIGNAL | flags);
    while (n < 0 && errno == EINTR);
    if (n < 0)
        return err_set(err, errno, "send a message");
    if ((size_t)n != len)
        return err_say(err, EIO, "a message was cut after %zd of %zu bytes", n, len);
    return 0;
}

/* Takes the descriptors out of the control data, up to `cap`; what does not fit is closed. Returns how many
 * there were in all. */
static size_t take_descriptors(struct msghdr *msg, int *fds, size_t cap)
{
    size_t seen = 0;
    for (struct cmsghdr *header = CMSG_FIRSTHDR(msg); header; header = CMSG_NXTHDR(msg, header)) {
        if (header->cmsg_level != SOL_SOCKET || header->cmsg_type != SCM_RIGHTS)
            continue;
        size_t here = (header->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        for (size_t i = 0; i < here; i++, seen++) {
            int fd;
            memcpy(&fd, CMSG_DATA(header) + i * sizeof fd, sizeof fd);
            if (seen < cap)
                fds[seen] = fd;
            else
                close(fd);
        }
    }
    return seen;
}

static void close_descriptors(int *fds, size_t count)
{
    for (size_t i = 0; i < count; i++)
        fd_close(&fds[i]);
}

static ssize_t recv_message(int sock, void *buf, size_t cap, int *fds, size_t *count, int flags, struct err *err)
{
    size_t room = *count;
    *count = 0;
    union control control;
    struct iovec iov = {.iov_base = buf, .iov_len = cap};
    struct msghdr msg = {
        .msg_iov = &iov, .msg_iovlen = 1, .msg_control = control.bytes, .msg_controllen = sizeof control.bytes};
    ssize_t n;
    do
        n = recvmsg(sock, &msg, MSG_CMSG_CLOEXEC | flags);
    while (n < 0 && errno == EINTR);
    if (n < 0)
        return err_set(err, errno, "receive a message");

    size_t seen = take_descriptors(&msg, fds, room);
    size_t kept = seen < room ? seen : room;
    if (msg.msg_flags & MSG_TRUNC) {
        close_descriptors(fds, kept);
        return err_say(err, EMSGSIZE, "a message is longer than %zu bytes", cap);
    }
    if (seen > room || msg.msg_flags & MSG_CTRUNC) {
        close_descriptors(fds, kept);
        return err_say(err, EPROTO, "a message carries more than %zu descriptors, or this process has none left", room);
    }
    if (n == 0)
        close_descriptors(fds, kept);
    else
        *count = kept;
    return n;
}

static int wait_for(int sock, short events, uint64_t deadline_ns, struct err *err)
{
    struct pollfd p = {.fd = sock, .events = events};
    int n = poll(&p, 1, clock_ms_until(deadline_ns));
    if (n < 0 && errno != EINTR)
        return err_set(err, errno, "poll");
    if (n <= 0 && clock_monotonic_ns() >= deadline_ns)
        return err_say(err, ETIMEDOUT, "the other end did not %s in time", events == POLLIN ? "answer" : "listen");
    return 0;
}

int fdpass_send(int sock, const void *bytes, size_t len, const int *fds, size_t count, struct err *err)
{
    return send_message(sock, bytes, len, fds, count, 0, err);
}

ssize_t fdpass_recv(int sock, void *buf, size_t cap, int *fds, size_t *count, struct err *err)
{
    return recv_message(sock, buf, cap, fds, count, 0, err);
}

int fdpass_send_by(int sock, const void *bytes, size_t len, const int *fds, size_t count, uint64_t deadline_ns,
                   struct err *err)
{
    for (;;) {
        int rc = send_message(sock, bytes, len, fds, count, MSG_DONTWAIT, err);
        if (rc != -EAGAIN)
            return rc;
        rc = wait_for(sock, POLLOUT, deadline_ns, err);
        if (rc < 0)
            return rc;
    }
}

ssize_t fdpass_recv_by(int sock, void *buf, size_t cap, int *fds, size_t *count, uint64_t deadline_ns, struct err *err)
{
    size_t room = *count;
    for (;;) {
        *count = room;
        ssize_t n = recv_message(sock, buf, cap, fds, count, MSG_DONTWAIT, err);
        if (n != -EAGAIN)
            return n;
        int rc = wait_for(sock, POLLIN, deadline_ns, err);
        if (rc < 0)
            return rc;
    }
}
