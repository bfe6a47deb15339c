/* branches.c: see branches.h. */
#include "controller/branches.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/own.h"
#include "controller/durable.h"
#include "controller/leaf.h"
#include "controller/metrics.h"
#include "controller/refusal.h"
#include "controller/sandbox_watch.h"
#include "controller/templates.h"

#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>

enum {
    LINE_MAX_TRIED = 3, /* the last template, an earlier branch, the one it was spawned from */
    REFUSAL_SECS = 2,   /* from the end of a stream until the source's word on it, or its death, is known here */
};

/* What a branch is made of. */
struct making {
    struct controller *c;
    struct sandbox *source;
    struct snapshot *made;
    uint64_t began_ns;
    bool measure_diff, wait;
    struct ctl_branched report;
};

/* Whether the tag is free: not before the mode was looked at does it matter who has it. */
static int check_tag(struct controller *c, const char *tag, bool written_only, struct err *err)
{
    struct snapshot *s = tag ? fleet_snapshot_find(&c->fleet, tag) : NULL;
    if (!s)
        return 0;
    pthread_mutex_lock(&c->fleet.lock);
    bool writing = s->state == SNAPSHOT_WRITING || s->durable.state == DURABLE_WRITING;
    pthread_mutex_unlock(&c->fleet.lock);
    snapshot_unref(&c->fleet, s);
    if (writing)
        return err_say(err, REFUSED_CONFLICT, "snapshot %s is being made or written", tag);
    return written_only ? 0 : err_say(err, REFUSED_CONFLICT, "snapshot %s exists already", tag);
}

static int slot_take(struct controller *c, struct err *err)
{
    if (atomic_fetch_add(&c->branches_in_flight, 1) < c->branch_concurrency)
        return 0;
    atomic_fetch_sub(&c->branches_in_flight, 1);
    return err_say(err, REFUSED_BUSY, "%u branches are being made, and no more are made at a time; try again",
                   c->branch_concurrency);
}

static int check_parent(const struct sandbox *b, const struct rest_branch_create *rq, enum rest_mode mode,
                        struct err *err)
{
    if (!rq->parent_tag)
        return 0;
    if (mode != REST_DIFF)
        return err_say(err, REFUSED_BAD, "parent_tag goes with diff only");
    if (strcmp(rq->parent_tag, b->base->tag) != 0)
        return err_say(err, REFUSED_BAD, "parent_tag must be %s, the snapshot of sandbox %s", b->base->tag, b->vmm.id);
    return 0;
}

static int default_tag(const char *id, char *tag, size_t cap, struct err *err)
{
    uint16_t random;
    if (getrandom(&random, sizeof random, 0) != sizeof random)
        return err_set(err, errno, "getrandom");
    unsigned now = (unsigned)(clock_realtime_ns() / NS_PER_SEC);
    snprintf(tag, cap, "branch-%.*s-%u-%04x", REST_ID_MAX, id, now, random);
    return 0;
}

/* A new snapshot whose tag is taken and whose intent is written down. */
static int claim(struct controller *c, const struct sandbox *b, const char *tag, enum rest_mode mode,
                 struct snapshot **made, struct err *err)
{
    char given[REST_TAG_MAX + 1];
    int rc = tag ? 0 : default_tag(b->vmm.id, given, sizeof given, err);
    struct snapshot *s = rc == 0 ? snapshot_new(tag ? tag : given) : NULL;
    if (!s)
        return rc < 0 ? rc : err_say(err, ENOMEM, "out of memory");
    s->has_disk = b->base->has_disk;
    s->created_at_unix = clock_realtime_ns() / NS_PER_SEC;
    s->tree = tree_ref(b->base->tree);
    s->branch.mode = mode;
    snprintf(s->branch.source, sizeof s->branch.source, "%.*s", REST_ID_MAX, b->vmm.id);
    snprintf(s->branch.parent_tag, sizeof s->branch.parent_tag, "%s", b->base->tag);
    rc = vmm_name(&s->template, "tm", err);
    if (rc == 0 && fleet_snapshot_add(&c->fleet, s, err) < 0)
        rc = -(err->code = REFUSED_CONFLICT);
    if (rc < 0) {
        snapshot_unref(&c->fleet, s);
        return rc;
    }
    rc = snapshot_intend(c, s, err);
    if (rc < 0) {
        snapshot_finish(c, s);
        snapshot_unref(&c->fleet, s);
        return rc;
    }
    *made = s;
    return 0;
}

/* What a branch of a sandbox can be forked from, best first, each held. */
struct line {
    struct snapshot *snapshot[LINE_MAX_TRIED];
    unsigned count;
};

/* The fleet's lock is held. */
typedef bool line_fit_fn(const struct snapshot *s);

static bool can_fork(const struct snapshot *s)
{
    return (s->state == SNAPSHOT_READY || s->state == SNAPSHOT_HIDDEN) && s->template.pid != 0;
}

static bool can_load(const struct snapshot *s)
{
    return s->state == SNAPSHOT_STORED;
}

static void line_add(struct line *line, struct snapshot *s, line_fit_fn *fits)
{
    if (!s || !fits(s) || line->count == LINE_MAX_TRIED)
        return;
    for (unsigned i = 0; i < line->count; i++)
        if (line->snapshot[i] == s)
            return;
    s->refs++;
    s->children++;
    line->snapshot[line->count++] = s;
}

/* All are of one tree: the new template gets a leaf there, into which only its own processes may fork. */
static void line_hold(struct controller *c, const struct sandbox *b, line_fit_fn *fits, struct line *line)
{
    struct snapshot *earlier = NULL;
    line->count = 0;
    pthread_mutex_lock(&c->fleet.lock);
    list_for_each (n, &c->fleet.snapshots) {
        struct snapshot *s = list_entry(n, struct snapshot, link);
        if (s != b->last && fits(s) && !strcmp(s->branch.source, b->vmm.id) && s->tree == b->base->tree)
            earlier = s; /* the newest comes last */
    }
    line_add(line, b->last, fits);
    line_add(line, earlier, fits);
    line_add(line, b->base, fits);
    pthread_mutex_unlock(&c->fleet.lock);
}

static void line_release(struct controller *c, struct line *line)
{
    for (unsigned i = 0; i < line->count; i++)
        snapshot_release(c, line->snapshot[i], 1);
}

/* The source hung up on the new template. Why, the monitor hears. */
static int explain_source(struct controller *c, struct sandbox *b, struct err *err)
{
    const struct timespec until = clock_secs_from_now(REFUSAL_SECS);
    int late = 0;
    pthread_mutex_lock(&c->fleet.lock);
    while (!*b->stream_refusal && b->state == SANDBOX_RUNNING && !late)
        late = pthread_cond_timedwait(&c->fleet.changed, &c->fleet.lock, &until);
    int rc = -EPIPE;
    if (*b->stream_refusal)
        rc = err_say(err, EIO, "the sandbox: %.400s", b->stream_refusal);
    else if (b->state != SANDBOX_RUNNING)
        rc = err_say(err, REFUSED_CONFLICT, "sandbox %s ended while it was branched%s%.300s", b->vmm.id,
                     *b->reason ? ": " : "", b->reason);
    pthread_mutex_unlock(&c->fleet.lock);
    return rc;
}

/* From here on the new template reads, and the source serves it. */
static int stream(struct making *m, int peer, int layer, struct err *err)
{
    struct sandbox *b = m->source;
    uint32_t number = vmm_number(&b->vmm);
    pthread_mutex_lock(&m->c->fleet.lock);
    *b->stream_refusal = 0;
    b->stream = number;
    pthread_mutex_unlock(&m->c->fleet.lock);
    int rc = vmm_stream(&b->vmm, number, peer, layer, err);
    return rc == -EPIPE || rc == -ECONNRESET ? explain_source(m->c, b, err) : rc;
}

/* -ESTALE: `last` is dead, or deaf; another template may do. */
static int fork_from(struct making *m, struct snapshot *last, const struct seat *seat, int *peer, struct err *err)
{
    own_fd int leaf = -1;
    int rc = tree_leaf(m->made->tree, snapshot_leaf(m->made), &leaf, err);
    if (rc < 0)
        return rc;
    pthread_mutex_lock(&last->spawning);
    pid_t asked = last->template.pid;
    rc = vmm_branch(&last->template, &m->made->template, seat->listen, *peer, m->source->vmm.memory, leaf, err);
    pthread_mutex_unlock(&last->spawning);
    fd_close(peer);
    if (rc == -ECONNRESET)
        snapshot_await_burial(m->c, last, asked); /* then it may be loaded again */
    return rc == -ECONNRESET || rc == -ETIMEDOUT ? -ESTALE : rc;
}

static int stream_stage(struct making *m, int peer, int layer, struct err *err)
{
    int rc = stream(m, peer, layer, err);
    close(peer);
    if (rc < 0)
        return rc;
    rc = vmm_await_branched(&m->made->template, &m->report, err);
    if (rc == -EPIPE)
        rc = explain_source(m->c, m->source, err);
    else if (rc < 0)
        err_wrap(err, "the branch of sandbox %s", m->source->vmm.id);
    return rc == -EINVAL ? -ESTALE : rc; /* the source does not know that template */
}

/* What an attempt leaves. The template keeps its name for the next. */
static void attempt_undo(struct making *m)
{
    vmm_destroy(&m->made->template);
    rundir_remove(&m->c->run, m->made->template.id);
    leaf_remove(m->made->tree->cgroup, snapshot_leaf(m->made));
}

static int attempt(struct making *m, struct snapshot *last, struct err *err)
{
    struct seat seat;
    int pair[2];
    int rc = rundir_seat(&m->c->run, m->made->template.id, m->made->has_disk, &seat, err);
    if (rc < 0)
        return rc;
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0) {
        rc = err_set(err, errno, "socketpair");
    } else {
        rc = fork_from(m, last, &seat, &pair[1], err);
        fd_close(&pair[1]);
        if (rc == 0)
            rc = stream_stage(m, pair[0], seat.layer, err);
        else
            close(pair[0]);
    }
    seat_close(&seat);
    if (rc < 0)
        attempt_undo(m);
    return rc;
}

/* Why one cannot be loaded is no reason not to try another. */
static int attempt_from(struct making *m, struct snapshot *last, bool load, struct err *err)
{
    int rc = load && durable_load(m->c, last, err) < 0 ? -ESTALE : attempt(m, last, err);
    if (rc == -ESTALE)
        log_warn("sandbox %s cannot be branched from snapshot %s: %s", m->source->vmm.id, last->tag, err->text);
    return rc;
}

static bool is_there(struct controller *c, const struct snapshot *s)
{
    pthread_mutex_lock(&c->fleet.lock);
    bool there = can_fork(s) || can_load(s);
    pthread_mutex_unlock(&c->fleet.lock);
    return there;
}

/* Those that live, or those that are to be loaded. -ESTALE: none of them would do, or there was none. *there: one that
 * would not do is there all the same. */
static int attempt_line(struct making *m, bool load, bool *there, struct err *err)
{
    struct line line;
    int rc = -ESTALE;
    line_hold(m->c, m->source, load ? can_load : can_fork, &line);
    for (unsigned i = 0; rc == -ESTALE && i < line.count; i++) {
        rc = attempt_from(m, line.snapshot[i], load, err);
        *there |= rc == -ESTALE && is_there(m->c, line.snapshot[i]);
    }
    line_release(m->c, &line);
    return rc;
}

/* The source's turn: its other branches wait. */
static int attempts(struct making *m, struct err *err)
{
    const struct sandbox *b = m->source;
    bool there = false;
    int rc = attempt_line(m, false, &there, err);
    if (rc == -ESTALE)
        rc = attempt_line(m, true, &there, err);
    if (rc != -ESTALE)
        return rc;
    if (there)
        return err_wrap(err, "sandbox %s cannot be branched from any template there is", b->vmm.id);
    return err_say(err, EIO,
                   "no template that sandbox %s could be branched from is alive, or on the disk: those of its branches "
                   "and of snapshot %s ended",
                   b->vmm.id, b->base->tag);
}

static void note_report(struct making *m)
{
    const struct ctl_branched *r = &m->report;
    const uint64_t ns[REST_PHASES] = {[REST_KICK] = r->kick_ns,
                                      [REST_SAVE] = r->save_ns,
                                      [REST_LOG] = r->log_ns,
                                      [REST_PAGES] = r->pages_ns,
                                      [REST_RESUME] = r->resume_ns};
    struct rest_branch branch = m->made->branch;
    uint64_t pause_ns = 0;
    for (int i = 0; i < REST_PHASES; i++) {
        branch.pause_us[i] = ns[i] / NS_PER_US;
        metrics_observe(METRIC_PAUSE_PHASES + (unsigned)i, ns[i]);
        pause_ns += ns[i];
    }
    metrics_observe(METRIC_PAUSE, pause_ns);
    branch.rounds = r->rounds;
    branch.pages_streamed = r->pages_streamed;
    branch.pages_in_pause = r->pages_in_pause;
    branch.ready_us = (clock_monotonic_ns() - m->began_ns) / NS_PER_US + 1;
    pthread_mutex_lock(&m->c->fleet.lock);
    m->made->branch = branch;
    pthread_mutex_unlock(&m->c->fleet.lock);
}

/* The next branch of the source begins here. */
static void commit(struct making *m)
{
    struct sandbox *b = m->source;
    struct snapshot *before = NULL, *s = m->made;
    pthread_mutex_lock(&m->c->fleet.lock);
    s->state = SNAPSHOT_READY;
    s->durable.has_row = true;
    if (b->state == SANDBOX_RUNNING) {
        before = b->last;
        b->last = s;
        b->branch_count++;
        s->children++;
        s->refs++;
    }
    pthread_mutex_unlock(&m->c->fleet.lock);
    snapshot_watch(m->c, s);
    durable_write(m->c, s, b->base, m->measure_diff, m->wait);
    if (before) {
        snapshot_children_left(m->c, before, 1);
        snapshot_unref(&m->c->fleet, before);
    }
    log_info("snapshot %s is a branch of sandbox %s: template %s, process %d", s->tag, b->vmm.id, s->template.id,
             (int)s->template.pid);
}

/* It may have ended, or stalled, while it waited for its turn. */
static int check_source(struct controller *c, const struct sandbox *b, struct err *err)
{
    pthread_mutex_lock(&c->fleet.lock);
    bool runs = b->state == SANDBOX_RUNNING;
    pthread_mutex_unlock(&c->fleet.lock);
    return runs ? sandbox_check_runs(c, b, err) : err_say(err, REFUSED_MISSING, "sandbox %s not found", b->vmm.id);
}

static int make(struct making *m, struct err *err)
{
    struct sandbox *b = m->source;
    pthread_mutex_lock(&b->branching);
    int rc = check_source(m->c, b, err);
    if (rc == 0)
        rc = attempts(m, err);
    if (rc == 0) {
        note_report(m);
        rc = registry_branch_ready(m->c->registry, m->made->template.id, &m->made->branch, err);
        if (rc < 0)
            attempt_undo(m);
        else
            commit(m);
    }
    pthread_mutex_unlock(&b->branching);
    return rc;
}

static int branch_of(struct controller *c, struct sandbox *b, const struct rest_branch_create *rq, enum rest_mode mode,
                     struct snapshot **made, struct err *err)
{
    struct making m = {
        .c = c, .source = b, .began_ns = clock_monotonic_ns(), .measure_diff = rq->measure_diff, .wait = rq->wait};
    int rc = check_parent(b, rq, mode, err);
    if (rc == 0)
        rc = claim(c, b, rq->tag, mode, &m.made, err);
    if (!m.made)
        return rc;
    rc = make(&m, err);
    if (rc == 0) {
        *made = m.made;
        return 0;
    }
    snapshot_finish(c, m.made);
    snapshot_unref(&c->fleet, m.made);
    return rc;
}

int sandbox_branch(struct controller *c, const char *id, const struct rest_branch_create *rq, struct snapshot **made,
                   struct err *err)
{
    enum rest_mode mode = REST_FULL;
    int rc = check_tag(c, rq->tag, true, err);
    if (rc < 0)
        return rc;
    rc = slot_take(c, err);
    if (rc < 0)
        return rc;
    if (rest_branch_mode(rq, &mode, err) < 0)
        rc = -(err->code = REFUSED_BAD);
    if (rc == 0)
        rc = check_tag(c, rq->tag, false, err);
    struct sandbox *b = rc == 0 ? fleet_sandbox_find(&c->fleet, id) : NULL;
    if (b)
        rc = branch_of(c, b, rq, mode, made, err);
    else if (rc == 0)
        rc = err_say(err, REFUSED_MISSING, "sandbox %s not found", id);
    sandbox_unref(&c->fleet, b);
    atomic_fetch_sub(&c->branches_in_flight, 1);
    return rc;
}
