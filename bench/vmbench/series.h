/* series.h: spawns of one kind, one at a time or all in one go, and what they cost.
 *
 * A kind makes children by fork(2). Each stamps, into its sample in shared memory, the points it comes to, and then
 * says through a pipe that it answered; it stays idle until it is killed. All times are CLOCK_MONOTONIC. */
#ifndef BENCH_SERIES_H
#define BENCH_SERIES_H

#include "base/err.h"

#include <stdatomic.h>
#include <stdint.h>
#include <sys/types.h>

/* In the order they are come to; a kind may leave some out. */
enum point { ASKED, BORN, ATTACHED, RESTORED, STARTED, ANSWERED, ENDED, POINTS };

struct sample {
    _Atomic uint64_t at[POINTS];
    pid_t pid;
    uint64_t fork_ns; /* how long the template was in fork(2) */
};

struct series {
    unsigned n;
    int answers[2];         /* a pipe: one byte for each answer */
    struct sample *samples; /* shared */
};

struct kind {
    /* Forks the child for a sample; returns in the template only. */
    pid_t (*start)(const struct kind *kind, struct series *series, struct sample *sample);
    void *context;
};

/* Memory of all that live, in KiB for each. */
struct usage {
    double pss, pagetables;
    double memavailable; /* the fall of the host's */
    double kernel;       /* the rise of what the kernel holds: vmalloc, slab, page tables, stacks */
};

/* What the host says of itself, KiB. */
struct host_memory {
    long available, kernel;
};

int series_open(struct series *series, unsigned n, struct err *err);
void series_close(struct series *series);

/* In a child. */
void sample_stamp(struct sample *sample, enum point point);
void series_answered(const struct series *series, struct sample *sample);

/* Spawns number `i`, waits for its answer, ends it. 1 if it answered. */
int series_one(struct series *series, const struct kind *kind, unsigned i);
/* One after the other, each waited for, and all live on: how many answered. */
unsigned series_kept(struct series *series, const struct kind *kind);
/* All in one go: how many answered; the time from the first request to the last answer. They live on. */
unsigned series_all(struct series *series, const struct kind *kind, uint64_t *wall_ns);
void series_end(struct series *series);

/* Once it stands still: what has ended gives back its memory by and by. */
struct host_memory host_memory_read(void);
/* What those that live use; `before` was read before they did. */
struct usage series_usage(const struct series *series, const struct host_memory *before);
/* A part of a series, for the functions below and series_usage(). Not to be closed. */
struct series series_part(const struct series *series, unsigned first, unsigned n);

/* Percentile of the time between two points in microseconds; of those that came to both. */
double series_us(const struct series *series, enum point from, enum point to, double percent);
double series_fork_us(const struct series *series, double percent);

#endif
