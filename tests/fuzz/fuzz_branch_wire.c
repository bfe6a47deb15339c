/* fuzz_branch_wire.c: what source and target of a branch say to each other, as another VMM's words. A message that is
 * taken keeps its bounds and says the same when it is sent on; descriptors of one that is not are closed. */
#include "base/own.h"
#include "snap/branch_wire.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

enum { PACKET_MAX = 512 };

static void check(int claim)
{
    if (!claim)
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    struct branch_message m;
    struct err err;
    int pair[2], fds[1];
    unsigned count = 1;
    uint8_t again[PACKET_MAX];
    if (!len || len > PACKET_MAX)
        return 0;
    check(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) == 0);
    own_fd int ours = pair[0], theirs = pair[1];
    check(send(theirs, data, len, 0) == (ssize_t)len);
    int rc = branch_recv(ours, &m, fds, &count, 0, &err);
    check(count == 0 && (rc == 1 || (rc < 0 && err.code && *err.text)));
    if (rc < 0)
        return 0;
    check(m.word >= BRANCH_HELLO && m.word < BRANCH_WORDS_END && m.staged <= STAGE_PAGES);
    check(branch_send(ours, &m, NULL, 0, &err) == 0);
    check(recv(theirs, again, sizeof again, 0) == (ssize_t)len && !memcmp(again, data, len));
    return 0;
}
