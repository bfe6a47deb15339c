/* sandboxes.c: see sandboxes.h.
 *
 * A spawn of n is one transaction. Each child gets a berth (berths.h), whose row is the intent; children are forked by
 * this thread and by helpers, each of which takes the next number until there is none or one of them failed. While the
 * first comes up all rows are made ready in one go. In the end every child hears that it is handed out and the monitor
 * takes over, or all are killed and every trace of them removed. Requests to one template are serialised by its lock,
 * for as long as its fork takes; what comes after (the making of the VM, the guest's answer) overlaps. */
#include "controller/sandboxes.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/own.h"
#include "controller/agent_client.h"
#include "controller/leaf.h"
#include "controller/memory.h"
#include "controller/metrics.h"
#include "controller/refusal.h"
#include "controller/sandbox_watch.h"
#include "controller/settle.h"
#include "controller/snapshots.h"
#include "controller/templates.h"
#include "sys/cgroup.h"

#include <string.h>

enum { IDENTIFY_SECS = 60, GONE_SECS = 30 };

struct batch {
    struct controller *c;
    struct sandbox **box;
    struct berth *berth;      /* the same number of them */
    struct sandbox_row *rows; /* made ready with the first; NULL: not here */
    unsigned n;

    pthread_mutex_t lock; /* guards what follows */
    pthread_cond_t idle;
    unsigned next, working, refs;
    bool closed; /* helpers that come now are too late */
    unsigned failed;
    int code; /* of the first that failed */
    char reasons[ERR_TEXT_MAX];
};

struct helper {
    struct job job;
    struct batch *batch;
};

static int leaf_make(struct sandbox *b, struct err *err)
{
    int rc = tree_leaf(b->base->tree, b->vmm.id, &b->cgroup, err);
    if (rc == 0 && b->cgroup >= 0 && b->memory_limit_mib)
        rc = cgroup_set_memory_max(b->cgroup, b->memory_limit_mib << 20, err);
    return rc;
}

/* Everything outside the registry that a child may have left; one that was not begun is on the shelf. */
static void child_undo(struct controller *c, struct sandbox *b)
{
    vmm_destroy(&b->vmm);
    leaf_remove(b->base->tree->cgroup, b->vmm.id);
    rundir_remove(&c->run, b->vmm.id);
    rundir_shelf_remove(&c->run, b->vmm.id);
}

/* A berth has a layer whether it is wanted or not. -ESTALE: the template is dead, and buried. */
static int child_fork(struct controller *c, struct sandbox *b, struct seat seat, struct err *err)
{
    if (!b->base->has_disk)
        seat.layer = -1;
    int rc = leaf_make(b, err);
    if (rc < 0)
        return rc;
    pthread_mutex_lock(&b->base->spawning);
    pid_t asked = b->base->template.pid;
    rc = vmm_spawn(&b->base->template, &b->vmm, &seat, b->cgroup, err);
    pthread_mutex_unlock(&b->base->spawning);
    if (rc != -ECONNRESET)
        return rc;
    snapshot_await_burial(c, b->base, asked);
    return -(err->code = ESTALE);
}

/* What there is time for while a child comes up. */
static int child_meanwhile(struct batch *batch, unsigned i, struct err *err)
{
    struct berth *berth = &batch->berth[i];
    int rc = berth_settle(&batch->c->berths, berth, err);
    seat_close(&berth->seat); /* so that the call ends when the child does */
    if (rc == 0 && i == 0 && batch->rows)
        rc = registry_sandboxes_ready(batch->c->registry, batch->rows, batch->n, err);
    return rc;
}

/* The guest's answer is awaited, and nothing before it: each wait for a step on the way there would cost two switches
 * between processes. BORN lies in the socket by then. */
static int child_start(struct batch *batch, unsigned i, struct err *err)
{
    struct sandbox *b = batch->box[i];
    struct berth *berth = &batch->berth[i];
    int rc = berth_furnish(&batch->c->berths, berth, b->base->has_disk, err);
    if (rc == 0)
        rc = child_fork(batch->c, b, berth->seat, err);
    if (rc < 0)
        return rc;
    rc = vmm_go(&b->vmm, err);
    if (rc == 0)
        rc = child_meanwhile(batch, i, err);
    if (rc == 0)
        rc = agent_identify(steal_fd(&berth->call), b->vmm.id, IDENTIFY_SECS, err);
    if (rc == 0)
        rc = vmm_await_birth(&b->vmm, err);
    if (rc < 0)
        vmm_explain(&b->vmm, err);
    return rc;
}

static void batch_fail(struct batch *batch, const struct sandbox *b, const struct err *err)
{
    pthread_mutex_lock(&batch->lock);
    size_t len = strlen(batch->reasons);
    if (!batch->failed++)
        batch->code = err->code;
    snprintf(batch->reasons + len, sizeof batch->reasons - len, "%ssandbox %s could not be started: %s",
             len ? "; " : "", b->vmm.id, err->text);
    pthread_mutex_unlock(&batch->lock);
    if (err->code != ESTALE)
        log_error("sandbox %s could not be started: %s", b->vmm.id, err->text);
}

/* Each of those that failed, as far as a sentence goes; those that were not begun by then are not among them. */
static int batch_tell(const struct batch *batch, struct err *err)
{
    if (batch->n == 1)
        return err_say(err, batch->code, "%s", batch->reasons);
    return err_say(err, batch->code, "%u of %u failed, and none is kept: %.400s", batch->failed, batch->n,
                   batch->reasons);
}

static bool batch_next(struct batch *batch, unsigned *i)
{
    pthread_mutex_lock(&batch->lock);
    bool any = !batch->failed && batch->next < batch->n;
    if (any)
        *i = batch->next++;
    pthread_mutex_unlock(&batch->lock);
    return any;
}

static void batch_work(struct batch *batch)
{
    struct err err;
    for (unsigned i; batch_next(batch, &i);) {
        uint64_t began = clock_monotonic_ns();
        if (child_start(batch, i, &err) < 0)
            batch_fail(batch, batch->box[i], &err);
        else
            metrics_observe(METRIC_SPAWN, clock_monotonic_ns() - began);
    }
}

static void batch_unref(struct batch *batch)
{
    pthread_mutex_lock(&batch->lock);
    bool last = --batch->refs == 0;
    pthread_mutex_unlock(&batch->lock);
    if (!last)
        return;
    pthread_cond_destroy(&batch->idle);
    pthread_mutex_destroy(&batch->lock);
    free(batch);
}

static void helper_main(struct job *job)
{
    struct helper *helper = list_entry(job, struct helper, job);
    struct batch *batch = helper->batch;
    pthread_mutex_lock(&batch->lock);
    bool late = batch->closed;
    batch->working += !late;
    pthread_mutex_unlock(&batch->lock);
    if (!late) {
        batch_work(batch);
        pthread_mutex_lock(&batch->lock);
        batch->working--;
        pthread_cond_signal(&batch->idle);
        pthread_mutex_unlock(&batch->lock);
    }
    batch_unref(batch);
    free(helper);
}

static void batch_helpers(struct batch *batch)
{
    unsigned wanted = batch->c->spawns_at_once < batch->n ? batch->c->spawns_at_once : batch->n;
    for (unsigned i = 1; i < wanted; i++) {
        struct helper *helper = calloc(1, sizeof *helper);
        if (!helper)
            return;
        helper->job.fn = helper_main;
        helper->batch = batch;
        pthread_mutex_lock(&batch->lock);
        batch->refs++;
        pthread_mutex_unlock(&batch->lock);
        if (workers_submit(batch->c->workers, WORKER_HELPER, &helper->job, NULL) < 0) {
            batch_unref(batch);
            free(helper);
        }
    }
}

/* Starts all children of `plan`; on failure those that were started are still there. */
static int batch_run(const struct batch *plan, struct err *err)
{
    struct batch *batch = calloc(1, sizeof *batch);
    if (!batch)
        return err_say(err, ENOMEM, "out of memory");
    *batch = *plan;
    batch->refs = 1;
    pthread_mutex_init(&batch->lock, NULL);
    pthread_cond_init(&batch->idle, NULL);
    batch_helpers(batch);
    batch_work(batch);
    pthread_mutex_lock(&batch->lock);
    batch->closed = true;
    while (batch->working)
        pthread_cond_wait(&batch->idle, &batch->lock);
    int rc = batch->failed ? batch_tell(batch, err) : 0;
    pthread_mutex_unlock(&batch->lock);
    batch_unref(batch);
    return rc;
}

/* The template, held as one of whose children there will be n more. */
static int base_hold(struct controller *c, const struct rest_spawn *rq, struct snapshot **base, struct err *err)
{
    struct snapshot *s;
    int rc = snapshot_hold(c, rq->snapshot_tag, rq->n, &s, err);
    if (rc < 0)
        return rc;
    if (rq->memory_limit_mib && s->tree->cgroup < 0) {
        rc = err_say(err, ENOTSUP, "memory_limit_mib cannot be kept on this host: %s", c->cgroup_reason);
        snapshot_release(c, s, rq->n);
        return rc;
    }
    *base = s;
    return 0;
}

static struct sandbox_row *rows_make(struct sandbox **box, unsigned n, const char *workspace)
{
    struct sandbox_row *rows = calloc(n, sizeof *rows);
    for (unsigned i = 0; rows && i < n; i++) {
        rows[i].state = ROW_READY;
        rows[i].created_at_unix = box[i]->created_at_unix;
        rows[i].memory_limit_mib = box[i]->memory_limit_mib;
        memcpy(rows[i].id, box[i]->vmm.id, sizeof rows[i].id);
        memcpy(rows[i].snapshot_id, box[i]->base->template.id, sizeof rows[i].snapshot_id);
        memcpy(rows[i].secret, box[i]->vmm.secret, sizeof rows[i].secret);
        if (workspace)
            snprintf(rows[i].workspace, sizeof rows[i].workspace, "%s", workspace);
    }
    return rows;
}

static int boxes_make(struct controller *c, struct snapshot *base, const struct rest_spawn *rq, struct sandbox ***boxes,
                      struct err *err)
{
    struct sandbox **box = *boxes = calloc(rq->n + 1, sizeof *box);
    uint64_t now = clock_realtime_ns() / NS_PER_SEC;
    for (unsigned i = 0; box && i < rq->n; i++) {
        box[i] = sandbox_new(&c->fleet, base);
        if (!box[i])
            return err_say(err, ENOMEM, "out of memory");
        box[i]->created_at_unix = now;
        box[i]->memory_limit_mib = rq->memory_limit_mib;
    }
    return box ? 0 : err_say(err, ENOMEM, "out of memory");
}

static int boxes_name(struct controller *c, struct sandbox **box, struct berth *berth, unsigned n, struct err *err)
{
    int rc = berths_take(&c->berths, berth, n, err);
    for (unsigned i = 0; rc == 0 && i < n; i++) {
        memcpy(box[i]->vmm.id, berth[i].id, sizeof box[i]->vmm.id);
        memcpy(box[i]->vmm.secret, berth[i].secret, sizeof box[i]->vmm.secret);
    }
    return rc;
}

static void boxes_undo(struct controller *c, struct sandbox **box)
{
    struct err err;
    for (struct sandbox **b = box; *b; b++)
        vmm_kill(&(*b)->vmm);
    for (struct sandbox **b = box; *b; b++) {
        child_undo(c, *b);
        if (registry_sandbox_remove(c->registry, (*b)->vmm.id, &err) < 0)
            log_error("%s", err.text);
    }
}

/* Those that were told so before one fails are undone with it: nobody has heard of them. */
static int boxes_hand_over(struct controller *c, struct sandbox **box, struct err *err)
{
    for (struct sandbox **b = box; *b; b++) {
        int rc = vmm_hand_over(&(*b)->vmm, err);
        if (rc < 0)
            return err_wrap(err, "sandbox %s could not be started", (*b)->vmm.id);
    }
    for (struct sandbox **b = box; *b; b++) {
        fleet_sandbox_add(&c->fleet, *b);
        sandbox_watch(c, *b);
    }
    return 0;
}

/* A workspace is another's business until its sandbox is there: then the rows wait for the guests. */
static int batch_start(struct batch *batch, const char *workspace, struct err *err)
{
    struct sandbox_row *rows = batch->rows;
    if (workspace)
        batch->rows = NULL;
    int rc = batch_run(batch, err);
    return rc == 0 && workspace ? registry_sandboxes_ready(batch->c->registry, rows, batch->n, err) : rc;
}

static int spawn_all(struct controller *c, struct sandbox **box, unsigned n, const char *workspace, struct err *err)
{
    own_free struct berth *berth = calloc(n, sizeof *berth);
    int rc = berth ? boxes_name(c, box, berth, n, err) : err_say(err, ENOMEM, "out of memory");
    if (rc < 0)
        return rc;
    own_free struct sandbox_row *rows = rows_make(box, n, workspace);
    struct batch batch = {.c = c, .box = box, .berth = berth, .rows = rows, .n = n};
    rc = rows ? batch_start(&batch, workspace, err) : err_say(err, ENOMEM, "out of memory");
    for (unsigned i = 0; i < n; i++)
        berth_close(&berth[i]);
    if (rc == 0)
        rc = boxes_hand_over(c, box, err);
    if (rc < 0)
        boxes_undo(c, box);
    return rc;
}

static int spawn(struct controller *c, const struct rest_spawn *rq, const char *workspace, struct sandbox ***made,
                 struct err *err)
{
    struct snapshot *base = NULL;
    struct sandbox **box = NULL;
    int rc = base_hold(c, rq, &base, err);
    if (rc < 0)
        return rc;
    rc = boxes_make(c, base, rq, &box, err);
    if (rc == 0)
        rc = spawn_all(c, box, rq->n, workspace, err);
    if (rc < 0) {
        fleet_sandboxes_release(&c->fleet, box);
        snapshot_children_left(c, base, rq->n);
    } else {
        *made = box;
        berths_refill(&c->berths);
        settle_consider(c, base, rq->n);
    }
    snapshot_unref(&c->fleet, base);
    return rc;
}

/* Whether a template lives is only known when it was asked. */
int sandboxes_spawn(struct controller *c, const struct rest_spawn *rq, const char *workspace, struct sandbox ***made,
                    struct err *err)
{
    int rc = spawn(c, rq, workspace, made, err);
    if (rc == -ESTALE) /* from the disk then, or refused with the reason */
        rc = spawn(c, rq, workspace, made, err);
    return rc == -ESTALE ? snapshot_refuse_dying(rq->snapshot_tag, err) : rc;
}

/* Whether it is GONE in time. */
static bool await_end(struct fleet *fleet, const struct sandbox *b)
{
    const struct timespec until = clock_secs_from_now(GONE_SECS);
    int late = 0;
    pthread_mutex_lock(&fleet->lock);
    while (b->state != SANDBOX_GONE && !late)
        late = pthread_cond_timedwait(&fleet->changed, &fleet->lock, &until);
    pthread_mutex_unlock(&fleet->lock);
    return !late;
}

int sandbox_kill(struct controller *c, const char *id, struct err *err)
{
    struct sandbox *b = fleet_sandbox_find(&c->fleet, id);
    pthread_mutex_lock(&c->fleet.lock);
    bool ours = b && b->state == SANDBOX_RUNNING;
    if (ours)
        b->state = SANDBOX_ENDING;
    pthread_mutex_unlock(&c->fleet.lock);
    bool ended = false;
    if (ours) {
        vmm_kill(&b->vmm);
        rundir_remove(&c->run, b->vmm.id); /* while the kernel takes the VM down; its burial finds nothing there */
        ended = await_end(&c->fleet, b);
    }
    sandbox_unref(&c->fleet, b);
    if (!ours)
        return err_say(err, REFUSED_MISSING, "sandbox %s not found", id);
    return ended ? 0 : err_say(err, ETIMEDOUT, "sandbox %s was killed and does not end", id);
}

/* Where the pages of its last branch lie; "" where that is not on the disk, or deleted. The fleet's lock is held. */
static void last_branch_path(const struct controller *c, const struct sandbox *b, char *path, size_t cap)
{
    const struct snapshot *s = b->last;
    *path = 0;
    if (s && s->state != SNAPSHOT_HIDDEN && s->durable.state == DURABLE_WRITTEN)
        snprintf(path, cap, "%s/%s/memory.bin", c->snapshot_root, s->tag);
}

json_t *sandbox_json(struct controller *c, struct sandbox *b, bool memory)
{
    char stalled[ERR_TEXT_MAX], path[PATH_MAX + REST_TAG_MAX + 16];
    pthread_mutex_lock(&c->fleet.lock);
    memcpy(stalled, b->stalled, sizeof stalled);
    unsigned branches = b->branch_count;
    last_branch_path(c, b, path, sizeof path);
    pthread_mutex_unlock(&c->fleet.lock);
    struct rest_sandbox_info info = {.id = b->vmm.id,
                                     .snapshot_tag = b->base->tag,
                                     .created_at_unix = b->created_at_unix,
                                     .memory_limit_mib = b->memory_limit_mib,
                                     .stalled = stalled,
                                     .branch_count = branches,
                                     .last_branch_memory_path = *path ? path : NULL,
                                     .pid = (uint32_t)b->vmm.pid};
    json_t *object = rest_json_sandbox(&info);
    if (object && memory)
        memory_json(object, b->vmm.pid, b->cgroup);
    return object;
}
