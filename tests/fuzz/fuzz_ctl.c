/* fuzz_ctl.c: control messages as a process that a guest has taken over might send them to the controller. What is
 * taken keeps its bounds, and is sent and taken again without a change; no descriptor stays open.
 *
 * Input: the type, the mask of descriptors (4 bytes), how many come along beyond those, then the body. */
#include "base/fdpass.h"
#include "base/own.h"
#include "proto/ctl.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

enum { HEAD = 6 };

static void require(bool holds)
{
    if (!holds)
        abort();
}

/* A message as it goes over a socket; its length. */
static ssize_t sent(int pair[2], const struct ctl_message *m, uint8_t *buf)
{
    int fds[FDPASS_MAX];
    size_t count = FDPASS_MAX;
    require(ctl_send(pair[0], m, NULL) == 0);
    ssize_t len = fdpass_recv(pair[1], buf, CTL_MESSAGE_MAX, fds, &count, NULL);
    for (size_t i = 0; i < count; i++)
        close(fds[i]);
    return len;
}

static void same_again(int pair[2], const struct ctl_message *m)
{
    static uint8_t first[CTL_MESSAGE_MAX], second[CTL_MESSAGE_MAX];
    static struct ctl_message again;
    ssize_t len = sent(pair, m, first);
    require(len > 0 && ctl_send(pair[0], m, NULL) == 0);
    require(ctl_recv(pair[1], &again, NULL) == 1);
    require(sent(pair, &again, second) == len && !memcmp(first, second, (size_t)len));
    ctl_message_close(&again);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    static struct ctl_message m;
    static uint8_t buf[CTL_MESSAGE_MAX];
    int pair[2], fds[FDPASS_MAX];
    if (len < HEAD || len > CTL_MESSAGE_MAX - 64)
        return 0;
    require(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair) == 0);
    int lowest = dup(pair[0]);
    close(lowest);
    struct pack p = pack_into(buf, sizeof buf);
    pack_u32(&p, CTL_MAGIC);
    pack_u32(&p, CTL_VERSION);
    pack_u32(&p, data[0]);
    pack_u32(&p, 7);
    pack_bytes(&p, data + 1, 4);
    pack_bytes(&p, data + HEAD, len - HEAD);
    uint32_t mask;
    memcpy(&mask, data + 1, sizeof mask);
    size_t count = (size_t)__builtin_popcount(mask) + data[5] % 4;
    for (size_t i = 0; i < count; i++)
        fds[i] = pair[0];
    require(fdpass_send(pair[0], buf, p.len, fds, count, NULL) >= 0);
    if (ctl_recv(pair[1], &m, NULL) == 1) {
        same_again(pair, &m);
        ctl_message_close(&m);
    }
    int after = dup(pair[0]);
    require(after == lowest);
    close(after);
    close(pair[0]);
    close(pair[1]);
    return 0;
}
