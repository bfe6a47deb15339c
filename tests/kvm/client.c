/* client.c: see client.h. */
#include "kvm/client.h"

#include "base/io.h"
#include "base/own.h"

#include <errno.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/time.h>
#include <unistd.h>

int client_listen(struct client_address *at, struct err *err)
{
    own_fd int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    at->sun = (struct sockaddr_un){.sun_family = AF_UNIX};
    at->len = sizeof at->sun;
    if (fd < 0 || bind(fd, (struct sockaddr *)&at->sun, offsetof(struct sockaddr_un, sun_path)) < 0 ||
        listen(fd, SOMAXCONN) < 0 || getsockname(fd, (struct sockaddr *)&at->sun, &at->len) < 0)
        return err_set(err, errno, "make a listening socket");
    return steal_fd(&fd);
}

int client_connect(const struct client_address *at, unsigned port, struct err *err)
{
    own_fd int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct timeval limit = {.tv_sec = CLIENT_LIMIT_S};
    char line[32];
    if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit) < 0 ||
        setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit) < 0 ||
        connect(fd, (const struct sockaddr *)&at->sun, at->len) < 0)
        return err_set(err, errno, "connect to the guest's vsock");
    int len = snprintf(line, sizeof line, "CONNECT %u\n", port);
    int rc = io_write_all(fd, line, (size_t)len, err);
    for (size_t i = 0; rc == 0; i++) {
        rc = io_read_all(fd, line + i, 1, err);
        if (rc == 0 && line[i] == '\n')
            break;
        if (i + 2 == sizeof line)
            rc = err_say(err, EPROTO, "the vsock device answers a CONNECT with a novel");
    }
    if (rc < 0)
        return err_wrap(err, "connect to port %u of the guest", port);
    return memcmp(line, "OK ", 3) ? err_say(err, EPROTO, "no OK for a CONNECT") : steal_fd(&fd);
}

int client_send(int fd, const struct pack *frame, struct err *err)
{
    return frame->full ? err_say(err, EINVAL, "a request that does not fit")
                       : io_write_all(fd, frame->buf, frame->len, err);
}

int client_receive(int fd, uint8_t *buf, size_t cap, struct agent_frame *frame, struct err *err)
{
    size_t need = AGENT_FRAME_HEAD;
    ssize_t n = recv(fd, buf, 1, 0);
    if (n <= 0)
        return n < 0 ? err_set(err, errno, "wait for the guest's answer") : 0;
    size_t len = 1;
    do {
        if (need > cap)
            return err_say(err, EPROTO, "a frame of %zu bytes", need);
        int rc = io_read_all(fd, buf + len, need - len, err);
        if (rc < 0)
            return rc;
        len = need;
        n = agent_frame_parse(buf, len, frame, &need, err);
    } while (n == 0);
    return n < 0 ? (int)n : 1;
}

static int request(const struct client_address *at, const struct pack *frame, struct err *err)
{
    own_fd int fd = client_connect(at, AGENT_PORT, err);
    if (fd < 0)
        return fd;
    int rc = client_send(fd, frame, err);
    return rc < 0 ? rc : steal_fd(&fd);
}

int client_ping(const struct client_address *at, struct err *err)
{
    uint8_t buf[1024];
    struct agent_frame frame;
    struct agent_pong pong;
    struct pack p = pack_into(buf, sizeof buf);
    agent_pack_empty(&p, AGENT_PING);
    own_fd int fd = request(at, &p, err);
    if (fd < 0)
        return fd;
    int rc = client_receive(fd, buf, sizeof buf, &frame, err);
    if (rc == 0)
        return err_say(err, EPIPE, "the guest hung up on a PING");
    return rc < 0 ? rc : agent_unpack_pong(&frame, &pong, err);
}

int client_exec_begin(const struct client_address *at, const char *line, struct err *err)
{
    uint8_t buf[2048];
    const char *argv[] = {"sh", "-c", line, NULL}, *none[] = {NULL};
    struct pack p = pack_into(buf, sizeof buf);
    agent_pack_exec(&p, &(struct agent_exec){.argv = {.strings = argv},
                                             .env = {.strings = none},
                                             .cwd = agent_text_of(""),
                                             .output_limit = UINT32_MAX,
                                             .stdin_ = agent_blob_of("", 0)});
    return request(at, &p, err);
}

static void output_take(struct client_result *result, const struct agent_frame *frame)
{
    size_t room = result->bytes < CLIENT_OUTPUT - 1 ? CLIENT_OUTPUT - 1 - result->bytes : 0;
    size_t n = frame->len < room ? frame->len : room;
    memcpy(result->output + (room ? result->bytes : 0), frame->body, n);
    if (n)
        result->output[result->bytes + n] = 0;
    result->bytes += frame->len;
}

int client_exec(const struct client_address *at, const char *line, struct client_result *result, struct err *err)
{
    static uint8_t buf[AGENT_DATA_MAX + 64];
    struct agent_frame frame;
    struct agent_exit m;
    own_fd int fd = client_exec_begin(at, line, err);
    if (fd < 0)
        return fd;
    result->bytes = 0;
    result->output[0] = 0;
    for (;;) {
        int rc = client_receive(fd, buf, sizeof buf, &frame, err);
        if (rc <= 0)
            return rc < 0 ? rc : err_say(err, EPIPE, "the guest hung up on \"%s\"", line);
        if (frame.type == AGENT_STDOUT || frame.type == AGENT_STDERR) {
            output_take(result, &frame);
            continue;
        }
        rc = agent_unpack_exit(&frame, &m, err);
        result->code = m.code;
        return rc;
    }
}
