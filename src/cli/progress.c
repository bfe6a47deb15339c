/* progress.c: see progress.h. */
#include "cli/progress.h"

#include "base/clock.h"

#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

enum { QUIET_MS = 1000, TICK_MS = 200 };

struct progress {
    char what[160], now[80];
    void (*ask)(void *owner, char *now, size_t cap);
    void *owner;
    uint64_t began_ns;
    bool terminal, ended, shown, has_thread;
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t end;
};

static double seconds(const struct progress *p)
{
    return (double)(clock_monotonic_ns() - p->began_ns) / (double)NS_PER_SEC;
}

static void show(struct progress *p)
{
    static const char spinner[] = "|/-\\";
    static unsigned turn;
    if (p->terminal)
        fprintf(stderr, "\r\033[K%c %s: %s%s%.0f s", spinner[turn++ % 4], p->what, p->now, *p->now ? ", " : "",
                seconds(p));
    else if (!p->shown)
        fprintf(stderr, "%s ...\n", p->what);
    p->shown = true;
}

static void *progress_main(void *arg)
{
    struct progress *p = arg;
    struct timespec until;
    unsigned wait_ms = QUIET_MS;
    pthread_mutex_lock(&p->lock);
    while (!p->ended) {
        clock_gettime(CLOCK_MONOTONIC, &until);
        until.tv_nsec += (long)wait_ms * 1000000;
        until.tv_sec += until.tv_nsec / 1000000000;
        until.tv_nsec %= 1000000000;
        if (pthread_cond_timedwait(&p->end, &p->lock, &until) != 0 && !p->ended) {
            pthread_mutex_unlock(&p->lock);
            if (p->ask && p->terminal)
                p->ask(p->owner, p->now, sizeof p->now);
            pthread_mutex_lock(&p->lock);
            if (!p->ended)
                show(p);
        }
        wait_ms = TICK_MS;
    }
    pthread_mutex_unlock(&p->lock);
    return NULL;
}

struct progress *progress_begin(const char *what)
{
    return progress_begin_asking(what, NULL, NULL);
}

struct progress *progress_begin_asking(const char *what, void (*ask)(void *owner, char *now, size_t cap), void *owner)
{
    struct progress *p = calloc(1, sizeof *p);
    if (!p)
        return NULL;
    p->ask = ask;
    p->owner = owner;
    snprintf(p->what, sizeof p->what, "%s", what);
    p->began_ns = clock_monotonic_ns();
    p->terminal = isatty(STDERR_FILENO);
    pthread_mutex_init(&p->lock, NULL);
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&p->end, &attr);
    pthread_condattr_destroy(&attr);
    p->has_thread = pthread_create(&p->thread, NULL, progress_main, p) == 0;
    return p;
}

void progress_end(struct progress *p, const char *how)
{
    if (!p)
        return;
    pthread_mutex_lock(&p->lock);
    p->ended = true;
    pthread_cond_signal(&p->end);
    pthread_mutex_unlock(&p->lock);
    if (p->has_thread)
        pthread_join(p->thread, NULL);
    if (p->shown)
        fprintf(stderr, "%s%s: %.1f s%s%s\n", p->terminal ? "\r\033[K" : "", p->what, seconds(p), how ? ", " : "",
                how ? how : "");
    pthread_cond_destroy(&p->end);
    pthread_mutex_destroy(&p->lock);
    free(p);
}
