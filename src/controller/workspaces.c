/* workspaces.c: see workspaces.h. */
#include "controller/workspaces.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/own.h"
#include "controller/branches.h"
#include "controller/controller.h"
#include "controller/durable.h"
#include "controller/refusal.h"
#include "controller/sandboxes.h"
#include "controller/snapshots.h"

#include <limits.h>
#include <string.h>

_Static_assert(sizeof "ws-" - 1 + REST_WORKSPACE_MAX + sizeof "-state.2" - 1 <= REST_TAG_MAX, "a state's tag is a tag");

struct workspace {
    struct list link;
    struct workspace_row row;
    bool busy;
};

struct workspaces {
    pthread_mutex_t lock;
    struct list list; /* by name */
};

static uint64_t now_unix(void)
{
    return clock_realtime_ns() / NS_PER_SEC;
}

static struct workspaces *workspaces_new(void)
{
    struct workspaces *w = calloc(1, sizeof *w);
    if (!w)
        return NULL;
    pthread_mutex_init(&w->lock, NULL);
    list_init(&w->list);
    return w;
}

void workspaces_close(struct workspaces *w)
{
    if (!w)
        return;
    list_for_each_safe (n, &w->list) {
        list_remove(n);
        free(list_entry(n, struct workspace, link));
    }
    pthread_mutex_destroy(&w->lock);
    free(w);
}

/* The lock is held. */
static struct workspace *lookup(struct workspaces *w, const char *name)
{
    list_for_each (n, &w->list) {
        struct workspace *one = list_entry(n, struct workspace, link);
        if (!strcmp(one->row.name, name))
            return one;
    }
    return NULL;
}

/* The lock is held. Sorted as strcmp() has it. */
static void insert(struct workspaces *w, struct workspace *one)
{
    struct list *before = &w->list;
    list_for_each (n, &w->list) {
        if (strcmp(list_entry(n, struct workspace, link)->row.name, one->row.name) > 0) {
            before = n;
            break;
        }
    }
    list_append(before, &one->link);
}

/* Alone with it from here until leave(). */
static int enter(struct controller *c, const char *name, struct workspace **workspace, struct err *err)
{
    int rc = 0;
    pthread_mutex_lock(&c->workspaces->lock);
    struct workspace *w = lookup(c->workspaces, name);
    if (!w)
        rc = err_say(err, REFUSED_MISSING, "workspace %s not found", name);
    else if (w->busy)
        rc = err_say(err, REFUSED_CONFLICT, "workspace %s is being worked on", name);
    else
        w->busy = true;
    pthread_mutex_unlock(&c->workspaces->lock);
    *workspace = rc == 0 ? w : NULL;
    return rc;
}

static void leave(struct controller *c, struct workspace *w)
{
    pthread_mutex_lock(&c->workspaces->lock);
    w->busy = false;
    pthread_mutex_unlock(&c->workspaces->lock);
}

/* Nobody has it any more but the caller, who had entered it. */
static void forget(struct controller *c, struct workspace *w)
{
    pthread_mutex_lock(&c->workspaces->lock);
    list_remove(&w->link);
    pthread_mutex_unlock(&c->workspaces->lock);
    free(w);
}

/* Writes the row down, then takes it for true. */
static int change(struct controller *c, struct workspace *w, const struct workspace_row *row, struct err *err)
{
    int rc = registry_workspace_put(c->registry, row, err);
    if (rc < 0)
        return rc;
    pthread_mutex_lock(&c->workspaces->lock);
    w->row = *row;
    pthread_mutex_unlock(&c->workspaces->lock);
    return 0;
}

static bool sandbox_lives(struct controller *c, const char *id)
{
    struct sandbox *b = *id ? fleet_sandbox_find(&c->fleet, id) : NULL;
    sandbox_unref(&c->fleet, b);
    return b != NULL;
}

static const char *status_of(struct controller *c, const struct workspace_row *row)
{
    if (row->state == WORKSPACE_SUSPENDED || row->state == WORKSPACE_LEAVING)
        return "suspended";
    return row->state == WORKSPACE_CREATING || sandbox_lives(c, row->sandbox_id) ? "running" : "stale";
}

/* memory.bin of its state, "" where that is not on the disk. */
static void state_path(struct controller *c, const struct workspace_row *row, char *path, size_t cap)
{
    struct snapshot *s = *row->state_tag ? fleet_snapshot_find(&c->fleet, row->state_tag) : NULL;
    *path = 0;
    if (!s)
        return;
    pthread_mutex_lock(&c->fleet.lock);
    bool written = s->durable.state == DURABLE_WRITTEN;
    pthread_mutex_unlock(&c->fleet.lock);
    if (written)
        snprintf(path, cap, "%s/%s/memory.bin", c->snapshot_root, row->state_tag);
    snapshot_unref(&c->fleet, s);
}

static json_t *row_json(struct controller *c, const struct workspace_row *row)
{
    char path[PATH_MAX + REST_TAG_MAX + 16];
    state_path(c, row, path, sizeof path);
    bool lives = row->state == WORKSPACE_RUNNING && sandbox_lives(c, row->sandbox_id);
    struct rest_workspace_info info = {.id = row->id,
                                       .name = row->name,
                                       .source_snapshot_tag = row->source_tag,
                                       .current_state_tag = *row->state_tag ? row->state_tag : NULL,
                                       .status = status_of(c, row),
                                       .live_sandbox_id = lives ? row->sandbox_id : NULL,
                                       .last_branch_memory_path = *path ? path : NULL,
                                       .created_at_unix = row->created_at_unix,
                                       .last_active_unix = row->active_at_unix};
    return rest_json_workspace(&info);
}

/* The registry says that it runs when this succeeds, and so does its row here. */
static int spawn(struct controller *c, struct workspace *w, const char *tag, struct err *err)
{
    struct rest_spawn rq = {.snapshot_tag = tag, .n = 1, .memory_limit_mib = w->row.memory_limit_mib};
    struct sandbox **made = NULL;
    int rc = sandboxes_spawn(c, &rq, w->row.name, &made, err);
    if (!made)
        return rc;
    pthread_mutex_lock(&c->workspaces->lock);
    w->row.state = WORKSPACE_RUNNING;
    w->row.active_at_unix = made[0]->created_at_unix;
    memcpy(w->row.sandbox_id, made[0]->vmm.id, sizeof w->row.sandbox_id);
    pthread_mutex_unlock(&c->workspaces->lock);
    fleet_sandboxes_release(&c->fleet, made);
    return 0;
}

static int claim_name(struct controller *c, const struct rest_workspace_create *rq, struct workspace **workspace,
                      struct err *err)
{
    struct vmm vmm = VMM_EMPTY;
    struct workspace *w = calloc(1, sizeof *w);
    if (!w)
        return err_say(err, ENOMEM, "out of memory");
    int rc = vmm_name(&vmm, "ws", err);
    w->busy = true;
    w->row.state = WORKSPACE_CREATING;
    w->row.memory_limit_mib = rq->memory_limit_mib;
    w->row.created_at_unix = w->row.active_at_unix = now_unix();
    memcpy(w->row.id, vmm.id, sizeof w->row.id);
    snprintf(w->row.name, sizeof w->row.name, "%s", rq->name);
    snprintf(w->row.source_tag, sizeof w->row.source_tag, "%s", rq->snapshot_tag);
    pthread_mutex_lock(&c->workspaces->lock);
    if (rc == 0 && lookup(c->workspaces, rq->name))
        rc = err_say(err, REFUSED_CONFLICT, "workspace %s exists already", rq->name);
    if (rc == 0)
        insert(c->workspaces, w);
    pthread_mutex_unlock(&c->workspaces->lock);
    if (rc < 0)
        free(w);
    else
        *workspace = w;
    return rc;
}

int workspace_create(struct controller *c, const struct rest_workspace_create *rq, json_t **json, struct err *err)
{
    struct workspace *w = NULL;
    int rc = claim_name(c, rq, &w, err);
    if (!w)
        return rc;
    rc = registry_workspace_put(c->registry, &w->row, err);
    if (rc == 0)
        rc = spawn(c, w, w->row.source_tag, err);
    if (rc == 0) {
        *json = row_json(c, &w->row);
        leave(c, w);
        return 0;
    }
    struct err ignored;
    if (registry_workspace_remove(c->registry, w->row.name, &ignored) < 0)
        log_error("%s", ignored.text);
    forget(c, w);
    return rc;
}

static void state_tag(const char *name, bool second, char tag[REST_TAG_MAX + 1])
{
    snprintf(tag, REST_TAG_MAX + 1, "ws-%.*s-state%s", REST_WORKSPACE_MAX, name, second ? ".2" : "");
}

/* The tag that the present state has not: of the one before, and of the next. */
static void other_tag(const struct workspace_row *row, char tag[REST_TAG_MAX + 1])
{
    state_tag(row->name, false, tag);
    if (!strcmp(row->state_tag, tag))
        state_tag(row->name, true, tag);
}

static int state_delete(struct controller *c, const char *tag, struct err *err)
{
    int rc = snapshot_delete(c, tag, REMOVE_ALONE, err);
    return rc == -REFUSED_MISSING ? 0 : rc;
}

/* Where there is nothing else to be done about it. */
static void state_drop(struct controller *c, const char *tag)
{
    struct err err;
    if (state_delete(c, tag, &err) < 0)
        log_warn("%s", err.text);
}

/* LEAVING, to its end: the sandbox goes, and what the state replaced. */
static int finish_leaving(struct controller *c, struct workspace *w, struct err *err)
{
    struct workspace_row row = w->row;
    int rc = sandbox_kill(c, row.sandbox_id, err);
    if (rc < 0 && rc != -REFUSED_MISSING)
        return rc;
    char before[REST_TAG_MAX + 1];
    other_tag(&row, before);
    state_drop(c, before);
    row.state = WORKSPACE_SUSPENDED;
    *row.sandbox_id = 0;
    return change(c, w, &row, err);
}

static int suspend(struct controller *c, struct workspace *w, bool diff, struct err *err)
{
    struct workspace_row row = w->row;
    char tag[REST_TAG_MAX + 1];
    if (row.state != WORKSPACE_RUNNING || !sandbox_lives(c, row.sandbox_id))
        return err_say(err, REFUSED_BAD, "workspace %s is not running", row.name);
    other_tag(&row, tag);
    int rc = state_delete(c, tag, err); /* left of a suspension that was not finished */
    if (rc < 0)
        return rc;
    /* A difference to the state that goes with this one could not be read. */
    struct rest_branch_create rq = {.tag = tag, .diff = diff && !*row.state_tag, .wait = true};
    struct snapshot *made;
    rc = sandbox_branch(c, row.sandbox_id, &rq, &made, err);
    if (rc < 0)
        return rc;
    rc = durable_await(c, made, err); /* the sandbox goes when its state is safe */
    snapshot_unref(&c->fleet, made);
    if (rc < 0) {
        state_drop(c, tag);
        return rc;
    }
    memcpy(row.state_tag, tag, sizeof row.state_tag);
    row.state = WORKSPACE_LEAVING;
    row.active_at_unix = now_unix();
    rc = change(c, w, &row, err);
    if (rc < 0)
        state_drop(c, tag);
    return rc < 0 ? rc : finish_leaving(c, w, err);
}

int workspace_suspend(struct controller *c, const char *name, bool diff, json_t **json, struct err *err)
{
    struct workspace *w = NULL;
    int rc = enter(c, name, &w, err);
    if (!w)
        return rc;
    /* One that was left half-way is finished instead. */
    rc = w->row.state == WORKSPACE_LEAVING ? finish_leaving(c, w, err) : suspend(c, w, diff, err);
    if (rc == 0)
        *json = row_json(c, &w->row);
    leave(c, w);
    return rc;
}

static int resume(struct controller *c, struct workspace *w, struct err *err)
{
    const struct workspace_row *row = &w->row;
    if (row->state == WORKSPACE_RUNNING && sandbox_lives(c, row->sandbox_id))
        return err_say(err, REFUSED_BAD, "workspace %s is running", row->name);
    return spawn(c, w, *row->state_tag ? row->state_tag : row->source_tag, err);
}

int workspace_resume(struct controller *c, const char *name, json_t **json, struct err *err)
{
    struct workspace *w = NULL;
    int rc = enter(c, name, &w, err);
    if (!w)
        return rc;
    if (w->row.state == WORKSPACE_LEAVING)
        rc = finish_leaving(c, w, err);
    if (rc == 0)
        rc = resume(c, w, err);
    if (rc == 0)
        *json = row_json(c, &w->row);
    leave(c, w);
    return rc;
}

int workspace_delete(struct controller *c, const char *name, struct err *err)
{
    struct workspace *w = NULL;
    char tag[REST_TAG_MAX + 1];
    int rc = enter(c, name, &w, err);
    if (!w)
        return rc;
    if (*w->row.sandbox_id)
        rc = sandbox_kill(c, w->row.sandbox_id, err);
    if (rc == 0 || rc == -REFUSED_MISSING)
        rc = registry_workspace_remove(c->registry, name, err);
    if (rc < 0) {
        leave(c, w);
        return rc;
    }
    for (int second = 0; second < 2; second++) {
        state_tag(name, second, tag);
        state_drop(c, tag);
    }
    forget(c, w);
    return 0;
}

int workspace_get(struct controller *c, const char *name, json_t **json, struct err *err)
{
    struct workspace_row row;
    pthread_mutex_lock(&c->workspaces->lock);
    const struct workspace *w = lookup(c->workspaces, name);
    if (w)
        row = w->row;
    pthread_mutex_unlock(&c->workspaces->lock);
    if (!w)
        return err_say(err, REFUSED_MISSING, "workspace %s not found", name);
    *json = row_json(c, &row);
    return 0;
}

json_t *workspaces_json(struct controller *c)
{
    json_t *list = json_array();
    pthread_mutex_lock(&c->workspaces->lock);
    list_for_each (n, &c->workspaces->list)
        json_array_append_new(list, row_json(c, &list_entry(n, struct workspace, link)->row));
    pthread_mutex_unlock(&c->workspaces->lock);
    return list;
}

static int keep(void *arg, const struct workspace_row *row)
{
    struct workspaces *workspaces = arg;
    struct workspace *w = calloc(1, sizeof *w);
    if (!w)
        return -ENOMEM;
    w->row = *row;
    insert(workspaces, w);
    return 0;
}

/* What a controller was doing when it died. */
static int mend(struct controller *c, struct workspace *w, struct err *err)
{
    switch (w->row.state) {
    case WORKSPACE_CREATING:
        log_warn("workspace %s was half made, and is undone", w->row.name);
        return workspace_delete(c, w->row.name, err);
    case WORKSPACE_LEAVING:
        return finish_leaving(c, w, err);
    default:
        return 0;
    }
}

int workspaces_open(struct controller *c, struct err *err)
{
    struct err why;
    c->workspaces = workspaces_new();
    if (!c->workspaces)
        return err_say(err, ENOMEM, "out of memory");
    int rc = registry_workspaces_each(c->registry, keep, c->workspaces, err);
    if (rc < 0)
        return rc;
    list_for_each_safe (n, &c->workspaces->list) {
        struct workspace *w = list_entry(n, struct workspace, link);
        if (mend(c, w, &why) < 0)
            log_error("workspace %s: %s", w->row.name, why.text);
    }
    return 0;
}
