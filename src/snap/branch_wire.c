/* branch_wire.c: see branch_wire.h. */
#include "snap/branch_wire.h"

#include "base/fdpass.h"
#include "base/pack.h"
#include "mem/gmem.h"

#include <errno.h>
#include <unistd.h>

enum { MESSAGE_LEN = 4 + 5 * 8 };

uint64_t branch_bitmap_bytes(uint64_t pages)
{
    uint64_t bytes = (pages + 63) / 64 * 8;
    return (bytes + GMEM_PAGE - 1) / GMEM_PAGE * GMEM_PAGE;
}

int branch_send(int sock, const struct branch_message *m, const int *fds, unsigned count, struct err *err)
{
    uint8_t buf[MESSAGE_LEN];
    struct pack p = pack_into(buf, sizeof buf);
    pack_u32(&p, m->word);
    pack_u64(&p, m->a);
    pack_u64(&p, m->b);
    for (int i = 0; i < 3; i++)
        pack_u64(&p, m->t[i]);
    int rc = fdpass_send_by(sock, buf, p.len, fds, count, 0, err);
    return rc < 0 ? err_wrap(err, "talk to the other side of the branch") : 0;
}

int branch_recv(int sock, struct branch_message *m, int *fds, unsigned *count, uint64_t deadline_ns, struct err *err)
{
    uint8_t buf[MESSAGE_LEN];
    size_t got = *count;
    ssize_t len = fdpass_recv_by(sock, buf, sizeof buf, fds, &got, deadline_ns, err);
    if (len == -ECONNRESET) { /* told once, and ahead of its last words, when it left something of ours unread */
        got = *count;
        len = fdpass_recv_by(sock, buf, sizeof buf, fds, &got, deadline_ns, err);
    }
    *count = 0;
    if (len < 0)
        return err_wrap(err, "hear from the other side of the branch");
    if (len == 0)
        return 0;
    struct unpack u = unpack_from(buf, (size_t)len);
    uint32_t word = unpack_u32(&u);
    m->a = unpack_u64(&u);
    m->b = unpack_u64(&u);
    for (int i = 0; i < 3; i++)
        m->t[i] = unpack_u64(&u);
    m->word = (enum branch_word)word;
    if (unpack_done(&u) && word && word < BRANCH_WORDS_END) {
        *count = (unsigned)got;
        return 1;
    }
    for (size_t i = 0; i < got; i++)
        close(fds[i]);
    return err_say(err, EPROTO, "the other side of the branch sent a malformed message");
}
