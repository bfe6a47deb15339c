/* settle.c: see settle.h. */
#include "controller/settle.h"

#include "base/clock.h"
#include "base/io.h"
#include "base/log.h"
#include "controller/controller.h"
#include "controller/templates.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>

enum { SETTLE_SECS = 300, LOOK_MS = 1000, PAGE_BYTES = 4096 };

struct settling {
    struct job job;
    struct controller *c;
    struct snapshot *snapshot;
};

/* "NAME:   123 kB", as /proc/meminfo and /proc/PID/status have it; 0 where there is none. */
static uint64_t field_kib(const char *path, const char *name)
{
    char text[8192];
    if (io_read_text(AT_FDCWD, path, text, sizeof text, NULL) <= 0)
        return 0;
    const char *at = strstr(text, name);
    return at ? strtoull(at + strlen(name), NULL, 10) : 0;
}

/* What a fork copies the tables of is anonymous to the kernel; what it maps is little else than the guest's memory. */
static bool pays(struct controller *c, const struct snapshot *s)
{
    char status[32];
    pthread_mutex_lock(&c->fleet.lock);
    snprintf(status, sizeof status, "/proc/%d/status", (int)s->template.pid);
    pthread_mutex_unlock(&c->fleet.lock);
    return field_kib(status, "\nRssAnon:") >= SETTLE_MIN_KIB &&
           field_kib(status, "\nVmSize:") <= field_kib("/proc/meminfo", "MemAvailable:") / SETTLE_SHARE;
}

/* Forks go on meanwhile: whoever talks to the template next may be the one that hears it. */
static int await_settled(struct snapshot *s, uint64_t *pages, struct err *err)
{
    uint64_t deadline = clock_monotonic_ns() + SETTLE_SECS * NS_PER_SEC;
    for (;;) {
        pthread_mutex_lock(&s->spawning);
        int rc = vmm_settled(&s->template, pages, err);
        pthread_mutex_unlock(&s->spawning);
        if (rc != -EAGAIN)
            return rc;
        if (clock_monotonic_ns() > deadline)
            return err_say(err, ETIMEDOUT, "it does not end");
        struct pollfd p = {.fd = s->template.ctl, .events = POLLIN};
        poll(&p, 1, LOOK_MS);
    }
}

static int settle(struct snapshot *s, uint64_t *pages, struct err *err)
{
    pthread_mutex_lock(&s->spawning);
    int rc = vmm_settle(&s->template, err);
    pthread_mutex_unlock(&s->spawning);
    return rc < 0 ? rc : await_settled(s, pages, err);
}

/* The image that is its own now: of what it mapped, at most all that its tree began with, and of its own pages. */
static void note_image(struct controller *c, struct snapshot *s, uint64_t pages)
{
    struct err err;
    uint64_t bytes = pages * PAGE_BYTES;
    pthread_mutex_lock(&c->fleet.lock);
    list_for_each (n, &c->fleet.snapshots) {
        const struct snapshot *root = list_entry(n, struct snapshot, link);
        if (!strcmp(root->template.id, s->tree->id))
            bytes += root->image_bytes;
    }
    s->image_bytes = bytes;
    pthread_mutex_unlock(&c->fleet.lock);
    if (registry_snapshot_image(c->registry, s->template.id, bytes, &err) < 0)
        log_error("%s", err.text);
}

static void settling_main(struct job *job)
{
    struct settling *g = list_entry(job, struct settling, job);
    struct controller *c = g->c;
    struct snapshot *s = g->snapshot;
    struct err err;
    uint64_t pages = 0;
    bool done = pays(c, s);
    if (done && settle(s, &pages, &err) < 0) {
        log_warn("snapshot %s could not be settled: %s", s->tag, err.text);
        done = false;
    } else if (done) {
        note_image(c, s, pages);
        log_info("snapshot %s is settled: %llu pages are in an image of its own", s->tag, (unsigned long long)pages);
    }
    if (!done)
        atomic_store(&s->settles, false);
    snapshot_children_left(c, s, 1);
    snapshot_unref(&c->fleet, s);
    free(g);
}

/* Held as one of its children would hold it. */
static bool hold(struct controller *c, struct snapshot *s)
{
    pthread_mutex_lock(&c->fleet.lock);
    bool lives = (s->state == SNAPSHOT_READY || s->state == SNAPSHOT_HIDDEN) && s->template.pid;
    s->refs += lives;
    s->children += lives;
    pthread_mutex_unlock(&c->fleet.lock);
    return lives;
}

void settle_consider(struct controller *c, struct snapshot *s, unsigned n)
{
    unsigned before = atomic_fetch_add(&s->spawned, n);
    if (!*s->branch.source || before / SETTLE_SPAWNS == (before + n) / SETTLE_SPAWNS)
        return;
    if (atomic_exchange(&s->settles, true))
        return;
    struct settling *g = calloc(1, sizeof *g);
    if (g && hold(c, s)) {
        *g = (struct settling){.job = {.fn = settling_main}, .c = c, .snapshot = s};
        if (workers_submit(c->workers, WORKER_HELPER, &g->job, NULL) == 0)
            return;
        snapshot_children_left(c, s, 1);
        snapshot_unref(&c->fleet, s);
    }
    free(g);
    atomic_store(&s->settles, false);
}
