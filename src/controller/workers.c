/* workers.c: see workers.h. */
#include "controller/workers.h"

#include "controller/refusal.h"

#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

enum { QUEUE_MAX = 4096, STACK_BYTES = 512 * 1024 };

struct workers {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    struct list queue[WORKER_KINDS];
    unsigned queued, threads, threads_max, idle;
    unsigned running[WORKER_KINDS];
    bool stopping;
    pthread_t *thread;
};

int workers_start(struct workers **workers, unsigned threads_max, struct err *err)
{
    struct workers *w = calloc(1, sizeof *w);
    pthread_t *thread = calloc(threads_max, sizeof *thread);
    if (!w || !thread) {
        free(w);
        free(thread);
        return err_say(err, ENOMEM, "out of memory");
    }
    pthread_mutex_init(&w->lock, NULL);
    pthread_cond_init(&w->changed, NULL);
    for (int kind = 0; kind < WORKER_KINDS; kind++)
        list_init(&w->queue[kind]);
    w->threads_max = threads_max;
    w->thread = thread;
    *workers = w;
    return 0;
}

/* Whether one more of that kind leaves enough threads to the others. */
static bool is_allowed(const struct workers *w, enum worker_kind kind)
{
    unsigned patient = w->running[WORKER_PATIENT], waiting = patient + w->running[WORKER_ACTING];
    if (w->stopping || kind == WORKER_HELPER)
        return true;
    return waiting < w->threads_max - w->threads_max / 8 &&
           (kind != WORKER_PATIENT || patient < w->threads_max - w->threads_max / 4);
}

/* The next job that may run now. The lock is held. */
static struct job *job_take(struct workers *w, enum worker_kind *kind)
{
    for (int k = 0; k < WORKER_KINDS; k++) {
        if (list_empty(&w->queue[k]) || !is_allowed(w, (enum worker_kind)k))
            continue;
        struct job *job = list_entry(w->queue[k].next, struct job, link);
        list_remove(&job->link);
        w->queued--;
        *kind = (enum worker_kind)k;
        return job;
    }
    return NULL;
}

static void *worker_main(void *arg)
{
    struct workers *w = arg;
    pthread_mutex_lock(&w->lock);
    for (;;) {
        enum worker_kind kind;
        struct job *job = job_take(w, &kind);
        if (!job && w->stopping)
            break;
        if (!job) {
            w->idle++;
            pthread_cond_wait(&w->changed, &w->lock);
            w->idle--;
            continue;
        }
        w->running[kind]++;
        pthread_mutex_unlock(&w->lock);
        job->fn(job);
        pthread_mutex_lock(&w->lock);
        w->running[kind]--;
    }
    pthread_mutex_unlock(&w->lock);
    return NULL;
}

/* The lock is held. A thread that cannot be made matters only when there is none. */
static void thread_add(struct workers *w)
{
    pthread_attr_t attr;
    pthread_attr_init(&attr);
    pthread_attr_setstacksize(&attr, STACK_BYTES);
    if (pthread_create(&w->thread[w->threads], &attr, worker_main, w) == 0)
        w->threads++;
    pthread_attr_destroy(&attr);
}

int workers_submit(struct workers *w, enum worker_kind kind, struct job *job, struct err *err)
{
    pthread_mutex_lock(&w->lock);
    bool full = w->queued >= QUEUE_MAX;
    if (!full) {
        list_append(&w->queue[kind], &job->link);
        w->queued++;
        if (w->idle < w->queued && w->threads < w->threads_max)
            thread_add(w);
        full = w->threads == 0;
        if (full) {
            list_remove(&job->link);
            w->queued--;
        }
    }
    pthread_mutex_unlock(&w->lock);
    /* Not under the lock, on which the woken thread would go to sleep again at once. */
    pthread_cond_signal(&w->changed);
    return full ? err_say(err, REFUSED_BUSY, "too many requests are waiting") : 0;
}

void workers_stop(struct workers *w)
{
    if (!w)
        return;
    pthread_mutex_lock(&w->lock);
    w->stopping = true;
    pthread_cond_broadcast(&w->changed);
    pthread_mutex_unlock(&w->lock);
    for (unsigned i = 0; i < w->threads; i++)
        pthread_join(w->thread[i], NULL);
    pthread_cond_destroy(&w->changed);
    pthread_mutex_destroy(&w->lock);
    free(w->thread);
    free(w);
}
