/* settling.c: see settling.h.
 *
 * SECCOMP: getppid - it is still there when that is set
 * SECCOMP: prctl[a0 == PR_SET_PDEATHSIG] - the writer of a new image ends with its template */
#include "vmm/settling.h"

#include "base/own.h"
#include "mem/bitmap.h"
#include "sys/clone.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <unistd.h>

/* What the writer leaves for its template. */
struct settling_result {
    bool written;
    struct image image;
    struct err err;
};

void settling_init(struct settling *s)
{
    *s = (struct settling){.ended = {.fd = -1}, .memfd = -1};
}

void settling_shed(struct settling *s)
{
    int pidfd = s->ended.fd;
    fd_close(&pidfd);
    fd_close(&s->memfd);
    if (s->result)
        munmap(s->result, sizeof *s->result);
    s->ended.fd = -1;
    s->result = NULL;
}

static void end(struct settling *s, uint64_t pages, const struct err *err)
{
    int pidfd = s->ended.fd;
    loop_remove(s->loop, &s->ended);
    s->ended.fd = pidfd;
    settling_shed(s);
    s->done(s, pages, err);
}

static void on_ended(struct loop_source *source, uint32_t events)
{
    struct settling *s = list_entry(source, struct settling, ended);
    struct err err = {0};
    const struct settling_result result = *s->result;
    uint64_t pages = bitmap_count(s->content->own, s->content->words);
    int rc = 0;
    if (!result.written)
        rc = err_say(&err, result.err.code ? result.err.code : EIO, "settle: %s",
                     result.err.code ? result.err.text : "its writer was killed");
    if (rc == 0)
        rc = settle_take(s->content, s->gmem, s->memfd, &result.image, &err);
    if (rc == 0)
        s->memfd = -1; /* the content's */
    end(s, pages, rc < 0 ? &err : NULL);
}

static _Noreturn void write_and_exit(struct settling *s, pid_t template)
{
    struct settling_result *result = s->result;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() == template)
        result->written = settle_write(s->content, s->gmem, s->memfd, &result->image, &result->err) == 0;
    _exit(!result->written);
}

static int start(struct settling *s, struct err *err)
{
    s->memfd = memfd_create("forkd-memory", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (s->memfd < 0 || ftruncate(s->memfd, (off_t)s->gmem->size) < 0)
        return err_set(err, errno, "create a new image");
    void *shared = mmap(NULL, sizeof *s->result, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (shared == MAP_FAILED)
        return err_set(err, errno, "map what the writer of an image leaves");
    s->result = shared;
    own_fd int pidfd = -1;
    pid_t self = getpid();
    pid_t pid = clone_fork(&(struct clone_spec){.cgroup_fd = -1, .want_pidfd = true}, &pidfd, err);
    if (pid == 0)
        write_and_exit(s, self);
    int rc = pid < 0 ? (int)pid : loop_add(s->loop, &s->ended, pidfd, EPOLLIN, err);
    if (rc == 0)
        steal_fd(&pidfd);
    return rc;
}

int settling_begin(struct settling *s, struct loop *loop, struct content *content, struct gmem *gmem, struct err *err)
{
    if (s->memfd >= 0)
        return err_say(err, EBUSY, "it settles already");
    if (content->image_fd < 0)
        return err_say(err, EINVAL, "a template without an image cannot settle");
    s->loop = loop;
    s->content = content;
    s->gmem = gmem;
    s->ended.fn = on_ended;
    int rc = start(s, err);
    if (rc < 0)
        settling_shed(s);
    return rc;
}
