/* branch_wire.c: see branch_wire.h. */
#include "snap/branch_wire.h"

#include "base/fdpass.h"
#include "base/own.h"
#include "base/pack.h"
#include "mem/bitmap.h"
#include "mem/gmem.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>

enum { MESSAGE_LEN = 6 * 4 + 11 * 8 };

int branch_send(int sock, const struct branch_message *m, const int *fds, unsigned count, struct err *err)
{
    uint8_t buf[MESSAGE_LEN];
    struct pack p = pack_into(buf, sizeof buf);
    pack_u32(&p, m->word);
    pack_u32(&p, m->code);
    pack_u32(&p, m->layers);
    pack_u32(&p, m->merges);
    pack_u32(&p, m->staged);
    pack_u32(&p, m->hold);
    pack_u64(&p, m->state_bytes);
    pack_u64(&p, m->wanted);
    pack_u64(&p, m->ram);
    pack_u64(&p, m->row);
    pack_u64(&p, m->instant_source);
    pack_u64(&p, m->instant_number);
    pack_u64(&p, m->kick_ns);
    pack_u64(&p, m->save_ns);
    pack_u64(&p, m->log_ns);
    pack_u64(&p, m->pages_ns);
    pack_u64(&p, m->resume_ns);
    int rc = fdpass_send_by(sock, buf, p.len, fds, count, 0, err);
    return rc < 0 ? err_wrap(err, "talk to the other side of the branch") : 0;
}

static bool parse(const uint8_t *buf, size_t len, struct branch_message *m)
{
    struct unpack u = unpack_from(buf, len);
    uint32_t word = unpack_u32(&u);
    m->code = unpack_u32(&u);
    m->layers = unpack_u32(&u);
    m->merges = unpack_u32(&u);
    m->staged = unpack_u32(&u);
    m->hold = unpack_u32(&u);
    m->state_bytes = unpack_u64(&u);
    m->wanted = unpack_u64(&u);
    m->ram = unpack_u64(&u);
    m->row = unpack_u64(&u);
    m->instant_source = unpack_u64(&u);
    m->instant_number = unpack_u64(&u);
    m->kick_ns = unpack_u64(&u);
    m->save_ns = unpack_u64(&u);
    m->log_ns = unpack_u64(&u);
    m->pages_ns = unpack_u64(&u);
    m->resume_ns = unpack_u64(&u);
    m->word = (enum branch_word)word;
    return unpack_done(&u) && word && word < BRANCH_WORDS_END && m->staged <= STAGE_PAGES;
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
    if (parse(buf, (size_t)len, m)) {
        *count = (unsigned)got;
        return 1;
    }
    for (size_t i = 0; i < got; i++)
        close(fds[i]);
    return err_say(err, EPROTO, "the other side of the branch sent a malformed message");
}

static size_t whole_pages(size_t bytes)
{
    return (bytes + GMEM_PAGE - 1) / GMEM_PAGE * GMEM_PAGE;
}

static size_t bitmap_bytes(uint64_t pages)
{
    return whole_pages(bitmap_words(pages) * sizeof(uint64_t));
}

static size_t shared_bytes(uint64_t pages, size_t state_room)
{
    return 2 * bitmap_bytes(pages) + whole_pages(state_room) + stage_bytes();
}

/* The stage is mapped with its page tables there: its first use is in the pause. */
static int map(struct branch_shared *s, uint64_t pages, size_t state_room, int fd, struct err *err)
{
    size_t bytes = shared_bytes(pages, state_room), stage = bytes - stage_bytes();
    uint8_t *at = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (at == MAP_FAILED)
        return err_set(err, errno, "map what the branch shares");
    if (mmap(at + stage, stage_bytes(), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED | MAP_POPULATE, fd,
             (off_t)stage) == MAP_FAILED) {
        munmap(at, bytes);
        return err_set(err, errno, "map the last pages of the branch");
    }
    *s = (struct branch_shared){.map = at,
                                .bytes = bytes,
                                .wanted = (uint64_t *)(void *)at,
                                .diff = (uint64_t *)(void *)(at + bitmap_bytes(pages)),
                                .state = at + 2 * bitmap_bytes(pages),
                                .state_room = state_room};
    stage_at(&s->stage, at + stage);
    return 0;
}

int branch_shared_make(struct branch_shared *s, uint64_t pages, size_t state_room, int *fd, struct err *err)
{
    own_fd int made = memfd_create("forkd-branch", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (made < 0 || ftruncate(made, (off_t)shared_bytes(pages, state_room)) < 0 ||
        fcntl(made, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) < 0)
        return err_set(err, errno, "make what the branch shares");
    int rc = map(s, pages, state_room, made, err);
    if (rc == 0)
        *fd = steal_fd(&made);
    return rc;
}

int branch_shared_map(struct branch_shared *s, uint64_t pages, uint64_t state_room, int fd, struct err *err)
{
    struct stat st;
    int seals = fcntl(fd, F_GET_SEALS);
    if (seals < 0 || !(seals & F_SEAL_SHRINK) || fstat(fd, &st) < 0 ||
        (uint64_t)st.st_size != shared_bytes(pages, state_room))
        return err_say(err, EPROTO, "what the target of the branch shares is not what it should be");
    return map(s, pages, state_room, fd, err);
}

void branch_shared_unmap(struct branch_shared *s)
{
    if (s->map)
        munmap(s->map, s->bytes);
    *s = (struct branch_shared){0};
}
