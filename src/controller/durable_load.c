/* durable_load.c: a template comes back from the disk; see durable.h.
 *
 * Stages, as in snapshots.c; what fails takes back what it made, and the snapshot is STORED as before:
 *
 *     chain     the directories, root first, and the base image are opened
 *     image     a forkd-store checks them and makes one image
 *     template  a fresh process maps it, on a seat of the snapshot's id
 *     commit    the row is ready, the snapshot READY, the monitor watches */
#include "base/clock.h"
#include "base/log.h"
#include "base/own.h"
#include "controller/durable.h"
#include "controller/leaf.h"
#include "controller/lineage.h"
#include "controller/metrics.h"
#include "controller/refusal.h"
#include "controller/snapshot_root.h"
#include "controller/store_client.h"
#include "controller/templates.h"

#include <fcntl.h>
#include <string.h>

struct chain {
    unsigned count;
    char tag[LINEAGE_MAX][REST_TAG_MAX + 1]; /* root first */
    int dir[LINEAGE_MAX];
    int base;
};

static void chain_close(struct chain *chain)
{
    for (unsigned i = 0; i < chain->count; i++)
        fd_close(&chain->dir[i]);
    fd_close(&chain->base);
}

static int chain_find(struct controller *c, const struct snapshot *s, struct chain *chain, struct err *err)
{
    const struct snapshot *line[LINEAGE_MAX];
    pthread_mutex_lock(&c->fleet.lock);
    int count = lineage_chain(&c->fleet, s, line, c->snapshot_root, err);
    for (int i = 0; i < count; i++)
        memcpy(chain->tag[count - 1 - i], line[i]->tag, sizeof line[i]->tag);
    pthread_mutex_unlock(&c->fleet.lock);
    chain->base = -1;
    for (int i = 0; i < LINEAGE_MAX; i++)
        chain->dir[i] = -1;
    chain->count = count < 0 ? 0 : (unsigned)count;
    return count < 0 ? count : 0;
}

static int chain_open(struct controller *c, const struct snapshot *s, struct chain *chain, struct err *err)
{
    const char *base = s->durable.meta->base.path;
    for (unsigned i = 0; i < chain->count; i++) {
        chain->dir[i] = snapshot_root_dir(c->root, chain->tag[i], err);
        if (chain->dir[i] < 0)
            return chain->dir[i];
    }
    /* Where it is not there, the store says so. */
    chain->base = *base ? open(base, O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC) : -1;
    return 0;
}

static int image_stage(struct controller *c, struct snapshot *s, struct ctl_message *image, struct err *err)
{
    own_free struct chain *chain = malloc(sizeof *chain);
    struct vmm store = VMM_EMPTY;
    if (!chain)
        return err_say(err, ENOMEM, "out of memory");
    int rc = chain_find(c, s, chain, err);
    if (rc == 0)
        rc = chain_open(c, s, chain, err);
    if (rc == 0)
        rc = store_start(c->store_program, &store, err);
    if (rc == 0)
        rc = store_restore(&store, chain->dir, chain->count, chain->base, &s->progress, image, err);
    vmm_destroy(&store);
    if (rc == 0)
        image->fd[CTL_FD_BASE] = steal_fd(&chain->base);
    chain_close(chain);
    return rc;
}

static int template_stage(struct controller *c, const struct snapshot *s, const struct ctl_message *m,
                          struct vmm *template, struct err *err)
{
    const struct vmm_image image = {.image = m->image, .memory = m->fd[CTL_FD_MEMORY], .state = m->fd[CTL_FD_STATE]};
    struct seat seat = SEAT_EMPTY;
    own_fd int leaf = -1;
    int rc = s->tree->cgroup < 0 ? tree_open(s->tree, c->cgroup, err) : 0;
    if (rc == 0)
        rc = rundir_seat(&c->run, template->id, false, &seat, err);
    if (rc < 0)
        return rc;
    rc = tree_leaf(s->tree, snapshot_leaf(s), &leaf, err);
    if (rc == 0)
        rc = vmm_start(c->program, c->run_path, leaf, template, err);
    if (rc == 0)
        rc = vmm_load(template, &image, vmm_tree_owner(s->tree->id), m->fd[CTL_FD_BASE], m->extra, m->extra_count,
                      seat.listen, err);
    seat_close(&seat);
    return rc;
}

/* It has a row where it was in the registry before its template died. */
static int write_intent(struct controller *c, const struct snapshot *s, struct err *err)
{
    return s->durable.has_row ? 0 : snapshot_intend(c, s, err);
}

static void undo(struct controller *c, struct snapshot *s, struct vmm *template)
{
    struct err err;
    vmm_destroy(template);
    rundir_remove(&c->run, template->id);
    leaf_remove(s->tree->cgroup, snapshot_leaf(s));
    if (!s->durable.has_row && registry_snapshot_remove(c->registry, template->id, &err) < 0)
        log_error("%s", err.text);
}

/* Nobody talks to a template that is dead, and its descriptors are not needed by anybody. */
static int commit(struct controller *c, struct snapshot *s, struct vmm *template, uint64_t image_bytes, struct err *err)
{
    int rc = registry_snapshot_ready(c->registry, template->id, image_bytes, err);
    if (rc < 0)
        return rc;
    pthread_mutex_lock(&s->spawning);
    pthread_mutex_lock(&c->fleet.lock);
    bool wanted = s->state == SNAPSHOT_STORED;
    if (wanted) {
        vmm_release(&s->template);
        s->template = *template;
        s->state = SNAPSHOT_READY;
        s->durable.has_row = true;
        s->image_bytes = image_bytes;
    }
    pthread_mutex_unlock(&c->fleet.lock);
    pthread_mutex_unlock(&s->spawning);
    return wanted ? 0 : err_say(err, REFUSED_MISSING, "snapshot %s not found", s->tag);
}

static int load(struct controller *c, struct snapshot *s, struct err *err)
{
    struct ctl_message image;
    struct vmm template = VMM_EMPTY;
    ctl_message_init(&image, CTL_IMAGE, 0);
    memcpy(template.id, s->template.id, sizeof template.id);
    memcpy(template.secret, s->template.secret, sizeof template.secret);
    int rc = image_stage(c, s, &image, err);
    if (rc < 0)
        return rc;
    rc = write_intent(c, s, err);
    if (rc == 0)
        rc = template_stage(c, s, &image, &template, err);
    ctl_message_close(&image);
    if (rc == 0)
        rc = commit(c, s, &template, image.image.data_bytes, err);
    if (rc < 0)
        undo(c, s, &template);
    return rc;
}

int durable_load(struct controller *c, struct snapshot *s, struct err *err)
{
    pthread_mutex_lock(&s->durable.loading);
    pthread_mutex_lock(&c->fleet.lock);
    enum snapshot_state state = s->state;
    pthread_mutex_unlock(&c->fleet.lock);
    int rc = 0;
    if (state == SNAPSHOT_STORED) {
        uint64_t began = clock_monotonic_ns();
        s->stage = STAGE_LOAD;
        rc = load(c, s, err);
        s->stage = STAGE_NONE;
        if (rc == 0) {
            metrics_observe(METRIC_LOAD, clock_monotonic_ns() - began);
            snapshot_watch(c, s);
            log_info("snapshot %s was loaded: template %s, process %d", s->tag, s->template.id, (int)s->template.pid);
        } else if (rc != -REFUSED_MISSING) {
            struct err why = *err;
            rc = err_say(err, REFUSED_CONFLICT, "snapshot %s is not bootable: %.400s", s->tag, why.text);
            log_error("%s", err->text);
        }
    } else if (state != SNAPSHOT_READY) {
        rc = err_say(err, REFUSED_MISSING, "snapshot %s not found", s->tag);
    }
    pthread_mutex_unlock(&s->durable.loading);
    return rc;
}
