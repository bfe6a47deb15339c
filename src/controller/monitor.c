/* monitor.c: see monitor.h. */
#include "controller/monitor.h"

#include "base/log.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>

struct monitor {
    struct controller *c;
    struct loop loop;
    pthread_t thread;
    pthread_mutex_t lock;
    struct list watches; /* for the end; guarded by the lock */
};

static void unwatch(struct watch *w)
{
    struct monitor *m = w->monitor;
    loop_remove(&m->loop, &w->death);
    loop_remove(&m->loop, &w->words);
    pthread_mutex_lock(&m->lock);
    list_remove(&w->link);
    pthread_mutex_unlock(&m->lock);
}

static void process_died(struct loop_source *source, uint32_t events)
{
    struct watch *w = list_entry(source, struct watch, death);
    unwatch(w);
    w->kind->died(w->monitor->c, w);
}

static void process_spoke(struct loop_source *source, uint32_t events)
{
    struct watch *w = list_entry(source, struct watch, words);
    if (!w->kind->spoke(w->monitor->c, w))
        loop_remove(&w->monitor->loop, &w->words);
}

static void *monitor_main(void *arg)
{
    struct monitor *m = arg;
    struct err err;
    if (loop_run(&m->loop, &err) < 0)
        log_error("the monitor: %s", err.text);
    list_for_each_safe (n, &m->watches) {
        struct watch *w = list_entry(n, struct watch, link);
        unwatch(w);
        w->kind->left(m->c, w);
    }
    return NULL;
}

int monitor_start(struct controller *c, struct monitor **monitor, struct err *err)
{
    struct monitor *m = calloc(1, sizeof *m);
    if (!m)
        return err_say(err, ENOMEM, "out of memory");
    m->c = c;
    pthread_mutex_init(&m->lock, NULL);
    list_init(&m->watches);
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

int monitor_watch(struct monitor *m, struct watch *w, int socket, int pidfd, struct err *err)
{
    w->monitor = m;
    w->words = (struct loop_source){.fd = -1, .fn = process_spoke};
    w->death = (struct loop_source){.fd = -1, .fn = process_died};
    pthread_mutex_lock(&m->lock);
    list_append(&m->watches, &w->link);
    pthread_mutex_unlock(&m->lock);
    int rc = w->kind->spoke ? loop_add(&m->loop, &w->words, socket, EPOLLIN, err) : 0;
    return rc < 0 ? rc : loop_add(&m->loop, &w->death, pidfd, EPOLLIN, err);
}
