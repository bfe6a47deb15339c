/* crew.c: see crew.h.
 *
 * SECCOMP(store): clone3 - threads
 * SECCOMP(store): clone - threads, where a kernel has no clone3 */
#include "snap/crew.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>

struct crew {
    crew_work *work;
    void *owner;
    uint64_t tasks;
    _Atomic uint64_t next;
    pthread_mutex_t lock; /* for the error */
    int rc;
    struct err err;
};

struct member {
    struct crew *crew;
    unsigned number;
    pthread_t thread;
    bool started;
};

static void fail(struct crew *crew, int rc, const struct err *err)
{
    pthread_mutex_lock(&crew->lock);
    if (crew->rc == 0) {
        crew->rc = rc;
        crew->err = *err;
    }
    pthread_mutex_unlock(&crew->lock);
    atomic_store(&crew->next, crew->tasks);
}

static void *work(void *arg)
{
    struct member *me = arg;
    struct crew *crew = me->crew;
    for (;;) {
        uint64_t task = atomic_load(&crew->next);
        do
            if (task >= crew->tasks)
                return NULL;
        while (!atomic_compare_exchange_weak(&crew->next, &task, task + 1));
        struct err err = {0};
        int rc = crew->work(crew->owner, me->number, task, &err);
        if (rc < 0)
            fail(crew, rc, &err);
    }
}

int crew_run(unsigned threads, uint64_t tasks, crew_work *fn, void *owner, struct err *err)
{
    struct crew crew = {.work = fn, .owner = owner, .tasks = tasks, .lock = PTHREAD_MUTEX_INITIALIZER};
    struct member member[CREW_MAX] = {0};
    for (unsigned i = 0; i < CREW_MAX; i++)
        member[i] = (struct member){.crew = &crew, .number = i};
    for (unsigned i = 1; i < threads && i < CREW_MAX && i < tasks; i++)
        member[i].started = pthread_create(&member[i].thread, NULL, work, &member[i]) == 0;
    work(&member[0]);
    for (unsigned i = 1; i < CREW_MAX; i++)
        if (member[i].started)
            pthread_join(member[i].thread, NULL);
    if (crew.rc < 0 && err)
        *err = crew.err;
    return crew.rc;
}
