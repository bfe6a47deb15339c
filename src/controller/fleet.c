/* fleet.c: see fleet.h. */
#include "controller/fleet.h"

#include "base/clock.h"
#include "base/own.h"

#include <string.h>

void fleet_init(struct fleet *fleet)
{
    pthread_mutex_init(&fleet->lock, NULL);
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&fleet->changed, &attr);
    pthread_condattr_destroy(&attr);
    list_init(&fleet->snapshots);
    for (int i = 0; i < FLEET_BUCKETS; i++)
        list_init(&fleet->buckets[i]);
    fleet->sandboxes = 0;
}

/* What is still in the tables loses its last reference: processes live on, descriptors are closed. */
void fleet_destroy(struct fleet *fleet)
{
    for (int i = 0; i < FLEET_BUCKETS; i++)
        list_for_each_safe (n, &fleet->buckets[i])
            fleet_sandbox_end(fleet, list_entry(n, struct sandbox, link));
    list_for_each_safe (n, &fleet->snapshots)
        fleet_snapshot_end(fleet, list_entry(n, struct snapshot, link));
    pthread_cond_destroy(&fleet->changed);
    pthread_mutex_destroy(&fleet->lock);
}

struct snapshot *snapshot_new(const char *tag)
{
    struct snapshot *s = calloc(1, sizeof *s);
    if (!s)
        return NULL;
    s->refs = 1;
    snprintf(s->tag, sizeof s->tag, "%s", tag);
    s->template = (struct vmm)VMM_EMPTY;
    pthread_mutex_init(&s->spawning, NULL);
    pthread_mutex_init(&s->durable.loading, NULL);
    return s;
}

struct sandbox *sandbox_new(struct fleet *fleet, struct snapshot *base)
{
    struct sandbox *b = calloc(1, sizeof *b);
    if (!b)
        return NULL;
    b->refs = 1;
    b->base = base;
    b->cgroup = -1;
    b->vmm = (struct vmm)VMM_EMPTY;
    pthread_mutex_init(&b->branching, NULL);
    pthread_mutex_lock(&fleet->lock);
    base->refs++;
    pthread_mutex_unlock(&fleet->lock);
    return b;
}

static void snapshot_free(struct snapshot *s)
{
    vmm_release(&s->template);
    tree_unref(s->tree);
    pthread_mutex_destroy(&s->spawning);
    pthread_mutex_destroy(&s->durable.loading);
    free(s->durable.meta);
    free(s);
}

void snapshot_unref(struct fleet *fleet, struct snapshot *s)
{
    if (!s)
        return;
    pthread_mutex_lock(&fleet->lock);
    bool last = --s->refs == 0;
    pthread_mutex_unlock(&fleet->lock);
    if (last)
        snapshot_free(s);
}

void sandbox_unref(struct fleet *fleet, struct sandbox *b)
{
    if (!b)
        return;
    pthread_mutex_lock(&fleet->lock);
    bool last = --b->refs == 0;
    pthread_mutex_unlock(&fleet->lock);
    if (!last)
        return;
    vmm_release(&b->vmm);
    fd_close(&b->cgroup);
    pthread_mutex_destroy(&b->branching);
    snapshot_unref(fleet, b->last);
    snapshot_unref(fleet, b->base);
    free(b);
}

/* The lock is held. */
static struct snapshot *snapshot_lookup(struct fleet *fleet, const char *tag)
{
    list_for_each (n, &fleet->snapshots) {
        struct snapshot *s = list_entry(n, struct snapshot, link);
        if (s->state != SNAPSHOT_HIDDEN && !strcmp(s->tag, tag))
            return s;
    }
    return NULL;
}

static struct list *bucket_of(struct fleet *fleet, const char *id)
{
    uint32_t hash = 2166136261u; /* FNV-1a */
    for (; *id; id++)
        hash = (hash ^ (uint8_t)*id) * 16777619u;
    return &fleet->buckets[hash % FLEET_BUCKETS];
}

int fleet_snapshot_add(struct fleet *fleet, struct snapshot *s, struct err *err)
{
    pthread_mutex_lock(&fleet->lock);
    bool taken = snapshot_lookup(fleet, s->tag) != NULL;
    if (!taken || s->state == SNAPSHOT_HIDDEN) {
        list_append(&fleet->snapshots, &s->link);
        s->refs++;
        s->tree->templates++;
        taken = false;
    }
    pthread_mutex_unlock(&fleet->lock);
    return taken ? err_say(err, EEXIST, "snapshot %s exists already", s->tag) : 0;
}

void fleet_sandbox_add(struct fleet *fleet, struct sandbox *b)
{
    pthread_mutex_lock(&fleet->lock);
    list_append(bucket_of(fleet, b->vmm.id), &b->link);
    b->refs++;
    fleet->sandboxes++;
    pthread_mutex_unlock(&fleet->lock);
}

struct snapshot *fleet_snapshot_find(struct fleet *fleet, const char *tag)
{
    pthread_mutex_lock(&fleet->lock);
    struct snapshot *s = snapshot_lookup(fleet, tag);
    if (s)
        s->refs++;
    pthread_mutex_unlock(&fleet->lock);
    return s;
}

struct sandbox *fleet_sandbox_find(struct fleet *fleet, const char *id)
{
    struct sandbox *found = NULL;
    pthread_mutex_lock(&fleet->lock);
    list_for_each (n, bucket_of(fleet, id)) {
        struct sandbox *b = list_entry(n, struct sandbox, link);
        if (b->state == SANDBOX_RUNNING && !strcmp(b->vmm.id, id))
            found = b;
    }
    if (found)
        found->refs++;
    pthread_mutex_unlock(&fleet->lock);
    return found;
}

bool fleet_tree_leave(struct fleet *fleet, struct snapshot *s)
{
    pthread_mutex_lock(&fleet->lock);
    bool last = --s->tree->templates == 0;
    pthread_mutex_unlock(&fleet->lock);
    return last;
}

bool fleet_snapshot_end(struct fleet *fleet, struct snapshot *s)
{
    pthread_mutex_lock(&fleet->lock);
    bool first = s->state != SNAPSHOT_GONE;
    s->state = SNAPSHOT_GONE;
    list_remove(&s->link);
    pthread_cond_broadcast(&fleet->changed);
    pthread_mutex_unlock(&fleet->lock);
    if (first)
        snapshot_unref(fleet, s);
    return first;
}

bool fleet_sandbox_end(struct fleet *fleet, struct sandbox *b)
{
    pthread_mutex_lock(&fleet->lock);
    bool first = b->state != SANDBOX_GONE;
    b->state = SANDBOX_GONE;
    fleet->sandboxes -= first;
    list_remove(&b->link);
    pthread_mutex_unlock(&fleet->lock);
    /* Not under the lock, on which whoever wakes would go to sleep again at once. */
    pthread_cond_broadcast(&fleet->changed);
    if (first)
        sandbox_unref(fleet, b);
    return first;
}

bool fleet_await_empty(struct fleet *fleet, unsigned secs)
{
    const struct timespec until = clock_secs_from_now(secs);
    int late = 0;
    pthread_mutex_lock(&fleet->lock);
    while ((fleet->sandboxes || !list_empty(&fleet->snapshots)) && !late)
        late = pthread_cond_timedwait(&fleet->changed, &fleet->lock, &until);
    pthread_mutex_unlock(&fleet->lock);
    return !late;
}

static int by_tag(const void *a, const void *b)
{
    return strcmp((*(struct snapshot *const *)a)->tag, (*(struct snapshot *const *)b)->tag);
}

static int by_id(const void *a, const void *b)
{
    return strcmp((*(struct sandbox *const *)a)->vmm.id, (*(struct sandbox *const *)b)->vmm.id);
}

struct snapshot **fleet_snapshots(struct fleet *fleet, bool all)
{
    size_t count = 0, room = 1;
    pthread_mutex_lock(&fleet->lock);
    list_for_each (n, &fleet->snapshots)
        room++;
    struct snapshot **found = calloc(room, sizeof *found);
    list_for_each (n, &fleet->snapshots) {
        struct snapshot *s = list_entry(n, struct snapshot, link);
        if (!found || (!all && s->state == SNAPSHOT_HIDDEN))
            continue;
        s->refs++;
        found[count++] = s;
    }
    pthread_mutex_unlock(&fleet->lock);
    if (found)
        qsort(found, count, sizeof *found, by_tag);
    return found;
}

struct sandbox **fleet_sandboxes(struct fleet *fleet, bool all)
{
    size_t count = 0;
    pthread_mutex_lock(&fleet->lock);
    struct sandbox **found = calloc(fleet->sandboxes + 1, sizeof *found);
    for (int i = 0; found && i < FLEET_BUCKETS; i++)
        list_for_each (n, &fleet->buckets[i]) {
            struct sandbox *b = list_entry(n, struct sandbox, link);
            if (!all && b->state != SANDBOX_RUNNING)
                continue;
            b->refs++;
            found[count++] = b;
        }
    pthread_mutex_unlock(&fleet->lock);
    if (found)
        qsort(found, count, sizeof *found, by_id);
    return found;
}

void fleet_snapshots_release(struct fleet *fleet, struct snapshot **snapshots)
{
    for (struct snapshot **s = snapshots; s && *s; s++)
        snapshot_unref(fleet, *s);
    free(snapshots);
}

void fleet_sandboxes_release(struct fleet *fleet, struct sandbox **sandboxes)
{
    for (struct sandbox **b = sandboxes; b && *b; b++)
        sandbox_unref(fleet, *b);
    free(sandboxes);
}

void fleet_count(struct fleet *fleet, unsigned *snapshots, unsigned *sandboxes)
{
    *snapshots = *sandboxes = 0;
    pthread_mutex_lock(&fleet->lock);
    list_for_each (n, &fleet->snapshots)
        *snapshots += list_entry(n, struct snapshot, link)->state != SNAPSHOT_HIDDEN;
    for (int i = 0; i < FLEET_BUCKETS; i++)
        list_for_each (n, &fleet->buckets[i])
            *sandboxes += list_entry(n, struct sandbox, link)->state == SANDBOX_RUNNING;
    pthread_mutex_unlock(&fleet->lock);
}
