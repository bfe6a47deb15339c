/* metrics.h: what this controller counts, and how it tells: the Prometheus text format, version 0.0.4.
 *
 * Theory of operation. Counts are kept for the process, in atomics that any thread adds to without a lock; a scrape
 * reads them one by one, so a histogram's buckets may be ahead of its sum by what happened meanwhile, never behind
 * by more. What the gauges stand at, and what the routes are called, is said by whoever asks for the page.
 *
 * Invariant. The set of series is bounded: labels are routes of the table, phases, statuses and reasons, never
 * anything that a client or a guest chose. */
#ifndef FORKD_CONTROLLER_METRICS_H
#define FORKD_CONTROLLER_METRICS_H

#include "proto/rest.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum metric {
    METRIC_SPAWN, /* one sandbox, from its seat to its guest's answer */
    METRIC_EXEC,  /* one command or one piece of code, in its guest */
    METRIC_WRITE, /* one snapshot that got onto the disk */
    METRIC_LOAD,  /* one snapshot from the disk to a template that lives */
    METRIC_PAUSE, /* one branch: how long the guest stood still; its phases follow, as enum rest_phase has them */
    METRIC_PAUSE_PHASES,
    METRICS_END = METRIC_PAUSE_PHASES + REST_PHASES,
};

enum count { COUNT_WRITES_FAILED, COUNT_BYTES_WRITTEN, COUNTS_END };
enum orphan { ORPHAN_DEAD, ORPHAN_HALF_MADE, ORPHAN_DIRECTORY, ORPHAN_SILENT, ORPHANS_END };

void metrics_observe(enum metric metric, uint64_t ns);
void metrics_count(enum count count, uint64_t by);
enum { METRICS_ROUTES = 64, METRICS_NO_ROUTE = METRICS_ROUTES };
/* One request answered by the route of that number; METRICS_NO_ROUTE where the path leads nowhere. */
void metrics_request(unsigned route, unsigned status, uint64_t ns);
/* What was found that belonged to no living controller. */
void metrics_orphans(enum orphan kind, unsigned count);

/* What the gauges stand at. */
struct metrics_now {
    unsigned snapshots, sandboxes;   /* listed */
    unsigned branches, branches_max; /* under way */
    int snapshot_root;               /* a directory, -1: none */
};

/* The labels of the route of that number, `method="...",route="..."`; false after the last. */
typedef bool metrics_route_fn(unsigned route, char *labels, size_t cap);

/* The whole page, malloc()ed; NULL without memory. */
char *metrics_page(const struct metrics_now *now, metrics_route_fn *route_labels);

#endif
