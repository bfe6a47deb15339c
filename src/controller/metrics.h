/* metrics.h: what this controller counts, and how it tells: the Prometheus text format, version 0.0.4.
 *
 * Theory of operation. Counts are kept for the process, in atomics that any thread adds to without a lock; a scrape
 * reads them one by one, so a histogram's buckets may be ahead of its sum by what happened meanwhile, never behind
 * by more. Gauges are asked of the controller when they are told.
 *
 * Invariant. The set of series is bounded: labels are routes of the table, phases, statuses and reasons, never
 * anything that a client or a guest chose. */
#ifndef FORKD_CONTROLLER_METRICS_H
#define FORKD_CONTROLLER_METRICS_H

#include "proto/rest.h"

#include <stdint.h>

struct controller;
struct route;

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
/* One request answered; `route` is NULL where the path leads nowhere. */
void metrics_request(const struct route *route, unsigned status, uint64_t ns);
/* What was found that belonged to no living controller. */
void metrics_orphans(enum orphan kind, unsigned count);

/* The whole page, malloc()ed; NULL without memory. */
char *metrics_page(struct controller *c);

#endif
