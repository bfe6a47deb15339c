/* sandbox_watch.c: see sandbox_watch.h. */
#include "controller/sandbox_watch.h"

#include "base/clock.h"
#include "base/log.h"
#include "controller/leaf.h"
#include "controller/refusal.h"
#include "controller/templates.h"
#include "sys/cgroup.h"

#include <string.h>

enum { RESUME_SECS = 30 };

int sandbox_check_runs(struct controller *c, const struct sandbox *b, struct err *err)
{
    int rc = 0;
    pthread_mutex_lock(&c->fleet.lock);
    if (*b->stalled)
        rc = err_say(err, REFUSED_CONFLICT, "sandbox %s is stalled: %s; make space, then resume it", b->vmm.id,
                     b->stalled);
    pthread_mutex_unlock(&c->fleet.lock);
    return rc;
}

/* One RESUME at a time; the monitor, which reads the socket, takes the answer. */
static int resume_send(struct controller *c, struct sandbox *b, struct err *err)
{
    pthread_mutex_lock(&c->fleet.lock);
    bool first = !b->resuming;
    b->resuming = true;
    pthread_mutex_unlock(&c->fleet.lock);
    int rc = first ? vmm_resume(&b->vmm, err) : 0;
    if (rc < 0) {
        pthread_mutex_lock(&c->fleet.lock);
        b->resuming = false;
        pthread_mutex_unlock(&c->fleet.lock);
    }
    return rc;
}

int sandbox_resume(struct controller *c, struct sandbox *b, struct err *err)
{
    int late = 0;
    if (sandbox_check_runs(c, b, NULL) == 0)
        return err_say(err, REFUSED_CONFLICT, "sandbox %s is not stalled", b->vmm.id);
    int rc = resume_send(c, b, err);
    if (rc < 0)
        return rc;
    const struct timespec until = clock_secs_from_now(RESUME_SECS);
    pthread_mutex_lock(&c->fleet.lock);
    while (b->resuming && b->state == SANDBOX_RUNNING && !late)
        late = pthread_cond_timedwait(&c->fleet.changed, &c->fleet.lock, &until);
    if (b->state != SANDBOX_RUNNING)
        rc = err_say(err, REFUSED_MISSING, "sandbox %s not found", b->vmm.id);
    else if (late)
        rc = err_say(err, ETIMEDOUT, "sandbox %s does not answer", b->vmm.id);
    pthread_mutex_unlock(&c->fleet.lock);
    return rc < 0 ? rc : sandbox_check_runs(c, b, err);
}

/* `why` is "" for a guest that runs again; an `answer` is for whoever waits in sandbox_resume(). */
static void stalls(struct controller *c, struct sandbox *b, bool answer, const char *why)
{
    pthread_mutex_lock(&c->fleet.lock);
    bool unasked = answer && !b->resuming;
    if (!unasked)
        snprintf(b->stalled, sizeof b->stalled, "%s", why);
    b->resuming = b->resuming && !answer;
    pthread_cond_broadcast(&c->fleet.changed);
    pthread_mutex_unlock(&c->fleet.lock);
    if (unasked)
        log_warn("sandbox %s answers what it was not asked", b->vmm.id);
    else if (*why)
        log_error("sandbox %s is stalled: %s", b->vmm.id, why);
    else
        log_info("sandbox %s runs on", b->vmm.id);
}

/* Whether what it refuses is the STREAM of a branch. */
static bool refuses_branch(struct controller *c, struct sandbox *b, uint32_t request, const char *why)
{
    pthread_mutex_lock(&c->fleet.lock);
    bool asked = b->stream && request == b->stream;
    if (asked) {
        snprintf(b->stream_refusal, sizeof b->stream_refusal, "%s", why);
        pthread_cond_broadcast(&c->fleet.changed);
    }
    pthread_mutex_unlock(&c->fleet.lock);
    return asked;
}

/* ENDED is kept for the funeral; at the end of the socket the pidfd has the last word. */
static bool sandbox_spoke(struct controller *c, struct watch *watch)
{
    struct sandbox *b = list_entry(watch, struct sandbox, watch);
    struct ctl_message message;
    int rc = ctl_recv(b->vmm.ctl, &message, NULL);
    if (rc <= 0)
        return false;
    if (message.type == CTL_ENDED)
        vmm_end_say(&message.ended, b->reason, sizeof b->reason);
    else if (message.type == CTL_STALLED)
        stalls(c, b, false, message.failed.text);
    else if (message.type == CTL_RESUMED)
        stalls(c, b, true, "");
    else if (message.type == CTL_FAILED && refuses_branch(c, b, message.request, message.failed.text))
        log_warn("sandbox %s cannot be branched: %s", b->vmm.id, message.failed.text);
    else if (message.type == CTL_FAILED)
        stalls(c, b, true, message.failed.text);
    ctl_message_close(&message);
    return true;
}

static void death_tell(struct controller *c, const struct sandbox *b, bool asked)
{
    uint64_t strikes = 0;
    if (b->cgroup >= 0)
        cgroup_oom_kills(b->cgroup, &strikes, NULL);
    if (strikes)
        log_error("sandbox %s was killed: it used more than its %llu MiB", b->vmm.id,
                  (unsigned long long)b->memory_limit_mib);
    else if (!asked)
        log_warn("sandbox %s (process %d) ended: %s", b->vmm.id, (int)b->vmm.pid,
                 *b->reason ? b->reason : "its process was killed");
}

static void bury(struct controller *c, struct sandbox *b)
{
    struct err err;
    pthread_mutex_lock(&c->fleet.lock);
    bool asked = b->state == SANDBOX_ENDING;
    struct snapshot *last = b->last; /* none comes after it is ENDING */
    b->state = SANDBOX_ENDING;
    pthread_cond_broadcast(&c->fleet.changed);
    pthread_mutex_unlock(&c->fleet.lock);
    death_tell(c, b, asked);
    leaf_remove(b->base->tree->cgroup, b->vmm.id);
    rundir_remove(&c->run, b->vmm.id);
    if (registry_sandbox_remove(c->registry, b->vmm.id, &err) < 0)
        log_error("%s", err.text);
    fleet_sandbox_end(&c->fleet, b);
    if (last)
        snapshot_children_left(c, last, 1);
    snapshot_children_left(c, b->base, 1);
}

static void sandbox_died(struct controller *c, struct watch *watch)
{
    struct sandbox *b = list_entry(watch, struct sandbox, watch);
    struct err words;
    if (!*b->reason && vmm_last_words(&b->vmm, &words) == 0)
        memcpy(b->reason, words.text, sizeof b->reason);
    bury(c, b);
    sandbox_unref(&c->fleet, b);
}

static void sandbox_left(struct controller *c, struct watch *watch)
{
    sandbox_unref(&c->fleet, list_entry(watch, struct sandbox, watch));
}

void sandbox_watch(struct controller *c, struct sandbox *b)
{
    static const struct watch_kind kind = {.spoke = sandbox_spoke, .died = sandbox_died, .left = sandbox_left};
    struct err err;
    pthread_mutex_lock(&c->fleet.lock);
    b->refs++; /* the watch's */
    pthread_mutex_unlock(&c->fleet.lock);
    b->watch.kind = &kind;
    if (monitor_watch(c->monitor, &b->watch, b->vmm.ctl, b->vmm.pidfd, &err) == 0)
        return;
    /* It would be a process nobody misses. */
    log_error("cannot watch sandbox %s (%s): it is ended", b->vmm.id, err.text);
    vmm_kill(&b->vmm);
}
