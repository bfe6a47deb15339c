/* throttle.c: see throttle.h.
 *
 * SECCOMP: timerfd_create - slices in which a guest is held back while it is branched
 * SECCOMP: timerfd_settime - how long the next one is */
#include "snap/throttle.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/own.h"

#include <sys/timerfd.h>

enum { HOLD_US = 700 };

/* What it may run between two slices, by level. */
static const unsigned run_us[THROTTLE_LEVELS] = {0, 700, 300, 100};

void throttle_init(struct throttle *t)
{
    *t = (struct throttle){.timer = {.fd = -1}};
}

static int arm(const struct throttle *t, struct err *err)
{
    long us = t->holding ? HOLD_US : (long)run_us[t->level];
    const struct itimerspec when = {.it_value = {.tv_nsec = us * (long)NS_PER_US}};
    if (timerfd_settime(t->timer.fd, 0, &when, NULL) < 0)
        return err_set(err, errno, "set the timer of a guest that is held back");
    return 0;
}

/* Whether it is the throttle that the guest stands still for. */
static bool holds(const struct throttle *t)
{
    return t->holding && t->machine->phase == MACHINE_PARKED && !t->machine->stalled;
}

static int turn(struct throttle *t, struct err *err)
{
    struct machine *m = t->machine;
    int rc = 0;
    if (holds(t))
        rc = machine_resume(m, err);
    else if (!t->holding && m->phase == MACHINE_RUNNING)
        rc = machine_park(m, false, err);
    else
        return -ECANCELED;
    t->holding = !t->holding;
    return rc < 0 ? rc : arm(t, err);
}

static void on_timer(struct loop_source *source, uint32_t events)
{
    struct throttle *t = list_entry(source, struct throttle, timer);
    struct err err = {0};
    uint64_t times;
    if (read(source->fd, &times, sizeof times) < 0 && errno == EAGAIN)
        return;
    int rc = turn(t, &err);
    if (rc == 0)
        return;
    if (rc != -ECANCELED)
        log_warn("branch: %s", err.text);
    throttle_end(t);
}

int throttle_set(struct throttle *t, struct machine *m, unsigned level, struct err *err)
{
    if (level >= THROTTLE_LEVELS)
        return err_say(err, EPROTO, "a guest cannot be held back by %u", level);
    if (!level || (t->timer.fd < 0 && m->phase != MACHINE_RUNNING))
        return 0;
    t->level = level;
    if (t->timer.fd >= 0)
        return 0;
    own_fd int fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
    if (fd < 0)
        return err_set(err, errno, "make the timer of a guest that is held back");
    t->machine = m;
    t->holding = false;
    t->timer.fn = on_timer;
    int rc = loop_add(m->host.loop, &t->timer, fd, EPOLLIN, err);
    if (rc < 0)
        return rc;
    steal_fd(&fd);
    return arm(t, err);
}

void throttle_end(struct throttle *t)
{
    struct err err = {0};
    int fd = t->timer.fd;
    if (fd < 0)
        return;
    loop_remove(t->machine->host.loop, &t->timer);
    fd_close(&fd);
    if (holds(t) && machine_resume(t->machine, &err) < 0)
        log_warn("branch: %s", err.text);
    throttle_init(t);
}
