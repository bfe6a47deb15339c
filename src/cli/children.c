/* children.c: see quickstart.h.
 *
 * A child's first answer is timed from the request that makes it to the answer of its warm interpreter, as seen
 * here: HTTP, the fork, its identity, the evaluation. All children live until the last one was asked; memory is
 * read while they do. */
#include "base/clock.h"
#include "base/own.h"
#include "cli/cli.h"
#include "cli/interrupt.h"
#include "cli/progress.h"
#include "cli/quickstart.h"
#include "cli/sandbox.h"
#include "cli/table.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct child {
    char id[64];
    char *hostname, *answer; /* what it said, or the error */
    double ms;
    long long own_kib; /* -1: unknown */
    bool answered;
};

static char *trimmed(const char *text)
{
    size_t len = strlen(text);
    while (len && (text[len - 1] == '\n' || text[len - 1] == ' '))
        len--;
    return strndup(text, len);
}

static int child_fork(struct client *client, const char *tag, struct child *child, struct err *err)
{
    json_t *list;
    int rc = client_call_list(client, "POST", "/v1/sandboxes", json_pack("{s:s}", "snapshot_tag", tag), &list, err);
    if (rc < 0)
        return rc;
    snprintf(child->id, sizeof child->id, "%s", json_text(json_array_get(list, 0), "id"));
    json_decref(list);
    return 0;
}

static int child_eval(struct client *client, const struct quickstart *q, struct child *child, struct err *err)
{
    json_t *answer;
    int rc = sandbox_call(client, child->id, "eval", json_pack("{s:s}", "code", q->code), &answer, err);
    if (rc < 0)
        return rc;
    const char *error = json_text(answer, "error");
    child->answer = trimmed(json_text(answer, "result"));
    if (*error)
        rc = err_say(err, EPROTO, "eval: %.300s", error);
    json_decref(answer);
    return rc;
}

static int child_exec(struct client *client, const struct quickstart *q, struct child *child, struct err *err)
{
    json_t *answer;
    json_t *body = json_pack("{s:[s,s,s]}", "args", "/bin/sh", "-c", q->command);
    int rc = sandbox_call(client, child->id, "exec", body, &answer, err);
    if (rc < 0)
        return rc;
    child->hostname = trimmed(json_text(answer, "stdout"));
    if (json_integer_value(json_object_get(answer, "exit_code")) != 0)
        rc = err_say(err, EPROTO, "exec: %.300s", json_text(answer, "stderr"));
    json_decref(answer);
    return rc;
}

static void child_run(struct client *client, const struct quickstart *q, const char *tag, struct child *child)
{
    struct err err;
    uint64_t began = clock_monotonic_ns();
    int rc = child_fork(client, tag, child, &err);
    client_set_interruptible(client, true);
    if (rc == 0)
        rc = child_eval(client, q, child, &err);
    child->ms = (double)(clock_monotonic_ns() - began) / (double)NS_PER_MS;
    if (rc == 0)
        rc = child_exec(client, q, child, &err);
    client_set_interruptible(client, false);
    child->answered = rc == 0;
    if (rc < 0) {
        free(child->answer);
        child->answer = strdup(err.text);
    }
}

static void child_measure(struct client *client, struct child *child)
{
    json_t *answer;
    child->own_kib = -1;
    if (client_call_named(client, "GET", "/v1/sandboxes/*?memory=true", child->id, NULL, &answer, NULL) < 0)
        return;
    json_t *own = json_object_get(answer, "memory_own_kib");
    if (json_is_integer(own))
        child->own_kib = json_integer_value(own);
    json_decref(answer);
}

static void table_show(const struct child *children, unsigned n)
{
    static const char *const headings[] = {"ID", "HOSTNAME", "ANSWER", ">MS TO FIRST ANSWER", ">OWN MEMORY KiB", NULL};
    struct table *table = table_new(headings);
    for (unsigned i = 0; i < n; i++) {
        char ms[32], own[32] = "-";
        snprintf(ms, sizeof ms, "%.1f", children[i].ms);
        if (children[i].own_kib >= 0)
            snprintf(own, sizeof own, "%lld", children[i].own_kib);
        const char *cells[] = {*children[i].id ? children[i].id : "-", children[i].hostname, children[i].answer, ms,
                               own};
        table_row(table, cells);
    }
    table_print(table);
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void totals_show(const struct child *children, unsigned n, double wall_ms)
{
    own_free double *ms = calloc(n, sizeof *ms);
    long long own = 0;
    for (unsigned i = 0; ms && i < n; i++) {
        ms[i] = children[i].ms;
        own += children[i].own_kib > 0 ? children[i].own_kib : 0;
    }
    if (!ms)
        return;
    qsort(ms, n, sizeof *ms, by_value);
    printf("\nall in %.1f s; first answer: median %.1f ms, slowest %.1f ms; memory of their own: %.1f MiB together\n",
           wall_ms / 1000, ms[n / 2], ms[n - 1], (double)own / 1024);
}

static void json_show(const struct child *children, unsigned n, unsigned answered, double wall_ms)
{
    json_t *list = json_array();
    for (unsigned i = 0; i < n; i++) {
        json_t *one = json_object();
        json_object_set_new(one, "id", json_string(children[i].id));
        json_object_set_new(one, "hostname", children[i].hostname ? json_string(children[i].hostname) : json_null());
        json_object_set_new(one, "answer", children[i].answer ? json_string(children[i].answer) : json_null());
        json_object_set_new(one, "answered", json_boolean(children[i].answered));
        json_object_set_new(one, "ms_to_first_answer", json_real(children[i].ms));
        json_object_set_new(one, "memory_own_kib",
                            children[i].own_kib < 0 ? json_null() : json_integer(children[i].own_kib));
        json_array_append_new(list, one);
    }
    verb_json(json_pack("{s:i, s:i, s:f, s:o}", "n", (int)n, "answered", (int)answered, "wall_ms", wall_ms, "children",
                        list));
}

static void children_end(struct client *client, struct child *children, unsigned n)
{
    struct err err;
    struct progress *progress = progress_begin("ending the children");
    for (unsigned i = 0; i < n; i++) {
        if (*children[i].id && sandbox_delete(client, children[i].id, &err) < 0)
            verb_fail(&err);
        free(children[i].hostname);
        free(children[i].answer);
    }
    progress_end(progress, NULL);
}

struct asking {
    _Atomic unsigned done;
    unsigned of;
};

static void tell_progress(void *owner, struct progress_now *now)
{
    const struct asking *asking = owner;
    now->percent = (int)(asking->done * 100 / asking->of);
}

/* Forks and asks one after the other, until a signal comes: false then. */
static bool children_ask(struct client *client, const struct quickstart *q, const char *tag, struct child *children,
                         double *wall_ms)
{
    char what[80];
    snprintf(what, sizeof what, "forking %u children and asking each", q->n);
    struct asking asking = {.of = q->n};
    struct progress *progress = progress_begin_asking(what, tell_progress, &asking);
    uint64_t began = clock_monotonic_ns();
    for (unsigned i = 0; i < q->n && !interrupts_came(); i++) {
        child_run(client, q, tag, &children[i]);
        asking.done++;
    }
    *wall_ms = (double)(clock_monotonic_ns() - began) / (double)NS_PER_MS;
    bool whole = !interrupts_came();
    for (unsigned i = 0; whole && i < q->n; i++)
        child_measure(client, &children[i]);
    progress_end(progress, whole ? NULL : "interrupted");
    return whole;
}

int children_show(struct client *client, const struct quickstart *q, const char *tag)
{
    own_free struct child *children = calloc(q->n, sizeof *children);
    unsigned answered = 0;
    double wall_ms;
    if (!children)
        return EXIT_ERROR;
    interrupts_hold();
    bool whole = children_ask(client, q, tag, children, &wall_ms);
    for (unsigned i = 0; i < q->n; i++)
        answered += children[i].answered;
    if (whole && q->json) {
        json_show(children, q->n, answered, wall_ms);
    } else if (whole) {
        table_show(children, q->n);
        totals_show(children, q->n, wall_ms);
    }
    fflush(stdout);
    children_end(client, children, q->n);
    interrupts_release(0);
    if (!q->json)
        printf("%u of %u children answered\n", answered, q->n);
    return answered == q->n ? 0 : EXIT_ERROR;
}
