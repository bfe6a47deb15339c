/* branch.h: what a BRANCH costs: branches of one busy guest in a row, all kept, and the floors of the same run.
 *
 * The guest rewrites a hot set of pages and reads a cold one. Four kinds of processes take part, as in the product: a
 * template (this one at first), the source, a fork of it that runs the guest, one new template for each branch, a fork
 * of the last, and one writer for each branch that is to lie on disk. Floors: the same guest parked, its state packed,
 * and resumed, no page copied; and a bare loop that reads as many pages of another process into fresh memory.
 *
 * Engines, of which only the first is the product's:
 *   stream    the new template reads pages while the guest runs, and the few that are left in the pause
 *   stop      the same without rounds: all that differs is read in the pause
 *   classic   the source itself writes all of its memory to a file in the pause, and there is no template: what
 *             snapshots of virtual machines commonly are */
#ifndef BENCH_BRANCH_H
#define BENCH_BRANCH_H

#include "base/err.h"
#include "snap/branch.h"
#include "vmbench/writers.h"

#include <stdbool.h>

enum { BRANCHES_MAX = 1000 };

enum branch_engine { ENGINE_STREAM, ENGINE_STOP, ENGINE_CLASSIC, ENGINES };

struct branch_options {
    unsigned n, mem_mib, hot_mib, cold_mib, dirty_mib_s, spin, vcpus, interval_ms;
    enum branch_engine engine;
    enum writer_engine writer;
    const char *root;
    bool writes, verify, json;
};

struct branch_sample {
    struct branch_report report;
    uint64_t began_ns;   /* CLOCK_MONOTONIC of the call */
    double ready_ms;     /* from the call until it can be forked; of `classic`: until the guest runs on */
    double guest_gap_us; /* longest turn of the guest's loop since the last branch, this one's pause in it */
    double lost_ms;      /* of the guest's progress in the time after, for a second, against its own rate before */
    double durable_ms;   /* from the call until it is on disk; negative: it is not */
    uint64_t bytes;      /* written for it */
    uint64_t disk_bytes; /* that its files take there */
};

struct branch_result {
    double park_floor_us, copy_floor_us_per_page, page_writes_per_s;
    unsigned done;
    struct branch_sample sample[BRANCHES_MAX];
};

/* -EINVAL with what makes no sense of them. */
int branch_options_parse(int argc, char **argv, struct branch_options *o, struct err *err);
extern const char branch_usage[];
extern const char *const branch_engine_names[ENGINES];

int branch_measure(const struct branch_options *o, struct branch_result *result, struct err *err);
void branch_print(const struct branch_options *o, const struct branch_result *r);

#endif
