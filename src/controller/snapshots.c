/* snapshots.c: see snapshots.h.
 *
 * Making one, stage by stage; each stage names what must be undone when a later one fails, and undoing runs
 * through the same ladder whatever failed:
 *
 *     files     opened and checked: nothing exists yet
 *     claim     the tag is taken in the fleet, the intent in the registry; the tree's directory is made
 *     parent    a process boots on a seat of its own, rings, is warmed up, hands over its image and ends
 *     template  a fresh process maps the image; its id and secret are those of the intent
 *     commit    the row becomes ready, the monitor watches */
#include "controller/snapshots.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/own.h"
#include "controller/agent_client.h"
#include "controller/durable.h"
#include "controller/guest_files.h"
#include "controller/leaf.h"
#include "controller/lineage.h"
#include "controller/memory.h"
#include "controller/refusal.h"
#include "controller/templates.h"

#include <fcntl.h>
#include <poll.h>
#include <string.h>

enum {
    READY_SECS = 60,
    WARM_SECS = 600,
    SETTLE_SECS = 60,
    GONE_SECS = 30, /* how long a deletion waits for the kernel to end a killed process */
};

/* reboot=k, panic=1: a guest that gives up asks for a reset, which its VMM reports as its end. The last two: a thousand
 * guests with nothing to do shall do nothing; the watchdog and the search for huge pages wake each several times a
 * second, and a fork that stood still has not locked up. */
static const char linux_cmdline[] = "console=ttyS0 quiet reboot=k panic=1 root=/dev/vda rw nowatchdog "
                                    "sysctl.vm.compaction_proactiveness=0";

static uint64_t now_unix(void)
{
    return clock_realtime_ns() / NS_PER_SEC;
}

/* A new snapshot whose tag is taken in the fleet. */
static int tag_claim(struct controller *c, const char *tag, bool has_disk, struct snapshot **snapshot, struct err *err)
{
    struct snapshot *s = snapshot_new(tag);
    if (!s)
        return err_say(err, ENOMEM, "out of memory");
    s->has_disk = has_disk;
    s->created_at_unix = now_unix();
    int rc = vmm_name(&s->template, "tm", err);
    if (rc == 0 && !(s->tree = tree_new(s->template.id)))
        rc = err_say(err, ENOMEM, "out of memory");
    if (rc == 0 && fleet_snapshot_add(&c->fleet, s, err) < 0)
        rc = err_say(err, REFUSED_BAD, "snapshot %s exists already", tag);
    if (rc < 0)
        snapshot_unref(&c->fleet, s);
    else
        *snapshot = s;
    return rc;
}

/* A process of the tree in a leaf of its own. */
static int tree_process_start(struct controller *c, struct snapshot *s, const char *leaf, struct vmm *vmm,
                              struct err *err)
{
    own_fd int cgroup = -1;
    int rc = tree_leaf(s->tree, leaf, &cgroup, err);
    return rc < 0 ? rc : vmm_start(c->program, c->run_path, cgroup, vmm, err);
}

static int warm_up(struct controller *c, const char *id, const struct rest_snapshot_create *rq, struct err *err)
{
    int rc = 0;
    if (rq->ready_cmd)
        rc = agent_run_ready(&c->run, id, rq->ready_cmd, READY_SECS, err);
    if (rc == 0 && (rq->warmup || rq->warmup_code))
        rc = agent_warm(&c->run, id, rq->warmup, rq->warmup_code, WARM_SECS, err);
    /* A test guest without a root filesystem has nothing to settle. */
    if (rc == 0 && (rq->rootfs || rq->image))
        rc = agent_settle(&c->run, id, SETTLE_SECS, err);
    return rc;
}

static int parent_boot(struct controller *c, const struct snapshot *s, struct vmm *parent,
                       const struct guest_files *files, const struct seat *seat, const struct rest_snapshot_create *rq,
                       struct err *err)
{
    uint64_t deadline = clock_monotonic_ns() + rq->boot_wait_secs * NS_PER_SEC;
    struct vmm_boot boot = {.kernel = files->kernel,
                            .initrd = files->initrd,
                            .base = files->rootfs,
                            .seat = seat,
                            .mem_mib = rq->mem_size_mib,
                            .vcpus = rq->vcpus,
                            .cmdline = linux_cmdline,
                            .who = vmm_tree_owner(s->tree->id)};
    struct err why = {0};
    int rc = vmm_boot(parent, &boot, &why);
    *err = why;
    /* What the VMM finds wrong with the request, it says of the files it was given, whose names it does not know. */
    if (rc == -EINVAL || rc == -ENOEXEC)
        return err_say(err, REFUSED_BAD, "%s: %s", rq->kernel ? rq->kernel : rq->image, why.text);
    if (rc < 0)
        return err_wrap(err, "the guest cannot be started");
    rc = vmm_wait_doorbell(parent, deadline, err);
    if (rc == -ETIMEDOUT)
        return err_say(err, ETIMEDOUT, "the guest's agent was not up after boot_wait_secs (%u)", rq->boot_wait_secs);
    return rc < 0 ? err_wrap(err, "the guest ended while it booted") : 0;
}

/* Waits for a parent that handed over its image to be dead, so that its memory is counted once. */
static void parent_await(const struct vmm *parent)
{
    struct pollfd p = {.fd = parent->pidfd, .events = POLLIN};
    while (poll(&p, 1, GONE_SECS * 1000) < 0 && errno == EINTR)
        ;
}

static int parent_run(struct controller *c, struct snapshot *s, struct vmm *parent, const struct guest_files *files,
                      const struct seat *seat, const struct rest_snapshot_create *rq, struct vmm_image *image,
                      char *console, struct err *err)
{
    int rc = tree_process_start(c, s, "parent", parent, err);
    if (rc < 0)
        return rc;
    s->stage = STAGE_BOOT;
    rc = parent_boot(c, s, parent, files, seat, rq, err);
    if (rc == 0) {
        s->stage = STAGE_WARMUP;
        rc = warm_up(c, parent->id, rq, err);
        if (rc < 0 && rc != -REFUSED_BAD)
            vmm_explain(parent, err);
    }
    s->stage = STAGE_FREEZE;
    if (rc == 0)
        rc = vmm_freeze(parent, image, err);
    if (rc < 0)
        rundir_console_tail(&c->run, parent->id, console, CONSOLE_TAIL_MAX);
    else
        parent_await(parent);
    return rc < 0 ? -err->code : 0;
}

/* From files to an image. The parent and its seat are gone afterwards, whatever came of it; the layer it wrote to
 * is the caller's. */
static int parent_stage(struct controller *c, struct snapshot *s, const struct guest_files *files,
                        const struct rest_snapshot_create *rq, struct vmm_image *image, int *layer, char *console,
                        struct err *err)
{
    struct vmm parent = VMM_EMPTY;
    struct seat seat;
    int rc = vmm_name(&parent, "pa", err);
    if (rc == 0)
        rc = rundir_seat(&c->run, parent.id, s->has_disk, &seat, err);
    if (rc < 0)
        return rc;
    rc = parent_run(c, s, &parent, files, &seat, rq, image, console, err);
    if (rc == 0)
        rc = seat_layer_frozen(&seat, layer, err);
    vmm_destroy(&parent);
    seat_close(&seat);
    rundir_remove(&c->run, parent.id);
    leaf_remove(s->tree->cgroup, "parent");
    return rc;
}

static int template_stage(struct controller *c, struct snapshot *s, const struct vmm_image *image, int base, int layer,
                          struct err *err)
{
    struct seat seat;
    int rc = rundir_seat(&c->run, s->template.id, false, &seat, err);
    if (rc < 0)
        return rc;
    rc = tree_process_start(c, s, "template", &s->template, err);
    if (rc == 0)
        rc = vmm_load(&s->template, image, vmm_tree_owner(s->tree->id), base, &layer, layer >= 0, seat.listen, err);
    seat_close(&seat);
    return rc < 0 ? err_wrap(err, "the template") : 0;
}

static void make_undo(struct controller *c, struct snapshot *s)
{
    vmm_kill(&s->template);
    if (s->template.pidfd >= 0)
        parent_await(&s->template);
    snapshot_finish(c, s);
}

static int make(struct controller *c, struct snapshot *s, const struct guest_files *files,
                const struct rest_snapshot_create *rq, char *console, struct err *err)
{
    struct vmm_image image = {.memory = -1, .state = -1};
    own_fd int layer = -1;
    int rc = parent_stage(c, s, files, rq, &image, &layer, console, err);
    if (rc == 0)
        rc = template_stage(c, s, &image, files->rootfs, layer, err);
    if (rc == 0)
        s->image_bytes = image.image.data_bytes;
    fd_close(&image.memory);
    fd_close(&image.state);
    s->stage = STAGE_NONE;
    if (rc == 0)
        rc = registry_snapshot_ready(c->registry, s->template.id, s->image_bytes, err);
    return rc;
}

int snapshot_create(struct controller *c, const struct rest_snapshot_create *rq, struct snapshot **snapshot,
                    char *console, struct err *err)
{
    struct guest_files files = GUEST_FILES_EMPTY;
    console[0] = 0;
    struct snapshot *taken = fleet_snapshot_find(&c->fleet, rq->tag);
    if (taken) {
        snapshot_unref(&c->fleet, taken);
        return err_say(err, REFUSED_BAD, "snapshot %s exists already", rq->tag);
    }
    int rc = guest_files_open(c->images, rq, &files, err);
    if (rc < 0)
        return rc;
    struct snapshot *s = NULL;
    rc = tag_claim(c, rq->tag, files.rootfs >= 0, &s, err);
    if (rc == 0) {
        rc = snapshot_intend(c, s, err);
        if (rc == 0)
            rc = tree_open(s->tree, c->cgroup, err);
        if (rc == 0)
            rc = make(c, s, &files, rq, console, err);
        if (rc < 0) {
            make_undo(c, s);
            snapshot_unref(&c->fleet, s);
        }
    }
    guest_files_close(&files);
    if (rc < 0)
        return rc;
    pthread_mutex_lock(&c->fleet.lock);
    s->state = SNAPSHOT_READY;
    s->durable.has_row = true;
    pthread_mutex_unlock(&c->fleet.lock);
    snapshot_watch(c, s);
    durable_write(c, s, NULL, false, true);
    log_info("snapshot %s is ready: template %s, process %d", s->tag, s->template.id, (int)s->template.pid);
    *snapshot = s;
    return 0;
}

int snapshot_hold(struct controller *c, const char *tag, unsigned count, struct snapshot **snapshot, struct err *err)
{
    struct snapshot *s = fleet_snapshot_find(&c->fleet, tag);
    if (!s)
        return err_say(err, REFUSED_MISSING, "snapshot %s not found", tag);
    int rc = 0;
    pthread_mutex_lock(&c->fleet.lock);
    bool stored = s->state == SNAPSHOT_STORED;
    if (s->state == SNAPSHOT_READY || stored)
        s->children += count;
    else if (s->state == SNAPSHOT_WRITING)
        rc = err_say(err, REFUSED_CONFLICT, "snapshot %s is not bootable: it is being made", tag);
    else if (s->state == SNAPSHOT_FAILED)
        rc = err_say(err, REFUSED_CONFLICT, "snapshot %s is not bootable: %s", tag, s->reason);
    else
        rc = err_say(err, REFUSED_MISSING, "snapshot %s not found", tag);
    pthread_mutex_unlock(&c->fleet.lock);
    if (rc == 0 && stored) {
        rc = durable_load(c, s, err);
        if (rc < 0)
            snapshot_children_left(c, s, count);
    }
    if (rc < 0)
        snapshot_unref(&c->fleet, s);
    else
        *snapshot = s;
    return rc;
}

static int compact_held(struct controller *c, const char *tag, const char *to, struct snapshot **made, struct err *err)
{
    struct snapshot *source;
    int rc = snapshot_hold(c, tag, 1, &source, err);
    if (rc < 0)
        return rc;
    rc = durable_compact(c, source, to, made, err);
    snapshot_release(c, source, 1);
    return rc;
}

int snapshot_compact(struct controller *c, const char *tag, const char *to, struct snapshot **made, struct err *err)
{
    int rc = compact_held(c, tag, to, made, err);
    if (rc == -ESTALE) /* as in sandboxes_spawn() */
        rc = compact_held(c, tag, to, made, err);
    return rc == -ESTALE ? snapshot_refuse_dying(tag, err) : rc;
}

static int await_gone(struct controller *c, struct snapshot *s, struct err *err)
{
    const struct timespec until = clock_secs_from_now(GONE_SECS);
    int late = 0;
    pthread_mutex_lock(&c->fleet.lock);
    while (s->state != SNAPSHOT_GONE && !late)
        late = pthread_cond_timedwait(&c->fleet.changed, &c->fleet.lock, &until);
    bool gone = s->state == SNAPSHOT_GONE;
    pthread_mutex_unlock(&c->fleet.lock);
    return gone ? 0 : err_say(err, ETIMEDOUT, "the template of %s was killed and does not end", s->tag);
}

/* The tags of the snapshots on the disk that need this one, as far as they fit; returns how many. The fleet's lock is
 * held. */
static unsigned dependents_name(const struct controller *c, const struct snapshot *s, char *names, size_t cap)
{
    unsigned count = 0;
    size_t len = 0;
    names[0] = 0;
    list_for_each (n, &c->fleet.snapshots) {
        const struct snapshot *other = list_entry(n, struct snapshot, link);
        if (!lineage_depends(other, s))
            continue;
        int n_len = snprintf(names + len, cap - len, "%s%s", count++ ? ", " : "", other->tag);
        len = len + (size_t)n_len < cap ? len + (size_t)n_len : cap - 1;
    }
    return count;
}

static bool is_deletable(enum snapshot_state state)
{
    return state == SNAPSHOT_READY || state == SNAPSHOT_STORED || state == SNAPSHOT_FAILED;
}

/* From here on nobody finds it, and nothing becomes a diff to it. It is held as a child holds it: its template must not
 * end with its last child before the registry knows that it may. */
static int hide(struct controller *c, struct snapshot *s, bool force, enum snapshot_state *was, struct err *err)
{
    char names[ERR_TEXT_MAX - 160];
    int rc = 0;
    pthread_mutex_lock(&c->fleet.lock);
    *was = s->state;
    unsigned dependents = force ? 0 : dependents_name(c, s, names, sizeof names);
    if (*was == SNAPSHOT_WRITING)
        rc = err_say(err, REFUSED_CONFLICT, "snapshot %s is being made", s->tag);
    else if (!is_deletable(*was))
        rc = err_say(err, REFUSED_MISSING, "snapshot %s not found", s->tag);
    else if (dependents)
        rc = err_say(err, REFUSED_CONFLICT, "snapshot %s is the parent of %s; delete them too (cascade), or force it",
                     s->tag, names);
    if (rc == 0) {
        s->state = SNAPSHOT_HIDDEN;
        s->children++;
    }
    pthread_mutex_unlock(&c->fleet.lock);
    return rc;
}

static void unhide(struct controller *c, struct snapshot *s, enum snapshot_state was)
{
    pthread_mutex_lock(&c->fleet.lock);
    s->state = was;
    s->children--;
    pthread_mutex_unlock(&c->fleet.lock);
}

/* What is hidden ends with its last child, or now. */
static int end_hidden(struct controller *c, struct snapshot *s, struct err *err)
{
    int rc = registry_snapshot_set(c->registry, s->template.id, ROW_HIDDEN, "", err);
    pthread_mutex_lock(&c->fleet.lock);
    bool over = s->children == 1;
    pthread_mutex_unlock(&c->fleet.lock);
    snapshot_children_left(c, s, 1);
    return rc < 0 || !over ? rc : await_gone(c, s, err);
}

/* One that was dependent, with a reference for the caller, or NULL. */
static struct snapshot *dependent_of(struct controller *c, const struct snapshot *s)
{
    struct snapshot *found = NULL;
    pthread_mutex_lock(&c->fleet.lock);
    list_for_each (n, &c->fleet.snapshots)
        if (!found && lineage_depends(list_entry(n, struct snapshot, link), s))
            found = list_entry(n, struct snapshot, link);
    if (found)
        found->refs++;
    pthread_mutex_unlock(&c->fleet.lock);
    return found;
}

static int dependents_delete(struct controller *c, const struct snapshot *s, struct err *err)
{
    int rc = 0;
    for (struct snapshot *other; rc == 0 && (other = dependent_of(c, s));) {
        rc = snapshot_delete(c, other->tag, REMOVE_CASCADE, err);
        snapshot_unref(&c->fleet, other);
    }
    return rc;
}

int snapshot_delete(struct controller *c, const char *tag, enum removal how, struct err *err)
{
    enum snapshot_state was;
    struct snapshot *s = fleet_snapshot_find(&c->fleet, tag);
    if (!s)
        return err_say(err, REFUSED_MISSING, "snapshot %s not found", tag);
    int rc = how == REMOVE_CASCADE ? dependents_delete(c, s, err) : 0;
    if (rc == 0)
        rc = hide(c, s, how == REMOVE_FORCE, &was, err);
    if (rc == 0) {
        rc = durable_remove(c, s, err);
        if (rc < 0)
            unhide(c, s, was);
        else
            rc = end_hidden(c, s, err);
    }
    snapshot_unref(&c->fleet, s);
    return rc;
}

void snapshot_unload(struct controller *c, struct snapshot *s)
{
    struct err err;
    enum snapshot_state was;
    durable_await(c, s, NULL);
    int rc = hide(c, s, true, &was, &err);
    if (rc == 0)
        rc = end_hidden(c, s, &err);
    if (rc < 0)
        log_error("%s", err.text);
}

/* The image is the tree's business to its cgroups: who made it is gone. */
static void snapshot_memory(struct controller *c, const struct snapshot *s, json_t *object)
{
    own_fd int cgroup = -1;
    pthread_mutex_lock(&c->fleet.lock);
    pid_t pid = s->template.pid;
    uint64_t image = s->image_bytes;
    pthread_mutex_unlock(&c->fleet.lock);
    if (s->tree->cgroup >= 0)
        cgroup = openat(s->tree->cgroup, snapshot_leaf(s), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    memory_json(object, pid, cgroup);
    json_object_set_new(object, "memory_image_kib", json_integer((json_int_t)(pid ? image >> 10 : 0)));
}

/* What users are told: whether it is on the disk, where it should be. */
static const char *status_name(const struct snapshot *s)
{
    if (s->state == SNAPSHOT_WRITING)
        return "writing";
    if (s->state == SNAPSHOT_FAILED || s->durable.state == DURABLE_FAILED)
        return "failed";
    return s->durable.state == DURABLE_WRITING ? "writing" : "ready";
}

/* The fleet's lock is held. */
static bool is_bootable(const struct controller *c, const struct snapshot *s)
{
    const struct snapshot *chain[LINEAGE_MAX];
    return s->state == SNAPSHOT_READY ||
           (s->state == SNAPSHOT_STORED && lineage_chain(&c->fleet, s, chain, c->snapshot_root, NULL) > 0);
}

/* What is being done, and how far it is. */
static void stage_json(struct snapshot *s, json_t *object)
{
    static const char *const names[] = {[STAGE_BOOT] = "boot",
                                        [STAGE_WARMUP] = "warmup",
                                        [STAGE_FREEZE] = "freeze",
                                        [STAGE_WRITE] = "write",
                                        [STAGE_LOAD] = "load"};
    _Static_assert(sizeof names / sizeof *names == SNAPSHOT_STAGES, "every stage has its name");
    int stage = s->stage;
    if (stage == STAGE_NONE)
        return;
    json_object_set_new(object, "stage", json_string(names[stage]));
    if (stage != STAGE_WRITE && stage != STAGE_LOAD)
        return;
    uint64_t done = s->progress.done, total = s->progress.total, percent = total ? done * 100 / total : 0;
    json_object_set_new(object, "percent", json_integer(percent < 100 ? (json_int_t)percent : 100));
    if (stage == STAGE_WRITE)
        json_object_set_new(object, "written_bytes", json_integer((json_int_t)s->progress.written));
}

json_t *snapshot_json(struct controller *c, struct snapshot *s, bool memory)
{
    char dir[PATH_MAX + REST_TAG_MAX + 2], reason[ERR_TEXT_MAX];
    snprintf(dir, sizeof dir, "%s/%s", c->snapshot_root, s->tag);
    pthread_mutex_lock(&c->fleet.lock);
    memcpy(reason, s->state == SNAPSHOT_FAILED ? s->reason : s->durable.warning, sizeof reason);
    const struct rest_diff diff = s->durable.diff;
    const struct rest_branch branch = s->branch;
    struct rest_snapshot_info info = {.tag = s->tag,
                                      .dir = dir,
                                      .created_at_unix = s->created_at_unix,
                                      .status = status_name(s),
                                      .warning = *reason ? reason : NULL,
                                      .branch = *branch.source ? &branch : NULL,
                                      .compacted = *s->compacted ? s->compacted : NULL,
                                      .diff = diff.logical_bytes ? &diff : NULL,
                                      .bootable = is_bootable(c, s)};
    pthread_mutex_unlock(&c->fleet.lock);
    json_t *object = rest_json_snapshot(&info);
    if (object)
        stage_json(s, object);
    if (object && memory)
        snapshot_memory(c, s, object);
    return object;
}
