/* adopt.c: see adopt.h.
 *
 * For every row of the registry the VMM is asked through its listening socket, with the row's secret: the one
 * that answers is the one. A row in state making is an intent whose controller died, and so is a sandbox that was not
 * handed out: what lives of it is killed, the row removed. A ready row whose VMM answers is taken over; one whose VMM
 * is dead is removed, or, if it is a snapshot, kept as failed with the reason, so that its user is told. Snapshots come
 * first, as the sandboxes hold on to them: to the one they were spawned from and to their last branch. In the end every
 * directory in the run directory that had no row is removed.
 *
 * A VMM that is there and does not answer in time, since the host is busy or it is, is neither: nothing here has a
 * hold on it, and what forgets it leaves a machine that nobody can end. Its row and its directory stay as they are,
 * for the next start; until then a sandbox is not listed, and a snapshot is, as failed. */
#include "controller/adopt.h"

#include "base/log.h"
#include "base/own.h"
#include "controller/durable.h"
#include "controller/leaf.h"
#include "controller/sandbox_watch.h"
#include "controller/templates.h"

#include <string.h>

/* A branch in the making answers when it is made, or when it has given its source up (snap/branch_target.c). */
enum { ANSWER_SECS = 5, MAKING_SECS = 40 };

enum fate { SKIPPED, LIVES, DEAD, SILENT };

struct rows {
    struct snapshot_row *snapshot;
    enum fate *fate; /* of the snapshots */
    struct sandbox_row *sandbox;
    size_t snapshots, sandboxes;
};

static int keep_snapshot(void *arg, const struct snapshot_row *row)
{
    struct rows *rows = arg;
    struct snapshot_row *grown = reallocarray(rows->snapshot, rows->snapshots + 1, sizeof *grown);
    if (!grown)
        return -ENOMEM;
    rows->snapshot = grown;
    rows->snapshot[rows->snapshots++] = *row;
    return 0;
}

static int keep_sandbox(void *arg, const struct sandbox_row *row)
{
    struct rows *rows = arg;
    struct sandbox_row *grown = reallocarray(rows->sandbox, rows->sandboxes + 1, sizeof *grown);
    if (!grown)
        return -ENOMEM;
    rows->sandbox = grown;
    rows->sandbox[rows->sandboxes++] = *row;
    return 0;
}

static struct snapshot *snapshot_of(struct controller *c, const char *id)
{
    struct snapshot *found = NULL;
    list_for_each (n, &c->fleet.snapshots) {
        struct snapshot *s = list_entry(n, struct snapshot, link);
        if (!strcmp(s->template.id, id))
            found = s;
    }
    return found;
}

/* An id from the file becomes a name in directories. */
static bool id_sound(const char *id)
{
    if (rest_id_valid(id))
        return true;
    log_error("the state file holds a bad id; the row is ignored");
    return false;
}

/* The tree of that name, with a reference for the caller; NULL without memory. Its rows may come in any order. */
static struct tree *tree_of(struct controller *c, const char *id)
{
    struct err err;
    list_for_each (n, &c->fleet.snapshots) {
        struct snapshot *s = list_entry(n, struct snapshot, link);
        if (!strcmp(s->tree->id, id))
            return tree_ref(s->tree);
    }
    struct tree *tree = tree_new(id);
    if (tree && tree_open(tree, c->cgroup, &err) < 0)
        log_warn("%s", err.text);
    return tree;
}

/* A child that never leaves keeps a hidden one from being retired. */
static void snapshot_is_silent(struct snapshot *s, const struct err *why)
{
    log_error("snapshot %s: %s; it is left alone until the next start", s->tag, why->text);
    snprintf(s->reason, sizeof s->reason, "its template does not answer; start the controller again to see if it does");
    vmm_release(&s->template);
    s->children++;
}

static int snapshot_adopt(struct controller *c, const struct snapshot_row *row, enum fate *fate, struct err *err)
{
    struct err why;
    struct snapshot *s = snapshot_new(row->tag);
    if (!s || !(s->tree = tree_of(c, row->tree))) {
        snapshot_unref(&c->fleet, s);
        return err_say(err, ENOMEM, "out of memory");
    }
    memcpy(s->template.id, row->id, sizeof s->template.id);
    memcpy(s->template.secret, row->secret, sizeof s->template.secret);
    memcpy(s->reason, row->reason, sizeof s->reason);
    s->created_at_unix = row->created_at_unix;
    s->has_disk = row->has_disk;
    s->branch = row->branch;
    s->durable.has_row = true;
    if (row->state == ROW_READY || row->state == ROW_FAILED)
        durable_recall(c, s);
    s->image_bytes = row->image_bytes;

    unsigned secs = row->state == ROW_MAKING ? MAKING_SECS : ANSWER_SECS;
    int found = row->state == ROW_FAILED ? -ENOENT : vmm_adopt(&c->run, &s->template, secs, &why);
    *fate = found == 0 ? LIVES : found == -ETIMEDOUT ? SILENT : DEAD;
    s->state = row->state == ROW_HIDDEN ? SNAPSHOT_HIDDEN : *fate == LIVES ? SNAPSHOT_READY : SNAPSHOT_FAILED;
    if (row->state == ROW_FAILED && s->durable.state == DURABLE_WRITTEN)
        s->state = SNAPSHOT_STORED;
    if (*fate == SILENT)
        snapshot_is_silent(s, &why);
    else if (*fate == DEAD && row->state == ROW_READY)
        log_warn("snapshot %s: %s", s->tag, why.text);
    int rc = fleet_snapshot_add(&c->fleet, s, err);
    snapshot_unref(&c->fleet, s);
    return rc;
}

/* Once all are in the fleet, so that a tree is not taken for empty. */
static void snapshot_settle(struct controller *c, const struct snapshot_row *row, enum fate fate,
                            struct adoption *adoption)
{
    struct snapshot *s = snapshot_of(c, row->id);
    if (fate == SILENT) {
        adoption->silent++;
    } else if (row->state == ROW_MAKING) {
        vmm_destroy(&s->template);
        snapshot_finish(c, s);
        adoption->undone++;
    } else if (fate == LIVES) {
        snapshot_watch(c, s);
        adoption->snapshots++;
    } else if (row->state == ROW_READY) {
        s->state = SNAPSHOT_READY; /* as it was; its burial makes it failed and writes that down */
        snapshot_bury(c, s);
        adoption->reaped++;
    }
}

/* An intent may not say of which snapshot it was to be. */
static void sandbox_leftovers(struct controller *c, const struct snapshot *base, const char *id)
{
    struct err err;
    list_for_each (n, &c->fleet.snapshots) {
        const struct snapshot *s = list_entry(n, struct snapshot, link);
        if (!base || s == base)
            leaf_remove(s->tree->cgroup, id);
    }
    rundir_remove(&c->run, id);
    rundir_shelf_remove(&c->run, id);
    if (registry_sandbox_remove(c->registry, id, &err) < 0)
        log_error("%s", err.text);
}

static int sandbox_adopt(struct controller *c, const struct sandbox_row *row, struct adoption *adoption,
                         struct err *err)
{
    struct err why;
    struct snapshot *base = snapshot_of(c, row->snapshot_id);
    struct vmm vmm = VMM_EMPTY;
    memcpy(vmm.id, row->id, sizeof vmm.id);
    memcpy(vmm.secret, row->secret, sizeof vmm.secret);
    int found = vmm_adopt(&c->run, &vmm, ANSWER_SECS, &why);
    bool lives = found == 0;
    if (found == -ETIMEDOUT) {
        log_error("sandbox %s: %s; it is left alone until the next start", row->id, why.text);
        vmm_release(&vmm);
        pthread_mutex_lock(&c->fleet.lock);
        if (base)
            base->children++; /* which keeps it from being retired */
        pthread_mutex_unlock(&c->fleet.lock);
        adoption->silent++;
        return 0;
    }
    bool half_made = row->state != ROW_READY || (lives && !vmm.handed);
    if (!lives || !base || half_made) {
        vmm_destroy(&vmm);
        sandbox_leftovers(c, base, row->id);
        if (!half_made)
            log_warn("sandbox %s is gone: %s", row->id, lives ? "its snapshot is unknown" : why.text);
        adoption->reaped += !half_made;
        adoption->undone += half_made && lives; /* most were never used */
        return 0;
    }
    struct sandbox *b = sandbox_new(&c->fleet, base);
    if (!b) {
        vmm_release(&vmm);
        return err_say(err, ENOMEM, "out of memory");
    }
    b->vmm = vmm;
    b->created_at_unix = row->created_at_unix;
    b->memory_limit_mib = row->memory_limit_mib;
    if (vmm.stalled)
        snprintf(b->stalled, sizeof b->stalled, "it waits for space on its disk");
    b->branch_count = row->branch_count;
    if (tree_leaf(base->tree, b->vmm.id, &b->cgroup, &why) < 0)
        log_warn("%s", why.text);
    pthread_mutex_lock(&c->fleet.lock);
    base->children++;
    b->last = snapshot_of(c, row->last_id); /* NULL: it is gone, and an earlier one will do */
    if (b->last) {
        b->last->refs++;
        b->last->children++;
    }
    pthread_mutex_unlock(&c->fleet.lock);
    fleet_sandbox_add(&c->fleet, b);
    sandbox_watch(c, b);
    sandbox_unref(&c->fleet, b);
    adoption->sandboxes++;
    return 0;
}

/* Of a row that was dealt with: what had to go is gone. */
static bool has_row(void *arg, const char *id)
{
    const struct rows *rows = arg;
    for (size_t i = 0; i < rows->snapshots; i++)
        if (!strcmp(rows->snapshot[i].id, id))
            return true;
    for (size_t i = 0; i < rows->sandboxes; i++)
        if (!strcmp(rows->sandbox[i].id, id))
            return true;
    return false;
}

/* Hidden snapshots whose last child went while no controller was running. */
static void retire_childless(struct controller *c)
{
    struct snapshot **all = fleet_snapshots(&c->fleet, true);
    for (struct snapshot **s = all; s && *s; s++)
        snapshot_children_left(c, *s, 0);
    fleet_snapshots_release(&c->fleet, all);
}

static int adopt_rows(struct controller *c, struct rows *rows, struct adoption *adoption, struct err *err)
{
    int rc = 0;
    rows->fate = calloc(rows->snapshots + 1, sizeof *rows->fate);
    if (!rows->fate)
        return err_say(err, ENOMEM, "out of memory");
    for (size_t i = 0; rc == 0 && i < rows->snapshots; i++)
        if (id_sound(rows->snapshot[i].id) && id_sound(rows->snapshot[i].tree))
            rc = snapshot_adopt(c, &rows->snapshot[i], &rows->fate[i], err);
    for (size_t i = 0; rc == 0 && i < rows->snapshots; i++)
        if (rows->fate[i] != SKIPPED)
            snapshot_settle(c, &rows->snapshot[i], rows->fate[i], adoption);
    for (size_t i = 0; rc == 0 && i < rows->sandboxes; i++)
        if (id_sound(rows->sandbox[i].id))
            rc = sandbox_adopt(c, &rows->sandbox[i], adoption, err);
    if (rc == 0) {
        retire_childless(c);
        adoption->litter = rundir_sweep(&c->run, has_row, rows);
    }
    return rc;
}

int adopt_all(struct controller *c, struct adoption *adoption, struct err *err)
{
    struct rows rows = {0};
    *adoption = (struct adoption){0};
    int rc = registry_snapshots_each(c->registry, keep_snapshot, &rows, err);
    if (rc == 0)
        rc = registry_sandboxes_each(c->registry, keep_sandbox, &rows, err);
    if (rc == 0)
        rc = adopt_rows(c, &rows, adoption, err);
    free(rows.snapshot);
    free(rows.fate);
    free(rows.sandbox);
    return rc;
}
