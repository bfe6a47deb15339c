/* branch_target.c: the target's side of a branch; see branch.h. It leads. */
#include "base/clock.h"
#include "base/own.h"
#include "mem/bitmap.h"
#include "snap/branch.h"
#include "snap/machine_state.h"
#include "snap/stream.h"

#include <errno.h>
#include <string.h>

enum { PATIENCE_SECONDS = 30 };

struct target {
    struct machine *machine;
    struct content *content; /* NULL: nobody asks */
    int peer;
    struct stream stream;
    struct branch_shared shared;
    uint64_t state_len;
    unsigned staged;
    unsigned kept;   /* layers it goes on with, oldest first */
    unsigned layers; /* descriptors that came with PARKED: those that follow */
    int layer_fd[BRANCH_FDS_MAX];
    struct disk_row row; /* the source's */
    unsigned birth_layers;
    struct machine_instant instant; /* what it becomes */
};

/* Where the source's RAM is: a place in a file of its own, in which it may tell us to read anything. */
static int take_ram(struct target *t, const struct branch_message *answer, struct err *err)
{
    if (answer->word != BRANCH_FETCHED && answer->word != BRANCH_PARKED)
        return 0;
    uint64_t bytes = t->stream.pages * GMEM_PAGE;
    if (!answer->ram || answer->ram % GMEM_PAGE || answer->ram > INT64_MAX - bytes)
        return err_say(err, EPROTO, "the source of the branch cannot have its memory at %#llx",
                       (unsigned long long)answer->ram);
    t->stream.source = answer->ram;
    return 0;
}

/* Hears an answer of that kind. */
static int hear(struct target *t, enum branch_word wanted, struct branch_message *answer, struct err *err)
{
    int fds[BRANCH_FDS_MAX];
    unsigned count = BRANCH_FDS_MAX;
    int rc = branch_recv(t->peer, answer, fds, &count, clock_monotonic_ns() + PATIENCE_SECONDS * NS_PER_SEC, err);
    if (rc < 0)
        return rc;
    if (rc == 0)
        return err_say(err, EPIPE, "the source of the branch ended");
    if (answer->word == BRANCH_PARKED && wanted == BRANCH_PARKED) {
        memcpy(t->layer_fd, fds, count * sizeof *fds);
        t->layers = count;
        return take_ram(t, answer, err);
    }
    for (unsigned i = 0; i < count; i++)
        close(fds[i]);
    if (answer->word == BRANCH_SORRY)
        return err_say(err, answer->code && answer->code < 4096 ? (int)answer->code : EIO,
                       "the source could not be branched: %s", strerrordesc_np((int)(answer->code & 4095)));
    if (answer->word != wanted)
        return err_say(err, EPROTO, "the source of the branch answered %d instead of %d", answer->word, wanted);
    return take_ram(t, answer, err);
}

static int ask(struct target *t, const struct branch_message *question, enum branch_word wanted,
               struct branch_message *answer, struct err *err)
{
    int rc = branch_send(t->peer, question, NULL, 0, err);
    /* A source that hung up has said why: that word still lies in our socket. */
    if (rc < 0 && rc != -EPIPE && rc != -ECONNRESET)
        return rc;
    return hear(t, wanted, answer, err);
}

static int share(struct target *t, struct err *err)
{
    const struct machine_instant *have = &t->machine->instant;
    struct branch_message hello = {.word = BRANCH_HELLO,
                                   /* The source's too: its disk has as many blocks. */
                                   .state_bytes = machine_state_bound(t->machine),
                                   .layers = t->machine->config.disk ? disk_frozen(&t->machine->disk) : 0,
                                   .row = t->machine->disk.row.name,
                                   .merges = t->machine->disk.row.merges,
                                   .instant_source = have->source,
                                   .instant_number = have->number};
    own_fd int fd = -1;
    int rc = branch_shared_make(&t->shared, gmem_pages(&t->machine->gmem), hello.state_bytes, &fd, err);
    return rc < 0 ? rc : branch_send(t->peer, &hello, &fd, 1, err);
}

/* What was wanted is its own from here on. */
static int64_t copy(struct target *t, struct err *err)
{
    if (t->content)
        bitmap_add(t->content->own, t->shared.wanted, t->content->words);
    return stream_copy(&t->stream, t->shared.wanted, err);
}

/* Whether another round would not help. A round that brought pages for the first time took the host's page allocation,
 * and the guest wrote that much longer; the next one over the same pages is many times quicker. So a count that does
 * not shrink says something only when it happens again and again, or when the pause is short already. */
struct convergence {
    uint64_t least;
    unsigned idle; /* rounds since the least shrank by an eighth */
    unsigned hold; /* how much the guest is held back */
};

static bool converged(struct convergence *c, uint64_t wanted)
{
    enum { IDLE_ROUNDS = 12, IDLE_ROUNDS_SHORT = 2 };
    if (wanted <= BRANCH_FEW_PAGES)
        return true;
    if (wanted < c->least - c->least / 8) {
        c->least = wanted;
        c->idle = 0;
        return false;
    }
    return ++c->idle >= (wanted <= STAGE_PAGES ? IDLE_ROUNDS_SHORT : IDLE_ROUNDS);
}

/* Two rounds in vain are bad luck; then the guest is held back, more with each. It is not let go before the pause. */
static void hold_back(struct convergence *c)
{
    unsigned level = c->idle < 2 ? 0 : c->idle - 1;
    if (level > c->hold)
        c->hold = level < THROTTLE_LEVELS ? level : THROTTLE_LEVELS - 1;
}

/* While the source runs. Fetched pages stay in the bitmap: the pause reads them if no round does. */
static int rounds(struct target *t, struct branch_report *report, struct err *err)
{
    struct convergence convergence = {.least = UINT64_MAX};
    for (; report->rounds < BRANCH_ROUNDS_MAX; report->rounds++) {
        struct branch_message answer;
        int rc = ask(t, &(struct branch_message){.word = BRANCH_FETCH, .hold = convergence.hold}, BRANCH_FETCHED,
                     &answer, err);
        if (rc < 0)
            return rc;
        if (converged(&convergence, answer.wanted))
            return 0;
        hold_back(&convergence);
        int64_t pages = copy(t, err);
        if (pages < 0)
            return (int)pages;
        report->pages_streamed += (uint64_t)pages;
    }
    return 0;
}

/* The source stands still until RESUME. Must not: anything but read. */
static int read_the_rest(struct target *t, bool compare, struct branch_report *report, struct err *err)
{
    uint64_t began = clock_monotonic_ns();
    int64_t pages = copy(t, err);
    if (pages < 0)
        return (int)pages;
    report->pages_in_pause += (uint64_t)pages;
    report->pages_ns += clock_monotonic_ns() - began;
    if (!compare)
        return 0;
    int rc = stage_place(&t->shared.stage, t->staged, t->stream.into, t->stream.pages, NULL, err);
    if (rc == 0)
        report->pages_differing = stream_compare(&t->stream, err);
    return rc < 0 ? rc : report->pages_differing < 0 ? (int)report->pages_differing : 0;
}

static int the_pause(struct target *t, bool compare, struct branch_report *report, struct err *err)
{
    struct branch_message answer;
    int rc = ask(t, &(struct branch_message){.word = BRANCH_PARK, .hold = compare}, BRANCH_PARKED, &answer, err);
    if (rc < 0)
        return rc;
    if (answer.state_bytes > t->shared.state_room)
        return err_say(err, EPROTO, "the source's state is longer than its room");
    t->state_len = answer.state_bytes;
    t->staged = answer.staged;
    t->kept = answer.layers;
    t->row = (struct disk_row){answer.row, answer.merges};
    report->kick_ns = answer.kick_ns;
    report->save_ns = answer.save_ns;
    report->log_ns = answer.log_ns;
    report->pages_ns = answer.pages_ns;
    report->pages_in_pause = answer.staged;
    report->pages_differing = -1;
    bool held = compare || answer.wanted;
    if (held)
        rc = read_the_rest(t, compare, report, err);
    if (rc == 0 && held)
        rc = ask(t, &(struct branch_message){.word = BRANCH_RESUME}, BRANCH_RESUMED, &answer, err);
    else if (rc == 0)
        rc = hear(t, BRANCH_RESUMED, &answer, err);
    if (rc < 0)
        return rc;
    report->resume_ns = answer.resume_ns;
    t->instant = (struct machine_instant){answer.instant_source, answer.instant_number};
    t->birth_layers = answer.layers;
    return 0;
}

static bool same_machine(const struct machine_config *a, const struct machine_config *b)
{
    return a->mem_bytes == b->mem_bytes && a->vcpus == b->vcpus && a->disk == b->disk &&
           a->disk_read_only == b->disk_read_only && a->disk_bytes == b->disk_bytes;
}

/* The layers that its state names: the oldest are the template's, as many as the source says, the others came from
 * there. */
static int take_layers(struct target *t, struct disk *disk, struct err *err)
{
    int rc = disk_take(disk, &t->machine->disk, t->kept, err);
    for (unsigned i = 0; rc == 0 && i < t->layers; i++)
        rc = disk_open_frozen(disk, steal_fd(&t->layer_fd[i]), err);
    if (rc == 0 && disk->opened != disk->layers)
        rc = err_say(err, EPROTO, "the source's disk has %u layers, %u came", disk->layers, disk->opened);
    disk->row = t->row;
    return rc;
}

/* A machine of the source's state on the same memory. */
static int replace_machine(struct target *t, struct err *err)
{
    own_free uint8_t *state = malloc(t->state_len ? t->state_len : 1);
    struct machine_config config;
    if (!state)
        return err_set(err, ENOMEM, "read the source's state");
    /* Copied first: what is verified is what is used, whatever the source still writes there. */
    memcpy(state, t->shared.state, t->state_len);
    int rc = machine_state_config(state, t->state_len, &config, err);
    if (rc == 0 && !same_machine(&config, &t->machine->config))
        rc = err_say(err, EPROTO, "the source is another machine than its template");
    if (rc < 0)
        return rc;
    struct machine *made = machine_new(&config, t->machine->gmem.base, err);
    if (!made)
        return -err->code;
    rc = machine_state_read(made, state, t->state_len, err);
    if (rc == 0 && config.disk)
        rc = take_layers(t, &made->disk, err);
    if (rc < 0) {
        machine_free(made);
        return rc;
    }
    made->instant = t->instant;
    machine_free(t->machine);
    t->machine = made;
    return 0;
}

/* With the source running again: pages in place, a machine of its state, a content of its own. */
static int become(struct target *t, struct err *err)
{
    int rc = stage_place(&t->shared.stage, t->staged, t->stream.into, t->stream.pages,
                         t->content ? t->content->own : NULL, err);
    if (rc == 0)
        rc = replace_machine(t, err);
    if (rc == 0 && t->content)
        rc = content_set_diff(t->content, t->shared.diff, t->birth_layers, err);
    return rc;
}

int branch_target_run(struct machine **m, struct content *content, int peer, int memory_fd, unsigned how,
                      struct branch_report *report, struct err *err)
{
    const struct gmem *gmem = &(*m)->gmem;
    struct target t = {.machine = *m,
                       .content = content,
                       .peer = peer,
                       .stream = {.memory_fd = memory_fd, .into = gmem->base, .pages = gmem_pages(gmem)}};
    *report = (struct branch_report){0};
    int rc = share(&t, err);
    if (rc == 0 && !(how & BRANCH_STOP_AND_COPY))
        rc = rounds(&t, report, err);
    if (rc == 0)
        rc = the_pause(&t, how & BRANCH_COMPARE, report, err);
    if (rc == 0)
        rc = become(&t, err);
    if (rc == 0) {
        *m = t.machine;
        rc = branch_send(peer, &(struct branch_message){.word = BRANCH_DONE}, NULL, 0, err);
    }
    for (unsigned i = 0; i < t.layers; i++)
        fd_close(&t.layer_fd[i]);
    branch_shared_unmap(&t.shared);
    return rc;
}
