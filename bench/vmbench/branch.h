/* branch.h: what a BRANCH costs: branches of one busy guest in a row, all kept, and the floors of the same run.
 *
 * The guest rewrites a hot set of pages without end. Three kinds of processes take part, as in the product: a template
 * (this one at first), the source, a fork of it that runs the guest, and one new template for each branch, a fork of
 * the last. Floors: the same guest parked, its state packed, and resumed, no page copied; and a bare loop that reads
 * as many pages of another process into fresh memory. */
#ifndef BENCH_BRANCH_H
#define BENCH_BRANCH_H

#include "base/err.h"
#include "snap/branch.h"

#include <stdbool.h>

enum { BRANCHES_MAX = 200 };

struct branch_options {
    unsigned n, mem_mib, hot_mib, cold_mib, spin, vcpus;
    bool verify, json;
};

struct branch_sample {
    struct branch_report report;
    double ready_ms;     /* from the call until it can be forked */
    double guest_gap_us; /* longest step of the guest's loop since the last branch, this one's pause in it */
    double lost_ms;      /* of the guest's progress in the second after, against its own rate before */
};

struct branch_result {
    double park_floor_us, copy_floor_us_per_page, page_writes_per_s;
    unsigned done;
    struct branch_sample sample[BRANCHES_MAX];
};

int branch_measure(const struct branch_options *o, struct branch_result *result, struct err *err);
double branch_pause_us(const struct branch_report *r);
void branch_print(const struct branch_options *o, const struct branch_result *r);

#endif
