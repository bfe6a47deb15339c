/* monitor.c: see monitor.h. */
#include "controller/monitor.h"

#include "base/log.h"
#include "base/own.h"
#include "controller/branches.h"
#include "controller/controller.h"
#include "controller/sandboxes.h"
#include "controller/snapshots.h"

#include <signal.h>
#include <string.h>

struct monitor {
    struct controller *c;
    struct loop loop;
    pthread_t thread;
    pthread_mutex_t lock;
    struct list sandboxes, snapshots; /* watched, for the end; guarded by the lock */
};

static __thread struct monitor *this_monitor;

static void unlist(struct monitor *m, struct list *link)
{
    pthread_mutex_lock(&m->lock);
    list_remove(link);
    pthread_mutex_unlock(&m->lock);
}

static void sandbox_forget(struct monitor *m, struct sandbox *b)
{
    loop_remove(&m->loop, &b->death);
    loop_remove(&m->loop, &b->words);
    unlist(m, &b->watched);
    sandbox_unref(&m->c->fleet, b);
}

static void snapshot_forget(struct monitor *m, struct snapshot *s)
{
    loop_remove(&m->loop, &s->death);
    unlist(m, &s->watched);
    snapshot_unref(&m->c->fleet, s);
}

static void sandbox_died(struct loop_source *source, uint32_t events)
{
    struct monitor *m = this_monitor;
    struct sandbox *b = list_entry(source, struct sandbox, death);
    struct err words;
    if (!*b->reason && vmm_last_words(&b->vmm, &words) == 0)
        memcpy(b->reason, words.text, sizeof b->reason);
    loop_remove(&m->loop, &b->death);
    sandbox_bury(m->c, b);
    sandbox_forget(m, b);
}

/* `why` is "" for a guest that runs again; an `answer` is for whoever waits in sandbox_resume(). */
static void sandbox_stalls(struct monitor *m, struct sandbox *b, bool answer, const char *why)
{
    pthread_mutex_lock(&m->c->fleet.lock);
    bool unasked = answer && !b->resuming;
    if (!unasked)
        snprintf(b->stalled, sizeof b->stalled, "%s", why);
    b->resuming = b->resuming && !answer;
    pthread_cond_broadcast(&m->c->fleet.changed);
    pthread_mutex_unlock(&m->c->fleet.lock);
    if (unasked)
        log_warn("sandbox %s answers what it was not asked", b->vmm.id);
    else if (*why)
        log_error("sandbox %s is stalled: %s", b->vmm.id, why);
    else
        log_info("sandbox %s runs on", b->vmm.id);
}

/* ENDED is kept for the funeral; at the end of the socket the pidfd has the last word. */
static void sandbox_spoke(struct loop_source *source, uint32_t events)
{
    struct monitor *m = this_monitor;
    struct sandbox *b = list_entry(source, struct sandbox, words);
    struct ctl_message message;
    int rc = ctl_recv(b->vmm.ctl, &message, NULL);
    if (rc <= 0) {
        loop_remove(&m->loop, &b->words);
        return;
    }
    if (message.type == CTL_ENDED)
        vmm_end_say(&message.ended, b->reason, sizeof b->reason);
    else if (message.type == CTL_STALLED)
        sandbox_stalls(m, b, false, message.failed.text);
    else if (message.type == CTL_RESUMED)
        sandbox_stalls(m, b, true, "");
    else if (message.type == CTL_FAILED && sandbox_refuses_branch(m->c, b, message.request, message.failed.text))
        log_warn("sandbox %s cannot be branched: %s", b->vmm.id, message.failed.text);
    else if (message.type == CTL_FAILED)
        sandbox_stalls(m, b, true, message.failed.text);
    ctl_message_close(&message);
}

static void template_died(struct loop_source *source, uint32_t events)
{
    struct monitor *m = this_monitor;
    struct snapshot *s = list_entry(source, struct snapshot, death);
    /* Before it may be loaded again, and watched again. */
    loop_remove(&m->loop, &s->death);
    unlist(m, &s->watched);
    snapshot_bury(m->c, s);
    snapshot_unref(&m->c->fleet, s);
}

/* A descriptor that cannot be watched would be a process nobody misses: better to end it now. */
static void watch_failed(const char *id, const struct vmm *vmm, const struct err *err)
{
    log_error("cannot watch %s (%s): it is ended", id, err->text);
    vmm_kill(vmm);
}

static void *monitor_main(void *arg)
{
    struct monitor *m = arg;
    struct err err;
    this_monitor = m;
    if (loop_run(&m->loop, &err) < 0)
        log_error("the monitor: %s", err.text);
    list_for_each_safe (n, &m->sandboxes)
        sandbox_forget(m, list_entry(n, struct sandbox, watched));
    list_for_each_safe (n, &m->snapshots)
        snapshot_forget(m, list_entry(n, struct snapshot, watched));
    return NULL;
}

int monitor_start(struct controller *c, struct monitor **monitor, struct err *err)
{
    struct monitor *m = calloc(1, sizeof *m);
    if (!m)
        return err_say(err, ENOMEM, "out of memory");
    m->c = c;
    pthread_mutex_init(&m->lock, NULL);
    list_init(&m->sandboxes);
    list_init(&m->snapshots);
    int rc = loop_init(&m->loop, err);
    m->loop.on_wake = loop_stop;
    int failed = rc < 0 ? 0 : pthread_create(&m->thread, NULL, monitor_main, m);
    if (failed)
        rc = err_set(err, failed, "make the monitor's thread");
    if (rc < 0) {
        if (failed)
            loop_destroy(&m->loop);
        pthread_mutex_destroy(&m->lock);
        free(m);
        return rc;
    }
    *monitor = m;
    return 0;
}

void monitor_stop(struct monitor *m)
{
    if (!m)
        return;
    loop_wake(&m->loop);
    pthread_join(m->thread, NULL);
    loop_destroy(&m->loop);
    pthread_mutex_destroy(&m->lock);
    free(m);
}

/* The object is the loop's with the last call: its thread may be burying it before that returns. */
void monitor_watch_sandbox(struct monitor *m, struct sandbox *b)
{
    struct err err;
    pthread_mutex_lock(&m->c->fleet.lock);
    b->refs += 2; /* one is for here */
    pthread_mutex_unlock(&m->c->fleet.lock);
    pthread_mutex_lock(&m->lock);
    list_append(&m->sandboxes, &b->watched);
    pthread_mutex_unlock(&m->lock);
    b->death.fn = sandbox_died;
    b->words.fn = sandbox_spoke;
    if (loop_add(&m->loop, &b->words, b->vmm.ctl, EPOLLIN, &err) < 0 ||
        loop_add(&m->loop, &b->death, b->vmm.pidfd, EPOLLIN, &err) < 0)
        watch_failed(b->vmm.id, &b->vmm, &err);
    sandbox_unref(&m->c->fleet, b);
}

void monitor_watch_snapshot(struct monitor *m, struct snapshot *s)
{
    struct err err;
    pthread_mutex_lock(&m->c->fleet.lock);
    s->refs += 2;
    pthread_mutex_unlock(&m->c->fleet.lock);
    pthread_mutex_lock(&m->lock);
    list_append(&m->snapshots, &s->watched);
    pthread_mutex_unlock(&m->lock);
    s->death.fn = template_died;
    if (loop_add(&m->loop, &s->death, s->template.pidfd, EPOLLIN, &err) < 0)
        watch_failed(s->template.id, &s->template, &err);
    snapshot_unref(&m->c->fleet, s);
}
