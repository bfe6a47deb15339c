/* writers.h: branches are written to a filesystem.
 *
 * In the background by forkd-store, a process for each branch as in the product: at SCHED_IDLE, reading the template
 * through descriptors, earlier ones still busy when the next one starts. Or, for `classic`, by the source itself with
 * the same engines.
 *
 * Threads: one for each branch waits until it is durable. The process forks nothing while they live. */
#ifndef BENCH_WRITERS_H
#define BENCH_WRITERS_H

#include "base/err.h"
#include "snap/content.h"
#include "snap/writer.h"

#include <limits.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

/* What became of one. */
struct written {
    uint64_t durable_ns; /* CLOCK_MONOTONIC */
    uint64_t bytes;      /* of memory that was written */
    uint64_t disk_bytes; /* that its files take */
};

struct writers_job;

struct writers {
    enum writer_engine engine;
    int dir; /* a new directory of this run; removed by writers_close() */
    char path[PATH_MAX];
    unsigned n;
    struct writers_job **jobs; /* by branch; NULL: not begun */
};

int writers_open(struct writers *w, const char *root, enum writer_engine engine, unsigned n, struct err *err);
void writers_close(struct writers *w);

/* A whole snapshot of branch `i`, the template behind `export` and `memory_fd`, where RAM is at `ram`. Descriptors stay
 * the caller's. */
int writers_save(struct writers *w, unsigned i, const struct machine_config *config,
                 const struct content_export *export, int memory_fd, uint64_t ram, struct err *err);
/* A file that writers_write_own() wrote, of `bytes`, becomes durable. */
int writers_sync(struct writers *w, unsigned i, int file, uint64_t bytes, struct err *err);
/* Waits for branch `i`. */
int writers_wait(struct writers *w, unsigned i, struct written *written, struct err *err);

/* In this process, all of its guest's memory, as `classic` does in the pause. Returns the file, which is not durable
 * yet. For a process that was forked when the writers were open. */
int writers_write_own(const struct writers *w, unsigned i, const void *ram, uint64_t len, uint64_t *bytes,
                      struct err *err);

#endif
