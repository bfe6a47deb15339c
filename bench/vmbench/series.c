/* series.c: see series.h. */
#include "vmbench/series.h"

#include "base/clock.h"
#include "base/own.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

enum { LIMIT_MS = 60000 };

int series_open(struct series *series, unsigned n, struct err *err)
{
    *series = (struct series){.n = n, .answers = {-1, -1}};
    series->samples =
        mmap(NULL, n * sizeof *series->samples, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (series->samples == MAP_FAILED)
        return err_set(err, errno, "get memory for %u samples", n);
    if (pipe2(series->answers, O_CLOEXEC) < 0)
        return err_set(err, errno, "make a pipe");
    return 0;
}

void series_close(struct series *series)
{
    fd_close(&series->answers[0]);
    fd_close(&series->answers[1]);
    munmap(series->samples, series->n * sizeof *series->samples);
}

void sample_stamp(struct sample *sample, enum point point)
{
    atomic_store(&sample->at[point], clock_monotonic_ns());
}

void series_answered(const struct series *series, struct sample *sample)
{
    sample_stamp(sample, ANSWERED);
    ssize_t n = write(series->answers[1], "a", 1);
    (void)n;
}

static void spawn(struct series *series, const struct kind *kind, struct sample *sample)
{
    sample_stamp(sample, ASKED);
    sample->pid = kind->start(kind, series, sample);
    sample->fork_ns = clock_monotonic_ns() - sample->at[ASKED];
}

/* Waits for `want` answers; fewer if nothing comes any more. */
static unsigned answers_wait(const struct series *series, unsigned want)
{
    char buf[1024];
    unsigned got = 0;
    struct pollfd p = {.fd = series->answers[0], .events = POLLIN};
    while (got < want) {
        size_t most = want - got < sizeof buf ? want - got : sizeof buf;
        if (poll(&p, 1, LIMIT_MS) <= 0)
            break;
        ssize_t n = read(series->answers[0], buf, most);
        if (n <= 0)
            break;
        got += (unsigned)n;
    }
    return got;
}

static void sample_end(struct sample *sample)
{
    if (sample->pid <= 0)
        return;
    kill(sample->pid, SIGKILL);
    while (waitpid(sample->pid, NULL, 0) < 0 && errno == EINTR)
        ;
    sample->pid = 0;
}

int series_one(struct series *series, const struct kind *kind, unsigned i)
{
    struct sample *sample = &series->samples[i];
    spawn(series, kind, sample);
    int answered = sample->pid > 0 && answers_wait(series, 1) == 1;
    sample_end(sample);
    return answered;
}

unsigned series_kept(struct series *series, const struct kind *kind)
{
    unsigned answered = 0;
    for (unsigned i = 0; i < series->n; i++) {
        spawn(series, kind, &series->samples[i]);
        answered += series->samples[i].pid > 0 && answers_wait(series, 1) == 1;
    }
    return answered;
}

unsigned series_all(struct series *series, const struct kind *kind, uint64_t *wall_ns)
{
    unsigned started = 0;
    for (unsigned i = 0; i < series->n; i++) {
        spawn(series, kind, &series->samples[i]);
        started += series->samples[i].pid > 0;
    }
    unsigned answered = answers_wait(series, started);
    uint64_t last = 0;
    for (unsigned i = 0; i < series->n; i++)
        if (series->samples[i].at[ANSWERED] > last)
            last = series->samples[i].at[ANSWERED];
    *wall_ns = last ? last - series->samples[0].at[ASKED] : 0;
    return answered;
}

void series_end(struct series *series)
{
    for (unsigned i = 0; i < series->n; i++)
        if (series->samples[i].pid > 0)
            kill(series->samples[i].pid, SIGKILL);
    for (unsigned i = 0; i < series->n; i++)
        sample_end(&series->samples[i]);
}

/* The number behind `key` in a file of "key: number" lines; 0 without. */
static long field_of(const char *path, const char *key)
{
    char line[256];
    long v = 0;
    own_file FILE *f = fopen(path, "re");
    while (f && fgets(line, sizeof line, f))
        if (!strncmp(line, key, strlen(key)) && sscanf(line + strlen(key), ": %ld", &v) == 1)
            break;
    return v;
}

/* Free pages that each CPU keeps for itself. Hundreds of MiB may be there, and MemAvailable leaves them out: what
 * ends fills these lists, what is made next empties them, and MemAvailable hardly moves. */
static long percpu_free_kib(void)
{
    char line[256];
    long pages, sum = 0;
    own_file FILE *f = fopen("/proc/zoneinfo", "re");
    while (f && fgets(line, sizeof line, f))
        if (sscanf(line, " count: %ld", &pages) == 1)
            sum += pages * (sysconf(_SC_PAGESIZE) / 1024);
    return sum;
}

static struct host_memory host_memory_now(void)
{
    static const char *const kernel[] = {"VmallocUsed", "SUnreclaim", "PageTables", "SecPageTables", "KernelStack"};
    struct host_memory now = {.available = field_of("/proc/meminfo", "MemAvailable") + percpu_free_kib()};
    for (size_t i = 0; i < sizeof kernel / sizeof *kernel; i++)
        now.kernel += field_of("/proc/meminfo", kernel[i]);
    return now;
}

struct host_memory host_memory_read(void)
{
    enum { STEP_MS = 100, STEPS_MAX = 20, STILL_KIB = 512 };
    struct host_memory last = host_memory_now();
    for (unsigned i = 0, still = 0; i < STEPS_MAX && still < 3; i++) {
        poll(NULL, 0, STEP_MS);
        struct host_memory now = host_memory_now();
        still = labs(now.available - last.available) < STILL_KIB ? still + 1 : 0;
        last = now;
    }
    return last;
}

struct usage series_usage(const struct series *series, const struct host_memory *before)
{
    struct host_memory now = host_memory_read();
    struct usage usage = {.memavailable = (double)(before->available - now.available) / series->n,
                          .kernel = (double)(now.kernel - before->kernel) / series->n};
    for (unsigned i = 0; i < series->n; i++) {
        char path[64];
        snprintf(path, sizeof path, "/proc/%d/smaps_rollup", (int)series->samples[i].pid);
        usage.pss += (double)field_of(path, "Pss") / series->n;
        snprintf(path, sizeof path, "/proc/%d/status", (int)series->samples[i].pid);
        usage.pagetables += (double)field_of(path, "VmPTE") / series->n;
    }
    return usage;
}

struct series series_part(const struct series *series, unsigned first, unsigned n)
{
    struct series part = *series;
    part.samples += first;
    part.n = n;
    return part;
}

static int compare(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

static double percentile_us(uint64_t *v, unsigned n, double percent)
{
    if (!n)
        return 0;
    qsort(v, n, sizeof *v, compare);
    unsigned at = (unsigned)(percent / 100 * n);
    return (double)v[at < n ? at : n - 1] / 1000;
}

double series_us(const struct series *series, enum point from, enum point to, double percent)
{
    own_free uint64_t *v = calloc(series->n, sizeof *v);
    unsigned n = 0;
    for (unsigned i = 0; v && i < series->n; i++) {
        const struct sample *s = &series->samples[i];
        if (s->at[from] && s->at[to])
            v[n++] = s->at[to] - s->at[from];
    }
    return v ? percentile_us(v, n, percent) : 0;
}

double series_fork_us(const struct series *series, double percent)
{
    own_free uint64_t *v = calloc(series->n, sizeof *v);
    unsigned n = 0;
    for (unsigned i = 0; v && i < series->n; i++)
        if (series->samples[i].fork_ns)
            v[n++] = series->samples[i].fork_ns;
    return v ? percentile_us(v, n, percent) : 0;
}
