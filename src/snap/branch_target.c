/* branch_target.c: the target's side of a branch; see branch.h. It leads. */
#include "base/clock.h"
#include "base/own.h"
#include "snap/branch.h"
#include "snap/branch_wire.h"
#include "snap/machine_state.h"
#include "snap/stream.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>

enum { PATIENCE_SECONDS = 30 };

struct target {
    struct machine *machine;
    int peer;
    struct stream stream;
    uint8_t *shared;
    uint64_t bitmap_bytes, state_cap;
    uint64_t state_len;
    unsigned layers; /* descriptors that came with PARKED */
    int layer_fd[BRANCH_FDS_MAX];
    struct machine_instant instant; /* what it becomes */
};

static uint64_t *bitmap(const struct target *t)
{
    return (uint64_t *)(void *)t->shared;
}

/* Asks, and hears an answer of that kind. */
static int ask(struct target *t, enum branch_word word, enum branch_word wanted, struct branch_message *answer,
               struct err *err)
{
    struct branch_message m = {.word = word};
    int rc = branch_send(t->peer, &m, NULL, 0, err);
    /* A source that hung up has said why: that word still lies in our socket. */
    if (rc < 0 && rc != -EPIPE && rc != -ECONNRESET)
        return rc;
    int fds[BRANCH_FDS_MAX];
    unsigned count = BRANCH_FDS_MAX;
    rc = branch_recv(t->peer, answer, fds, &count, clock_monotonic_ns() + PATIENCE_SECONDS * NS_PER_SEC, err);
    if (rc < 0)
        return rc;
    if (rc == 0)
        return err_say(err, EPIPE, "the source of the branch ended");
    if (answer->word == BRANCH_PARKED && wanted == BRANCH_PARKED) {
        memcpy(t->layer_fd, fds, count * sizeof *fds);
        t->layers = count;
        return 0;
    }
    for (unsigned i = 0; i < count; i++)
        close(fds[i]);
    if (answer->word == BRANCH_SORRY)
        return err_say(err, answer->a && answer->a < 4096 ? (int)answer->a : EIO,
                       "the source could not be branched: %s", strerrordesc_np((int)(answer->a & 4095)));
    if (answer->word != wanted)
        return err_say(err, EPROTO, "the source of the branch answered %d instead of %d", answer->word, wanted);
    return 0;
}

static int share(struct target *t, struct err *err)
{
    t->bitmap_bytes = branch_bitmap_bytes(gmem_pages(&t->machine->gmem));
    t->state_cap = machine_state_bound(t->machine); /* the source's too: its disk has as many blocks */
    own_fd int fd = memfd_create("forkd-branch", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (fd < 0 || ftruncate(fd, (off_t)(t->bitmap_bytes + t->state_cap)) < 0 ||
        fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) < 0)
        return err_set(err, errno, "make what the branch shares");
    void *map = mmap(NULL, t->bitmap_bytes + t->state_cap, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (map == MAP_FAILED)
        return err_set(err, errno, "map what the branch shares");
    t->shared = map;
    const struct machine_instant *have = &t->machine->instant;
    struct branch_message hello = {.word = BRANCH_HELLO,
                                   .a = t->state_cap,
                                   .b = t->machine->config.disk ? t->machine->disk.opened : 0,
                                   .t = {have->source, have->number}};
    return branch_send(t->peer, &hello, &fd, 1, err);
}

/* While the source runs. Ends when few pages are left, when they stop shrinking, or at the limit. */
static int rounds(struct target *t, struct branch_report *report, struct err *err)
{
    uint64_t before = UINT64_MAX;
    for (unsigned round = 0; round < BRANCH_ROUNDS_MAX; round++) {
        struct branch_message answer;
        int rc = ask(t, BRANCH_FETCH, BRANCH_FETCHED, &answer, err);
        if (rc < 0)
            return rc;
        /* Fetched pages stay in the bitmap: the pause reads them if no round does. */
        if (answer.a < BRANCH_FEW_PAGES || (round > 1 && answer.a > before - before / 10))
            return 0;
        before = answer.a;
        int64_t pages = stream_copy(&t->stream, bitmap(t), err);
        if (pages < 0)
            return (int)pages;
        report->pages_streamed += (uint64_t)pages;
        report->rounds++;
    }
    return 0;
}

static int the_pause(struct target *t, bool compare, struct branch_report *report, struct err *err)
{
    struct branch_message answer;
    int rc = ask(t, BRANCH_PARK, BRANCH_PARKED, &answer, err);
    if (rc < 0)
        return rc;
    if (answer.a > t->state_cap)
        return err_say(err, EPROTO, "the source's state is longer than its room");
    t->state_len = answer.a;
    report->kick_ns = answer.t[0];
    report->save_ns = answer.t[1];
    report->log_ns = answer.t[2];
    uint64_t began = clock_monotonic_ns();
    int64_t pages = stream_stage(&t->stream, bitmap(t), err);
    if (pages < 0)
        return (int)pages;
    report->pages_in_pause = (uint64_t)pages;
    report->pages_ns = clock_monotonic_ns() - began;
    report->pages_differing = -1;
    if (compare) {
        stream_place(&t->stream);
        report->pages_differing = stream_compare(&t->stream, err);
        if (report->pages_differing < 0)
            return (int)report->pages_differing;
    }
    rc = ask(t, BRANCH_RESUME, BRANCH_RESUMED, &answer, err);
    if (rc < 0)
        return rc;
    report->resume_ns = answer.t[0];
    t->instant = (struct machine_instant){answer.a, answer.b};
    return 0;
}

static bool same_machine(const struct machine_config *a, const struct machine_config *b)
{
    return a->mem_bytes == b->mem_bytes && a->vcpus == b->vcpus && a->disk == b->disk &&
           a->disk_read_only == b->disk_read_only && a->disk_bytes == b->disk_bytes;
}

/* A machine of the source's state on the same memory, with the layers of both. */
static int replace_machine(struct target *t, struct err *err)
{
    own_free uint8_t *state = malloc(t->state_len ? t->state_len : 1);
    struct machine_config config;
    if (!state)
        return err_set(err, ENOMEM, "read the source's state");
    /* Copied first: what is verified is what is used, whatever the source still writes there. */
    memcpy(state, t->shared + t->bitmap_bytes, t->state_len);
    int rc = machine_state_config(state, t->state_len, &config, err);
    if (rc == 0 && !same_machine(&config, &t->machine->config))
        rc = err_say(err, EPROTO, "the source is another machine than its template");
    if (rc < 0)
        return rc;
    struct machine *made = machine_new(&config, t->machine->gmem.base, err);
    rc = made ? machine_state_read(made, state, t->state_len, err) : -err->code;
    if (rc == 0 && config.disk)
        rc = disk_take(&made->disk, &t->machine->disk, err);
    for (unsigned i = 0; rc == 0 && i < t->layers; i++)
        rc = disk_open_frozen(&made->disk, steal_fd(&t->layer_fd[i]), err);
    if (rc < 0) {
        machine_free(made);
        return rc;
    }
    made->instant = t->instant;
    machine_free(t->machine);
    t->machine = made;
    return 0;
}

int branch_target_run(struct machine **m, int peer, int memory_fd, bool compare, struct branch_report *report,
                      struct err *err)
{
    struct target t = {.machine = *m, .peer = peer};
    *report = (struct branch_report){0};
    const struct gmem *gmem = &t.machine->gmem;
    /* Source and target are forks of one process: RAM is mapped at the same address in both. */
    int rc = stream_init(&t.stream, memory_fd, (uint64_t)(uintptr_t)gmem->base, gmem->base, gmem->size, err);
    if (rc == 0)
        rc = share(&t, err);
    if (rc == 0)
        rc = rounds(&t, report, err);
    if (rc == 0)
        rc = the_pause(&t, compare, report, err);
    if (rc == 0) {
        stream_place(&t.stream);
        rc = replace_machine(&t, err);
    }
    if (rc == 0) {
        struct branch_message done = {.word = BRANCH_DONE};
        *m = t.machine;
        rc = branch_send(peer, &done, NULL, 0, err);
    }
    for (unsigned i = 0; i < t.layers; i++)
        fd_close(&t.layer_fd[i]);
    if (t.shared)
        munmap(t.shared, t.bitmap_bytes + t.state_cap);
    stream_destroy(&t.stream);
    return rc;
}
