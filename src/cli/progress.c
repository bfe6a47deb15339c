/* progress.c: see progress.h. */
#include "cli/progress.h"

#include "base/clock.h"

#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <unistd.h>

enum { QUIET_MS = 1000, TICK_MS = 200, BAR_CELLS = 16, LINE_MAX_BYTES = 320 };

struct progress {
    char what[160];
    struct progress_now now;
    void (*ask)(void *owner, struct progress_now *now);
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

/* "[#####-----------]  33 %, ", or nothing. */
static void bar_text(int percent, char *into, size_t cap)
{
    static const char full[] = "################", none[] = "----------------";
    _Static_assert(sizeof full == BAR_CELLS + 1 && sizeof none == sizeof full, "as long as a bar");
    *into = 0;
    if (percent < 0)
        return;
    if (percent > 100)
        percent = 100;
    int cells = percent * BAR_CELLS / 100;
    snprintf(into, cap, "[%.*s%.*s] %3d %%, ", cells, full, BAR_CELLS - cells, none, percent);
}

/* How wide the terminal is at which stderr comes out: its own, or one beyond the lab's channel. 0: none. */
static int terminal_columns(void)
{
    struct winsize size;
    if (isatty(STDERR_FILENO))
        return ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col ? size.ws_col : LINE_MAX_BYTES;
    const char *beyond = getenv("FORKD_COLUMNS");
    return beyond && getenv("FORKD_IN_LAB") ? atoi(beyond) : 0;
}

/* A line that is longer than the terminal would not go away. */
static int columns(void)
{
    int wide = terminal_columns();
    return wide > 1 ? wide - 1 : LINE_MAX_BYTES;
}

/* Bytes, which are not more than columns. */
static int line_text(const struct progress *p, char turn, const char *words, const char *bar, char line[LINE_MAX_BYTES])
{
    return snprintf(line, LINE_MAX_BYTES, "%c %s: %s%s%s%.0f s", turn, p->what, words,
                    !*words ? ""
                    : *bar  ? " "
                            : ", ",
                    bar, seconds(p));
}

/* Where it is narrow the bar goes first, then the words: what goes on, and for how long, is told as long as it can be.
 */
static void show(struct progress *p)
{
    static const char spinner[] = "|/-\\";
    static unsigned turns;
    char line[LINE_MAX_BYTES], bar[2 * BAR_CELLS + 24], turn = spinner[turns++ % 4];
    const struct progress_now *now = &p->now;
    int wide = columns();
    bar_text(now->percent, bar, sizeof bar);
    if (line_text(p, turn, now->words, bar, line) > wide && line_text(p, turn, now->words, "", line) > wide)
        line_text(p, turn, "", "", line);
    if (p->terminal)
        fprintf(stderr, "\r\033[K%.*s", wide, line);
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
                p->ask(p->owner, &p->now);
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

struct progress *progress_begin_asking(const char *what, void (*ask)(void *owner, struct progress_now *now),
                                       void *owner)
{
    struct progress *p = calloc(1, sizeof *p);
    if (!p)
        return NULL;
    p->ask = ask;
    p->owner = owner;
    p->now.percent = -1;
    snprintf(p->what, sizeof p->what, "%s", what);
    p->began_ns = clock_monotonic_ns();
    p->terminal = terminal_columns() > 0;
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
