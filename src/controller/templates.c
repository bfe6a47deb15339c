/* templates.c: see templates.h. */
#include "controller/templates.h"

#include "base/clock.h"
#include "base/log.h"
#include "controller/leaf.h"
#include "controller/refusal.h"

#include <string.h>

enum { BURIAL_SECS = 2 }; /* from a template's death until it is known here */

int snapshot_intend(struct controller *c, const struct snapshot *s, struct err *err)
{
    struct snapshot_row row = {
        .state = ROW_MAKING, .created_at_unix = s->created_at_unix, .has_disk = s->has_disk, .branch = s->branch};
    memcpy(row.id, s->template.id, sizeof row.id);
    memcpy(row.tag, s->tag, sizeof row.tag);
    memcpy(row.tree, s->tree->id, sizeof row.tree);
    memcpy(row.secret, s->template.secret, sizeof row.secret);
    return registry_snapshot_add(c->registry, &row, err);
}

const char *snapshot_leaf(const struct snapshot *s)
{
    return *s->branch.source ? s->template.id : "template";
}

/* What a template leaves. */
static void template_clear(struct controller *c, struct snapshot *s)
{
    rundir_remove(&c->run, s->template.id);
    leaf_remove(s->tree->cgroup, snapshot_leaf(s));
}

void snapshot_finish(struct controller *c, struct snapshot *s)
{
    struct err err;
    template_clear(c, s);
    if (fleet_tree_leave(&c->fleet, s))
        tree_remove(s->tree, c->cgroup);
    if (registry_snapshot_remove(c->registry, s->template.id, &err) < 0)
        log_error("%s", err.text);
    fleet_snapshot_end(&c->fleet, s);
}

/* A hidden snapshot without children goes: by its template's death, or at once where that is dead already. */
static void retire(struct controller *c, struct snapshot *s, bool dead)
{
    if (dead)
        snapshot_finish(c, s);
    else
        vmm_kill(&s->template);
}

void snapshot_children_left(struct controller *c, struct snapshot *s, unsigned count)
{
    pthread_mutex_lock(&c->fleet.lock);
    s->children -= count;
    bool over = s->children == 0 && s->state == SNAPSHOT_HIDDEN, dead = s->template.pid == 0;
    pthread_mutex_unlock(&c->fleet.lock);
    if (over)
        retire(c, s, dead);
}

void snapshot_release(struct controller *c, struct snapshot *s, unsigned count)
{
    snapshot_children_left(c, s, count);
    snapshot_unref(&c->fleet, s);
}

void snapshot_bury(struct controller *c, struct snapshot *s)
{
    struct err err, words;
    bool told = vmm_last_words(&s->template, &words) == 0;
    /* Before it can be loaded again, under the same id. */
    template_clear(c, s);
    pthread_mutex_lock(&c->fleet.lock);
    enum snapshot_state was = s->state;
    bool finish = was == SNAPSHOT_HIDDEN && s->children == 0;
    bool stored = was == SNAPSHOT_READY && s->durable.state == DURABLE_WRITTEN;
    if (stored) {
        s->state = SNAPSHOT_STORED;
    } else if (was == SNAPSHOT_READY) {
        s->state = SNAPSHOT_FAILED;
        bool damaged = s->durable.state == DURABLE_FAILED;
        snprintf(s->reason, sizeof s->reason, "its template process ended%s%.200s%s%.220s",
                 told ? ": " : " without a word", told ? words.text : "", damaged ? "; " : "",
                 damaged ? s->durable.warning : "");
    }
    s->template.pid = 0;
    pthread_cond_broadcast(&c->fleet.changed); /* a branch may wait for it, to load it again */
    pthread_mutex_unlock(&c->fleet.lock);
    if (finish) {
        snapshot_finish(c, s);
        return;
    }
    if (stored)
        log_warn("snapshot %s: its template process ended%s%.300s; the next spawn loads it from the disk", s->tag,
                 told ? ": " : " without a word", told ? words.text : "");
    if (stored || was != SNAPSHOT_READY)
        return;
    log_error("snapshot %s failed: %s; its sandboxes live on", s->tag, s->reason);
    if (registry_snapshot_set(c->registry, s->template.id, ROW_FAILED, s->reason, &err) < 0)
        log_error("%s", err.text);
}

static void template_died(struct controller *c, struct watch *watch)
{
    struct snapshot *s = list_entry(watch, struct snapshot, watch);
    snapshot_bury(c, s);
    snapshot_unref(&c->fleet, s);
}

static void template_left(struct controller *c, struct watch *watch)
{
    snapshot_unref(&c->fleet, list_entry(watch, struct snapshot, watch));
}

/* Its last words stay in the socket for its burial. */
void snapshot_watch(struct controller *c, struct snapshot *s)
{
    static const struct watch_kind kind = {.died = template_died, .left = template_left};
    struct err err;
    pthread_mutex_lock(&c->fleet.lock);
    s->refs++; /* the watch's */
    pthread_mutex_unlock(&c->fleet.lock);
    s->watch.kind = &kind;
    if (monitor_watch(c->monitor, &s->watch, -1, s->template.pidfd, &err) == 0)
        return;
    /* It would be a process nobody misses. */
    log_error("cannot watch the template of %s (%s): it is ended", s->tag, err.text);
    vmm_kill(&s->template);
}

void snapshot_await_burial(struct controller *c, struct snapshot *s, pid_t dead)
{
    const struct timespec until = clock_secs_from_now(BURIAL_SECS);
    int late = 0;
    pthread_mutex_lock(&c->fleet.lock);
    while (dead && s->template.pid == dead && !late)
        late = pthread_cond_timedwait(&c->fleet.changed, &c->fleet.lock, &until);
    pthread_mutex_unlock(&c->fleet.lock);
}

int snapshot_refuse_dying(const char *tag, struct err *err)
{
    return err_say(err, REFUSED_BUSY, "snapshot %s: its template process ended, and so did the next; try again", tag);
}
