/* metrics.c: see metrics.h. */
#include "controller/metrics.h"

#include "base/clock.h"
#include "base/own.h"

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/statvfs.h>
#include <unistd.h>

enum { BUCKETS_MAX = 16, STATUS_MAX = 600, LABELS_MAX = 160 };

/* Upper bounds in microseconds, 0-terminated. */
static const uint32_t bounds_pause[] = {50, 100, 250, 500, 1000, 2500, 5000, 10000, 50000, 250000, 0};
static const uint32_t bounds_spawn[] = {500,   1000,   2000,   3000,    5000,    10000,    25000,
                                        50000, 100000, 250000, 1000000, 5000000, 30000000, 0};
static const uint32_t bounds_work[] = {100,    500,     1000,    5000,     10000,     50000, 100000,
                                       500000, 1000000, 5000000, 30000000, 300000000, 0};

struct histogram {
    atomic_uint_fast64_t bucket[BUCKETS_MAX + 1]; /* of each alone; the last is for all that is longer */
    atomic_uint_fast64_t sum_ns;
};

struct family {
    const char *name, *help, *label; /* `label` is the name of the label its series are told apart by, or NULL */
    const uint32_t *bounds;
};

static const struct family family_spawn = {"forkd_spawn_duration_seconds",
                                           "From the start of a fork to its guest's answer, for each sandbox.", NULL,
                                           bounds_spawn};
static const struct family family_exec = {"forkd_exec_duration_seconds", "Commands and code run in guests.", NULL,
                                          bounds_work};
static const struct family family_write = {"forkd_snapshot_write_duration_seconds", "Snapshots written to the disk.",
                                           NULL, bounds_work};
static const struct family family_load = {"forkd_snapshot_load_duration_seconds",
                                          "Snapshots loaded from the disk, until they can be forked.", NULL,
                                          bounds_work};
static const struct family family_pause = {"forkd_branch_pause_seconds", "How long a branch's source stood still.",
                                           NULL, bounds_pause};
static const struct family family_phase = {"forkd_branch_pause_phase_seconds", "The same, by what was done then.",
                                           "phase", bounds_pause};
static const struct family family_request = {"forkd_request_duration_seconds",
                                             "From a request's first line to its answer.", NULL, bounds_work};

static const struct {
    const struct family *family;
    const char *label;
} series[] = {
    [METRIC_SPAWN] = {&family_spawn, NULL},
    [METRIC_EXEC] = {&family_exec, NULL},
    [METRIC_WRITE] = {&family_write, NULL},
    [METRIC_LOAD] = {&family_load, NULL},
    [METRIC_PAUSE] = {&family_pause, NULL},
    [METRIC_PAUSE_PHASES + REST_KICK] = {&family_phase, "kick"},
    [METRIC_PAUSE_PHASES + REST_SAVE] = {&family_phase, "save"},
    [METRIC_PAUSE_PHASES + REST_LOG] = {&family_phase, "log"},
    [METRIC_PAUSE_PHASES + REST_PAGES] = {&family_phase, "pages"},
    [METRIC_PAUSE_PHASES + REST_RESUME] = {&family_phase, "resume"},
};
_Static_assert(sizeof series / sizeof *series == METRICS_END, "every metric is in a family");

static const struct {
    const char *name, *help;
} counts[] = {
    [COUNT_WRITES_FAILED] = {"forkd_snapshot_writes_failed_total", "Snapshots that could not be written to the disk."},
    [COUNT_BYTES_WRITTEN] = {"forkd_snapshot_written_bytes_total", "What the written ones take there."},
};
_Static_assert(sizeof counts / sizeof *counts == COUNTS_END, "every count has a name");

static const char *const orphan_names[] = {"dead", "half_made", "directory", "silent"};
_Static_assert(sizeof orphan_names / sizeof *orphan_names == ORPHANS_END, "every kind of orphan has a name");

static struct histogram observed[METRICS_END], requests[METRICS_ROUTES + 1]; /* the last is METRICS_NO_ROUTE */
static atomic_uint_fast64_t responses[STATUS_MAX], counted[COUNTS_END], orphans[ORPHANS_END];

static void histogram_add(struct histogram *h, const uint32_t *bounds, uint64_t ns)
{
    unsigned i = 0;
    while (bounds[i] && ns > bounds[i] * NS_PER_US)
        i++;
    atomic_fetch_add_explicit(&h->bucket[i], 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&h->sum_ns, ns, memory_order_relaxed);
}

void metrics_observe(enum metric metric, uint64_t ns)
{
    histogram_add(&observed[metric], series[metric].family->bounds, ns);
}

void metrics_count(enum count count, uint64_t by)
{
    atomic_fetch_add_explicit(&counted[count], by, memory_order_relaxed);
}

void metrics_request(unsigned route, unsigned status, uint64_t ns)
{
    histogram_add(&requests[route], family_request.bounds, ns);
    if (status < STATUS_MAX)
        atomic_fetch_add_explicit(&responses[status], 1, memory_order_relaxed);
}

void metrics_orphans(enum orphan kind, unsigned count)
{
    atomic_fetch_add_explicit(&orphans[kind], count, memory_order_relaxed);
}

static void print_head(FILE *to, const char *name, const char *type, const char *help)
{
    fprintf(to, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, type);
}

static void print_gauge(FILE *to, const char *name, const char *help, uint64_t value)
{
    print_head(to, name, "gauge", help);
    fprintf(to, "%s %llu\n", name, (unsigned long long)value);
}

/* `labels` is "" or `name="value"`, `name="value",...`. */
static void print_histogram(FILE *to, const struct family *family, const char *labels, struct histogram *h)
{
    uint64_t count = 0;
    const char *comma = *labels ? "," : "", *open = *labels ? "{" : "", *close = *labels ? "}" : "";
    unsigned i = 0;
    for (; family->bounds[i]; i++) {
        count += atomic_load(&h->bucket[i]);
        fprintf(to, "%s_bucket{%s%sle=\"%g\"} %llu\n", family->name, labels, comma, family->bounds[i] / 1e6,
                (unsigned long long)count);
    }
    count += atomic_load(&h->bucket[i]);
    fprintf(to, "%s_bucket{%s%sle=\"+Inf\"} %llu\n", family->name, labels, comma, (unsigned long long)count);
    fprintf(to, "%s_sum%s%s%s %.9f\n", family->name, open, labels, close, (double)atomic_load(&h->sum_ns) / 1e9);
    fprintf(to, "%s_count%s%s%s %llu\n", family->name, open, labels, close, (unsigned long long)count);
}

static void print_observed(FILE *to)
{
    for (int m = 0; m < METRICS_END; m++) {
        const struct family *family = series[m].family;
        char labels[64] = "";
        if (m == 0 || family != series[m - 1].family)
            print_head(to, family->name, "histogram", family->help);
        if (family->label)
            snprintf(labels, sizeof labels, "%s=\"%s\"", family->label, series[m].label);
        print_histogram(to, family, labels, &observed[m]);
    }
}

static void print_requests(FILE *to, metrics_route_fn *route_labels)
{
    char labels[LABELS_MAX];
    print_head(to, family_request.name, "histogram", family_request.help);
    for (unsigned i = 0; i < METRICS_ROUTES && route_labels(i, labels, sizeof labels); i++)
        print_histogram(to, &family_request, labels, &requests[i]);
    print_histogram(to, &family_request, "method=\"\",route=\"none\"", &requests[METRICS_NO_ROUTE]);
    print_head(to, "forkd_responses_total", "counter", "Requests answered, by status.");
    for (unsigned status = 100; status < STATUS_MAX; status++) {
        uint64_t count = atomic_load(&responses[status]);
        if (count)
            fprintf(to, "forkd_responses_total{status=\"%u\"} %llu\n", status, (unsigned long long)count);
    }
}

static void print_counts(FILE *to)
{
    for (int i = 0; i < COUNTS_END; i++) {
        print_head(to, counts[i].name, "counter", counts[i].help);
        fprintf(to, "%s %llu\n", counts[i].name, (unsigned long long)atomic_load(&counted[i]));
    }
}

static void print_orphans(FILE *to)
{
    print_head(to, "forkd_orphans_found_total", "counter", "What a controller before this one left, by what it was.");
    for (int kind = 0; kind < ORPHANS_END; kind++)
        fprintf(to, "forkd_orphans_found_total{kind=\"%s\"} %llu\n", orphan_names[kind],
                (unsigned long long)atomic_load(&orphans[kind]));
}

/* proc(5): the second number of statm is resident pages. */
static void print_process(FILE *to)
{
    own_file FILE *statm = fopen("/proc/self/statm", "re");
    unsigned long long resident;
    if (statm && fscanf(statm, "%*u %llu", &resident) == 1)
        print_gauge(to, "process_resident_memory_bytes", "Memory of the controller itself.",
                    resident * (unsigned long long)sysconf(_SC_PAGESIZE));
}

/* What there is for more snapshots. */
static void print_room(FILE *to, int root)
{
    struct statvfs fs;
    if (root >= 0 && fstatvfs(root, &fs) == 0)
        print_gauge(to, "forkd_snapshot_root_free_bytes", "Room where snapshots are kept.",
                    (uint64_t)fs.f_bavail * fs.f_frsize);
}

static void print_gauges(FILE *to, const struct metrics_now *now)
{
    print_gauge(to, "forkd_snapshots_total", "Snapshots that are listed.", now->snapshots);
    print_gauge(to, "forkd_sandboxes_active", "Sandboxes that are listed.", now->sandboxes);
    print_gauge(to, "forkd_branches_in_flight", "Branches under way.", now->branches);
    print_gauge(to, "forkd_branch_concurrency_cap", "How many may be.", now->branches_max);
    print_room(to, now->snapshot_root);
    print_head(to, "forkd_build_info", "gauge", "Always 1; the version is its label.");
    fprintf(to, "forkd_build_info{version=\"%s\"} 1\n", FORKD_VERSION);
}

char *metrics_page(const struct metrics_now *now, metrics_route_fn *route_labels)
{
    char *text = NULL;
    size_t len = 0;
    FILE *to = open_memstream(&text, &len);
    if (!to)
        return NULL;
    print_gauges(to, now);
    print_observed(to);
    print_requests(to, route_labels);
    print_counts(to);
    print_orphans(to);
    print_process(to);
    if (fclose(to) != 0) {
        free(text);
        return NULL;
    }
    return text;
}
