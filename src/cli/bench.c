/* bench.c: forkd bench: what the controller's clients wait for. Times are this program's, from before a request to its
 * answer, so HTTP and JSON are in them; docs/benchmarks.md has what is below. */
#include "base/clock.h"
#include "base/own.h"
#include "cli/cli.h"
#include "cli/interrupt.h"
#include "cli/sandbox.h"
#include "cli/table.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { ROUNDS = 20, ROUNDS_MAX = 1000 };

static const char *tag;
static unsigned n = ROUNDS;

static const struct arg flags[] = {
    {"tag", 't', ARG_TEXT, &tag, "TAG", "the snapshot (FORKD_TAG)"},
    {"n", 'n', ARG_NUMBER, &n, "N", "how often each is done, at most 1000 (20)"},
    {0},
};

struct series {
    const char *what;
    double *ms;
    unsigned count;
};

static int timed_call(struct client *client, struct series *s, const char *method, const char *path, const char *id,
                      json_t *body, json_t **answer, struct err *err)
{
    uint64_t began = clock_monotonic_ns();
    int rc = id ? client_call_named(client, method, path, id, body, answer, err)
                : client_call_list(client, method, path, body, answer, err);
    s->ms[s->count++] = (double)(clock_monotonic_ns() - began) / (double)NS_PER_MS;
    return rc;
}

static int round_run(struct client *client, struct series *spawn, struct series *ping, struct series *kill,
                     struct err *err)
{
    json_t *list = NULL;
    json_t *body = json_pack("{s:s, s:i}", "snapshot_tag", tag, "n", 1);
    int rc = timed_call(client, spawn, "POST", "/v1/sandboxes", NULL, body, &list, err);
    if (rc < 0)
        return rc;
    const char *id = json_text(json_array_get(list, 0), "id");
    client_set_interruptible(client, true);
    rc = timed_call(client, ping, "POST", "/v1/sandboxes/*/ping", id, NULL, NULL, err);
    client_set_interruptible(client, false);
    struct err later;
    int end = timed_call(client, kill, "DELETE", "/v1/sandboxes/*", id, NULL, NULL, rc < 0 ? &later : err);
    json_decref(list);
    return rc < 0 ? rc : end;
}

/* n in one request, and their end. */
static int batch_run(struct client *client, struct series *batch, struct err *err)
{
    json_t *list = NULL, *one;
    size_t i;
    json_t *body = json_pack("{s:s, s:i}", "snapshot_tag", tag, "n", (int)n);
    int rc = timed_call(client, batch, "POST", "/v1/sandboxes", NULL, body, &list, err);
    json_array_foreach(list, i, one)
    {
        if (sandbox_delete(client, json_text(one, "id"), err) < 0)
            rc = -err->code;
    }
    json_decref(list);
    return rc;
}

static int by_size(const void *a, const void *b)
{
    const double *x = a, *y = b;
    return *x < *y ? -1 : *x > *y;
}

static double at_share(const struct series *s, double share)
{
    return s->ms[(unsigned)(share * (s->count - 1))];
}

static void series_show(const struct series *series, size_t count, bool json)
{
    static const char *const headings[] = {"WHAT", ">TIMES", ">MEDIAN ms", ">P90 ms", ">MAX ms", NULL};
    json_t *list = json_array();
    struct table *table = json ? NULL : table_new(headings);
    for (size_t i = 0; i < count; i++) {
        const struct series *s = &series[i];
        char times[16], median[24], p90[24], max[24];
        qsort(s->ms, s->count, sizeof *s->ms, by_size);
        json_array_append_new(list, json_pack("{s:s, s:i, s:f, s:f, s:f}", "what", s->what, "times", (int)s->count,
                                              "median_ms", at_share(s, 0.5), "p90_ms", at_share(s, 0.9), "max_ms",
                                              at_share(s, 1)));
        snprintf(times, sizeof times, "%u", s->count);
        snprintf(median, sizeof median, "%.2f", at_share(s, 0.5));
        snprintf(p90, sizeof p90, "%.2f", at_share(s, 0.9));
        snprintf(max, sizeof max, "%.2f", at_share(s, 1));
        const char *cells[] = {s->what, times, median, p90, max};
        if (table)
            table_row(table, cells);
    }
    if (table)
        table_print(table);
    else
        verb_json(json_incref(list));
    json_decref(list);
}

static int bench_run(const struct args *args)
{
    struct err err;
    struct client *client;
    char together[48];
    if (!tag)
        tag = getenv("FORKD_TAG");
    if (args->count || !tag || !*tag || !n || n > ROUNDS_MAX)
        return verb_usage("forkd bench needs --tag, and -n from 1 to 1000; see forkd bench --help");
    snprintf(together, sizeof together, "spawn of %u at once", n);
    own_free double *ms = calloc((size_t)n * 3 + 1, sizeof *ms);
    if (!ms)
        return EXIT_ERROR;
    struct series series[] = {
        {"spawn of one", ms, 0}, {"ping", ms + n, 0}, {"kill", ms + 2 * n, 0}, {together, ms + 3 * n, 0}};
    if (client_open(args, &client, &err) < 0)
        return verb_fail(&err);
    interrupts_hold();
    int rc = 0;
    for (unsigned i = 0; rc == 0 && i < n && !interrupts_came(); i++)
        rc = round_run(client, &series[0], &series[1], &series[2], &err);
    if (rc == 0 && !interrupts_came())
        rc = batch_run(client, &series[3], &err);
    client_close(client);
    if (interrupts_release(rc) < 0)
        return verb_fail(&err);
    series_show(series, 4, args->json);
    return 0;
}

const struct verb verb_bench = {
    .name = "bench",
    .what = "how long spawn, ping and kill take through the controller",
    .usage = "--tag TAG [-n N]",
    .about =
        "Forks a sandbox, asks its agent and ends it, N times one after the other, then forks N in one request, and "
        "prints how long each took as a client sees it. Nothing is left behind.",
    .flags = flags,
    .run = bench_run,
};
