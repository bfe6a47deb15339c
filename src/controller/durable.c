/* durable.c: see durable.h. Writing, and what lies in the root; durable_load.c makes templates of it. */
#include "controller/durable.h"

#include "base/clock.h"
#include "base/io.h"
#include "base/log.h"
#include "base/own.h"
#include "controller/lineage.h"
#include "controller/metrics.h"
#include "controller/refusal.h"
#include "controller/snapshot_details.h"
#include "controller/snapshot_root.h"
#include "controller/store_client.h"
#include "controller/templates.h"

#include <fcntl.h>
#include <string.h>

/* What snapshot.json calls the origin of a compacted snapshot, with the other's tag behind it. */
static const char compact_origin[] = "compact:";

/* Opening and closing */

int durable_open(struct controller *c, struct err *err)
{
    c->root = -1;
    if (c->engine == STORE_NONE)
        return 0;
    int rc = store_program(c->store_program, sizeof c->store_program, err);
    if (rc == 0)
        rc = snapshot_root_open(c->snapshot_root, err);
    if (rc == -EWOULDBLOCK)
        return rc;
    c->root = rc < 0 ? -1 : rc;
    if (rc < 0) {
        memcpy(c->root_reason, err->text, sizeof c->root_reason);
        log_error("snapshots will not survive this host: %s", err->text);
    }
    return 0;
}

void durable_stop(struct controller *c)
{
    pthread_mutex_lock(&c->fleet.lock);
    c->writing_ends = true;
    list_for_each (n, &c->fleet.snapshots) {
        const struct snapshot *s = list_entry(n, struct snapshot, link);
        if (s->durable.store)
            vmm_kill(s->durable.store);
    }
    pthread_cond_broadcast(&c->fleet.changed);
    pthread_mutex_unlock(&c->fleet.lock);
}

/* Writing */

/* The fleet's lock is held. */
static bool is_unwanted(const struct controller *c, const struct snapshot *s)
{
    return c->writing_ends || s->state == SNAPSHOT_HIDDEN || s->state == SNAPSHOT_GONE;
}

/* Names the parent of a diff, once that is written; not where the diff must be written whole. */
static void name_parent(struct controller *c, const struct snapshot *s, struct snapshot_meta *meta)
{
    struct snapshot *parent = s->durable.parent;
    const struct snapshot *chain[LINEAGE_MAX];
    if (!parent || s->branch.mode == REST_FULL)
        return;
    pthread_mutex_lock(&c->fleet.lock);
    while (parent->durable.state == DURABLE_WRITING && !is_unwanted(c, s) && !is_unwanted(c, parent))
        pthread_cond_wait(&c->fleet.changed, &c->fleet.lock);
    bool there = !is_unwanted(c, parent) && parent->durable.state == DURABLE_WRITTEN;
    int links = there ? lineage_chain(&c->fleet, parent, chain, c->snapshot_root, NULL) : 0;
    if (links > 0 && links < LINEAGE_WRITTEN_MAX) {
        snprintf(meta->parent_tag, sizeof meta->parent_tag, "%s", parent->tag);
        snapshot_meta_hash(parent->durable.meta, meta->parent_hash);
    } else {
        snprintf(meta->warning, sizeof meta->warning, "written whole: %s %s", parent->tag,
                 links > 0 ? "has too many ancestors" : "is not on the disk");
    }
    pthread_mutex_unlock(&c->fleet.lock);
}

static bool can_be_shared(struct controller *c, const struct snapshot *origin)
{
    pthread_mutex_lock(&c->fleet.lock);
    bool can =
        !is_unwanted(c, origin) && origin->durable.state == DURABLE_WRITTEN && !*origin->durable.meta->parent_tag;
    pthread_mutex_unlock(&c->fleet.lock);
    return can;
}

/* The directory of the snapshot that a branch, written whole, may share blocks with; -1: none. Its tag may be another's
 * by now: it was not if it is its own still when the directory is open. */
static int origin_open(struct controller *c, const struct snapshot *s)
{
    const struct snapshot *origin = s->durable.parent;
    if (!origin || s->branch.mode != REST_FULL || !can_be_shared(c, origin))
        return -1;
    int fd = snapshot_root_dir(c->root, origin->tag, NULL);
    if (!can_be_shared(c, origin))
        fd_close(&fd);
    return fd < 0 ? -1 : fd;
}

/* The base image, by the path it was opened by; what is known of it from another snapshot need not be summed up again.
 */
static int name_base(struct controller *c, int fd, struct snapshot_base *base, struct err *err)
{
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t len = readlink(link, base->path, sizeof base->path - 1);
    if (len < 0)
        return err_set(err, errno, "find the path of the disk's base image");
    base->path[len] = 0;
    pthread_mutex_lock(&c->fleet.lock);
    list_for_each (n, &c->fleet.snapshots) {
        const struct snapshot *other = list_entry(n, struct snapshot, link);
        if (other->durable.meta && !strcmp(other->durable.meta->base.path, base->path))
            *base = other->durable.meta->base;
    }
    pthread_mutex_unlock(&c->fleet.lock);
    return 0;
}

/* What a diff would hold. */
static void measure(struct controller *c, struct snapshot *s, int bitmap, uint64_t mem_bytes)
{
    uint64_t words[512], began = clock_monotonic_ns(), pages = 0, left = (mem_bytes / 4096 + 63) / 64;
    for (uint64_t at = 0, count; left; left -= count, at += count * sizeof *words) {
        count = left < 512 ? left : 512;
        if (io_pread_all(bitmap, words, count * sizeof *words, at, NULL) < 0)
            return;
        for (uint64_t i = 0; i < count; i++)
            pages += (uint64_t)__builtin_popcountll(words[i]);
    }
    pthread_mutex_lock(&c->fleet.lock);
    s->durable.diff = (struct rest_diff){
        .ms = (clock_monotonic_ns() - began) / NS_PER_MS, .physical_bytes = pages * 4096, .logical_bytes = mem_bytes};
    pthread_mutex_unlock(&c->fleet.lock);
}

/* The store can be ended by others while it is at work. */
static int run_store(struct controller *c, struct snapshot *s, const struct store_order *order,
                     struct snapshot_meta *meta, struct err *err)
{
    struct vmm store;
    int rc = store_start(c->store_program, &store, err);
    if (rc < 0)
        return rc;
    pthread_mutex_lock(&c->fleet.lock);
    bool wanted = !is_unwanted(c, s);
    if (wanted)
        s->durable.store = &store;
    pthread_mutex_unlock(&c->fleet.lock);
    rc = wanted ? store_save(&store, order, meta, err) : err_say(err, ECANCELED, "it is not wanted any more");
    pthread_mutex_lock(&c->fleet.lock);
    s->durable.store = NULL;
    pthread_mutex_unlock(&c->fleet.lock);
    vmm_destroy(&store);
    return rc;
}

/* From a template, whose own memory is `memory`, to a directory with the snapshot's name. */
static int write_exported(struct controller *c, struct snapshot *s, const struct ctl_message *exported, int memory,
                          struct snapshot_meta *meta, struct err *err)
{
    own_fd int dir = snapshot_root_begin(c->root, s->template.id, err);
    if (dir < 0)
        return dir;
    own_fd int origin = origin_open(c, s);
    const struct store_order order = {.exported = exported,
                                      .memory = memory,
                                      .dir = dir,
                                      .origin = origin,
                                      .awaited = s->durable.awaited,
                                      .progress = &s->progress,
                                      .engine = c->engine,
                                      .bytes_per_second = (uint64_t)c->write_mib_per_second << 20};
    s->stage = STAGE_WRITE;
    int rc = run_store(c, s, &order, meta, err);
    s->stage = STAGE_NONE;
    if (rc == 0)
        rc = snapshot_root_publish(c->root, s->template.id, s->tag, err);
    if (rc < 0)
        snapshot_root_discard(c->root, s->template.id);
    return rc;
}

static int write_snapshot(struct controller *c, struct snapshot *s, struct snapshot_meta *meta, struct err *err)
{
    struct ctl_message exported;
    memcpy(meta->tag, s->tag, sizeof meta->tag);
    meta->created_at_unix = s->created_at_unix;
    snprintf(meta->branched_from, sizeof meta->branched_from, "%s", s->branch.source);
    name_parent(c, s, meta);
    pthread_mutex_lock(&s->spawning);
    int rc = vmm_export(&s->template, &exported, err);
    pthread_mutex_unlock(&s->spawning);
    if (rc < 0)
        return rc;
    if (exported.fd[CTL_FD_BASE] >= 0)
        rc = name_base(c, exported.fd[CTL_FD_BASE], &meta->base, err);
    if (rc == 0 && s->durable.measure && exported.fd[CTL_FD_DIFF] >= 0)
        measure(c, s, exported.fd[CTL_FD_DIFF], exported.export.mem_bytes);
    if (rc == 0)
        rc = details_write(s, meta, err);
    if (rc == 0)
        rc = write_exported(c, s, &exported, s->template.memory, meta, err);
    ctl_message_close(&exported);
    return rc;
}

static void count_write(int rc, bool wanted, const struct snapshot_meta *meta)
{
    if (rc == 0) {
        metrics_observe(METRIC_WRITE, meta->write_ms * NS_PER_MS);
        metrics_count(COUNT_BYTES_WRITTEN, meta->physical_bytes);
    } else if (wanted) {
        metrics_count(COUNT_WRITES_FAILED, 1);
    }
}

static void settle(struct controller *c, struct snapshot *s, int rc, struct snapshot_meta *meta, const struct err *err)
{
    pthread_mutex_lock(&c->fleet.lock);
    struct snapshot *parent = steal_ptr(s->durable.parent);
    s->durable.state = rc == 0 ? DURABLE_WRITTEN : DURABLE_FAILED;
    s->durable.on_disk = rc == 0;
    if (rc == 0) {
        s->durable.meta = meta;
        memcpy(s->durable.warning, meta->warning, sizeof meta->warning);
        if (*meta->parent_tag)
            s->durable.diff = (struct rest_diff){
                .ms = meta->write_ms, .physical_bytes = meta->physical_bytes, .logical_bytes = meta->mem_bytes};
    } else {
        snprintf(s->durable.warning, sizeof s->durable.warning, "it could not be written to %.200s: %.250s",
                 c->snapshot_root, err->text);
    }
    bool wanted = !is_unwanted(c, s);
    pthread_cond_broadcast(&c->fleet.changed);
    pthread_mutex_unlock(&c->fleet.lock);
    count_write(rc, wanted, meta);
    if (rc == 0)
        log_info("snapshot %s is on the disk: %llu bytes in %llu ms%s%s", s->tag,
                 (unsigned long long)meta->physical_bytes, (unsigned long long)meta->write_ms,
                 *meta->warning ? "; " : "", meta->warning);
    else if (wanted)
        log_error("snapshot %s: %s", s->tag, s->durable.warning);
    snapshot_unref(&c->fleet, parent);
}
_Static_assert((int)SNAPSHOT_TEXT_MAX <= (int)ERR_TEXT_MAX, "a warning fits");

static void write_job(struct job *job)
{
    struct snapshot *s = list_entry(job, struct snapshot, durable.job);
    struct controller *c = s->durable.c;
    struct err err = {0};
    struct snapshot_meta *meta = calloc(1, sizeof *meta);
    int rc = meta ? write_snapshot(c, s, meta, &err) : err_say(&err, ENOMEM, "out of memory");
    settle(c, s, rc, meta, &err);
    if (rc < 0)
        free(meta);
    snapshot_unref(&c->fleet, s);
}

void durable_write(struct controller *c, struct snapshot *s, struct snapshot *parent, bool measured, bool awaited)
{
    struct err err = {0};
    if (c->engine == STORE_NONE)
        return;
    pthread_mutex_lock(&c->fleet.lock);
    s->durable.state = DURABLE_WRITING;
    s->durable.c = c;
    s->durable.measure = measured;
    s->durable.awaited = awaited;
    s->durable.job.fn = write_job;
    s->refs++; /* the job's */
    if (parent) {
        s->durable.parent = parent;
        parent->refs++;
    }
    pthread_mutex_unlock(&c->fleet.lock);
    int rc = c->root >= 0 ? workers_submit(c->workers, WORKER_HELPER, &s->durable.job, &err)
                          : err_say(&err, EIO, "%s", c->root_reason);
    if (rc == 0)
        return;
    settle(c, s, rc, NULL, &err);
    snapshot_unref(&c->fleet, s);
}

int durable_await(struct controller *c, struct snapshot *s, struct err *err)
{
    int rc = 0;
    pthread_mutex_lock(&c->fleet.lock);
    while (s->durable.state == DURABLE_WRITING)
        pthread_cond_wait(&c->fleet.changed, &c->fleet.lock);
    if (s->durable.state == DURABLE_FAILED)
        rc = err_say(err, EIO, "snapshot %s can be forked, but %.400s", s->tag, s->durable.warning);
    pthread_mutex_unlock(&c->fleet.lock);
    return rc;
}

int durable_remove(struct controller *c, struct snapshot *s, struct err *err)
{
    pthread_mutex_lock(&c->fleet.lock);
    if (s->durable.store)
        vmm_kill(s->durable.store);
    pthread_cond_broadcast(&c->fleet.changed); /* it may wait for its parent */
    while (s->durable.state == DURABLE_WRITING)
        pthread_cond_wait(&c->fleet.changed, &c->fleet.lock);
    bool on_disk = s->durable.on_disk;
    s->durable.on_disk = false;
    pthread_mutex_unlock(&c->fleet.lock);
    return on_disk ? snapshot_root_remove(c->root, s->tag, err) : 0;
}

/* What lies in the root */

static void note_written(struct snapshot *s, struct snapshot_meta *meta)
{
    s->durable.state = DURABLE_WRITTEN;
    s->durable.on_disk = true;
    s->durable.meta = meta;
    memcpy(s->durable.warning, meta->warning, sizeof meta->warning);
    if (!strncmp(meta->branched_from, compact_origin, strlen(compact_origin)))
        snprintf(s->compacted, sizeof s->compacted, "%.*s", REST_TAG_MAX, meta->branched_from + strlen(compact_origin));
    else
        details_read(meta, &s->branch, &s->durable.diff);
}

void durable_recall(struct controller *c, struct snapshot *s)
{
    struct err err;
    struct snapshot_meta *meta = c->root >= 0 ? calloc(1, sizeof *meta) : NULL;
    if (!meta)
        return;
    int rc = snapshot_root_describe(c->root, s->tag, meta, &err);
    if (rc == 0 && meta->created_at_unix == s->created_at_unix) {
        note_written(s, meta);
        return;
    }
    free(meta);
    if (rc == -ENOENT)
        return;
    s->durable.state = DURABLE_FAILED;
    s->durable.on_disk = rc < 0; /* what is of another is not touched */
    snprintf(s->durable.warning, sizeof s->durable.warning, "%.200s/%s: %.200s", c->snapshot_root, s->tag,
             rc < 0 ? err.text : "another snapshot of that name lies there");
    log_error("snapshot %s: %s", s->tag, s->durable.warning);
}

/* With a name for the template that may be made of it. */
static struct snapshot *stored_new(struct controller *c, const char *tag)
{
    struct err err;
    struct snapshot *s = snapshot_new(tag);
    if (s && vmm_name(&s->template, "tm", &err) == 0 && (s->tree = tree_new(s->template.id)))
        return s;
    snapshot_unref(&c->fleet, s);
    return NULL;
}

/* A directory that no living snapshot has. */
static void list_stored(void *arg, const char *tag)
{
    struct controller *c = arg;
    struct err err = {0};
    struct snapshot *s = fleet_snapshot_find(&c->fleet, tag);
    if (s) {
        snapshot_unref(&c->fleet, s);
        return;
    }
    s = stored_new(c, tag);
    struct snapshot_meta *meta = s ? calloc(1, sizeof *meta) : NULL;
    if (!meta) {
        log_error("snapshot %s is not listed: out of memory", tag);
        snapshot_unref(&c->fleet, s);
        return;
    }
    s->durable.on_disk = true;
    if (snapshot_root_describe(c->root, tag, meta, &err) == 0) {
        s->state = SNAPSHOT_STORED;
        s->created_at_unix = meta->created_at_unix;
        s->has_disk = *meta->base.path != 0;
        note_written(s, meta);
    } else {
        free(meta);
        s->state = SNAPSHOT_FAILED;
        s->durable.state = DURABLE_FAILED;
        snprintf(s->reason, sizeof s->reason, "%.200s/%s: %.200s", c->snapshot_root, tag, err.text);
        log_error("snapshot %s: %s", tag, s->reason);
    }
    if (fleet_snapshot_add(&c->fleet, s, &err) < 0)
        log_error("%s", err.text);
    snapshot_unref(&c->fleet, s);
}

void durable_scan(struct controller *c)
{
    struct err err;
    if (c->root >= 0 && snapshot_root_each(c->root, list_stored, c, &err) < 0)
        log_error("%s", err.text);
    struct snapshot **all = fleet_snapshots(&c->fleet, false);
    for (struct snapshot **s = all; s && *s; s++) {
        if ((*s)->state != SNAPSHOT_READY || (*s)->durable.state != DURABLE_NONE)
            continue;
        /* By its source: another may have the parent's tag by now. */
        struct sandbox *source = *(*s)->branch.source ? fleet_sandbox_find(&c->fleet, (*s)->branch.source) : NULL;
        durable_write(c, *s, source ? source->base : NULL, false, false);
        sandbox_unref(&c->fleet, source);
    }
    fleet_snapshots_release(&c->fleet, all);
}

/* Compacting */

/* -ESTALE: the template is dead, and buried. */
static int write_whole(struct controller *c, struct snapshot *source, struct snapshot *made, struct snapshot_meta *meta,
                       struct err *err)
{
    struct ctl_message exported;
    memcpy(meta->tag, made->tag, sizeof meta->tag);
    meta->created_at_unix = made->created_at_unix;
    snprintf(meta->branched_from, sizeof meta->branched_from, "%s%s", compact_origin, source->tag);
    pthread_mutex_lock(&source->spawning);
    pid_t asked = source->template.pid;
    int rc = vmm_export(&source->template, &exported, err);
    pthread_mutex_unlock(&source->spawning);
    if (rc == -ECONNRESET) {
        snapshot_await_burial(c, source, asked);
        rc = -ESTALE;
    }
    if (rc < 0)
        return rc;
    if (exported.fd[CTL_FD_BASE] >= 0)
        rc = name_base(c, exported.fd[CTL_FD_BASE], &meta->base, err);
    if (rc == 0)
        rc = write_exported(c, made, &exported, source->template.memory, meta, err);
    ctl_message_close(&exported);
    return rc;
}

/* Its tag is taken, and given back where it cannot be written. */
static int compact(struct controller *c, struct snapshot *source, struct snapshot *made, struct err *err)
{
    made->created_at_unix = clock_realtime_ns() / NS_PER_SEC;
    made->has_disk = source->has_disk;
    if (fleet_snapshot_add(&c->fleet, made, err) < 0)
        return err_say(err, REFUSED_CONFLICT, "snapshot %s exists already", made->tag);
    struct snapshot_meta *meta = calloc(1, sizeof *meta);
    int rc = meta ? write_whole(c, source, made, meta, err) : err_say(err, ENOMEM, "out of memory");
    if (rc < 0) {
        free(meta);
        fleet_snapshot_end(&c->fleet, made);
        return rc;
    }
    pthread_mutex_lock(&c->fleet.lock);
    note_written(made, meta);
    made->state = SNAPSHOT_STORED;
    pthread_mutex_unlock(&c->fleet.lock);
    log_info("snapshot %s is the whole of %s: %llu bytes in %llu ms", made->tag, source->tag,
             (unsigned long long)meta->physical_bytes, (unsigned long long)meta->write_ms);
    return 0;
}

int durable_compact(struct controller *c, struct snapshot *source, const char *to, struct snapshot **made,
                    struct err *err)
{
    int rc = 0;
    struct snapshot *s = NULL;
    if (c->root < 0)
        rc = err_say(err, REFUSED_CONFLICT, "snapshots are not kept on a disk here%s%s",
                     c->engine == STORE_NONE ? "" : ": ", c->engine == STORE_NONE ? "" : c->root_reason);
    else if (!(s = stored_new(c, to)))
        rc = err_say(err, ENOMEM, "out of memory");
    if (rc == 0)
        rc = compact(c, source, s, err);
    if (rc < 0)
        snapshot_unref(&c->fleet, s);
    else
        *made = s;
    return rc;
}
