/* store_client.c: see store_client.h. */
#include "controller/store_client.h"

#include "base/clock.h"
#include "base/own.h"

#include <errno.h>
#include <string.h>

enum {
    /* A writer runs when nobody else wants a CPU: it may be silent for long, and its end is told by its socket. */
    SAVE_SILENT_SECS = 3600,
    RESTORE_SILENT_SECS = 600,
};

int store_engine_parse(const char *name, enum store_engine *engine)
{
    static const char *const names[] = {[STORE_DIRECT] = "direct",
                                        [STORE_FALLOCATE] = "fallocate",
                                        [STORE_BUFFERED] = "buffered",
                                        [STORE_NONE] = "none"};
    for (unsigned i = 0; i < sizeof names / sizeof *names; i++)
        if (!strcmp(name, names[i])) {
            *engine = (enum store_engine)i;
            return 0;
        }
    return -EINVAL;
}

int store_program(char *path, size_t cap, struct err *err)
{
    return program_find("FORKD_STORE", "forkd-store", "../store", path, cap, err);
}

int store_start(const char *program, struct vmm *store, struct err *err)
{
    *store = (struct vmm)VMM_EMPTY;
    snprintf(store->id, sizeof store->id, "store");
    return vmm_start(program, NULL, -1, store, err);
}

static void note_progress(struct store_progress *progress, const struct ctl_progress *told)
{
    progress->done = told->done;
    progress->total = told->total;
    progress->written = told->written;
}

/* The answer; what else it says shows that it lives. */
static int await(struct vmm *store, enum ctl_type wanted, unsigned silent_secs, struct store_progress *progress,
                 struct ctl_message *m, struct err *err)
{
    note_progress(progress, &(struct ctl_progress){0});
    for (;;) {
        int rc = ctl_recv_until(store->ctl, m, clock_monotonic_ns() + silent_secs * NS_PER_SEC, err);
        if (rc == 0 || rc == -ECONNRESET)
            return err_say(err, EPIPE, "the process that does it ended");
        if (rc < 0)
            return rc;
        if (m->type == wanted)
            return 0;
        if (m->type == CTL_PROGRESS)
            note_progress(progress, &m->progress);
        rc = m->type == CTL_FAILED     ? err_say(err, (int)m->failed.code, "%.*s", CTL_TEXT_MAX - 1, m->failed.text)
             : m->type == CTL_PROGRESS ? 0
                                       : err_say(err, EPROTO, "forkd-store answers %s", ctl_type_name(m->type));
        ctl_message_close(m);
        if (rc < 0)
            return rc;
    }
}

int store_save(struct vmm *store, const struct store_order *order, struct snapshot_meta *meta, struct err *err)
{
    struct ctl_message m, reply;
    const struct ctl_message *e = order->exported;
    ctl_message_init(&m, CTL_SAVE, 1);
    int rc = snapshot_meta_encode(meta, m.save.meta, sizeof m.save.meta, err);
    if (rc < 0)
        return rc;
    m.save.ram = e->export.ram;
    m.save.state_bytes = e->export.state_bytes;
    m.save.birth_layers = e->export.birth_layers;
    m.save.engine = (uint8_t)order->engine;
    m.save.awaited = order->awaited;
    m.save.bytes_per_second = order->bytes_per_second;
    m.fd[CTL_FD_DIR] = order->dir;
    m.fd[CTL_FD_OWN_MEMORY] = order->memory;
    m.fd[CTL_FD_MEMORY] = e->fd[CTL_FD_MEMORY];
    m.fd[CTL_FD_STATE] = e->fd[CTL_FD_STATE];
    m.fd[CTL_FD_PAGES] = e->fd[CTL_FD_PAGES];
    m.fd[CTL_FD_BASE] = e->fd[CTL_FD_BASE];
    m.fd[CTL_FD_DIFF] = e->fd[CTL_FD_DIFF];
    m.fd[CTL_FD_ORIGIN] = order->origin;
    m.extra_count = e->extra_count;
    memcpy(m.extra, e->extra, e->extra_count * sizeof *m.extra);
    rc = ctl_send(store->ctl, &m, err);
    if (rc == 0)
        rc = await(store, CTL_SAVED, SAVE_SILENT_SECS, order->progress, &reply, err);
    if (rc < 0)
        return rc;
    rc = snapshot_meta_decode(meta, reply.saved.meta, strlen(reply.saved.meta), err);
    ctl_message_close(&reply);
    return rc;
}
_Static_assert((int)SNAPSHOT_META_MAX <= (int)CTL_META_MAX, "a description fits a message");

int store_restore(struct vmm *store, const int *dirs, unsigned count, int base, struct store_progress *progress,
                  struct ctl_message *image, struct err *err)
{
    struct ctl_message m;
    ctl_message_init(&m, CTL_RESTORE, 1);
    if (count > CTL_EXTRA_MAX)
        return err_say(err, E2BIG, "a chain of %u snapshots is too long", count);
    memcpy(m.extra, dirs, count * sizeof *dirs);
    m.extra_count = count;
    m.fd[CTL_FD_BASE] = base;
    int rc = ctl_send(store->ctl, &m, err);
    return rc < 0 ? rc : await(store, CTL_IMAGE, RESTORE_SILENT_SECS, progress, image, err);
}
