/* branch.c: forkd branch. */
#include "cli/branch.h"

#include "cli/cli.h"
#include "cli/making.h"
#include "cli/progress.h"
#include "cli/sandbox.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static json_t *body_make(const struct branch_wish *wish)
{
    json_t *body = json_object();
    if (wish->tag)
        json_object_set_new(body, "tag", json_string(wish->tag));
    if (wish->diff)
        json_object_set_new(body, "diff", json_true());
    if (wish->live)
        json_object_set_new(body, "live", json_true());
    if (wish->no_wait)
        json_object_set_new(body, "wait", json_false());
    return body;
}

static int branch_post(const struct args *args, struct client *client, const struct branch_wish *wish,
                       json_t **snapshot, struct err *err)
{
    struct making making = {.source = wish->sandbox};
    char what[128];
    snprintf(what, sizeof what, "branching %.64s", wish->sandbox);
    making_begin(&making, args, what);
    int rc = client_call_named(client, "POST", "/v1/sandboxes/*/branch", wish->sandbox, body_make(wish), snapshot, err);
    making_end(&making, rc < 0 ? "failed" : NULL);
    return rc;
}

static int children_post(struct client *client, const char *tag, unsigned n, json_t **list, struct err *err)
{
    char what[128];
    snprintf(what, sizeof what, "forking %u from %s", n, tag);
    struct progress *progress = progress_begin(what);
    json_t *body = json_pack("{s:s, s:i}", "snapshot_tag", tag, "n", (int)n);
    int rc = client_call_list(client, "POST", "/v1/sandboxes", body, list, err);
    progress_end(progress, rc < 0 ? "failed" : NULL);
    return rc;
}

static double us_to_ms(const json_t *number)
{
    return (double)json_integer_value(number) / 1000;
}

static void print(const json_t *snapshot, const json_t *children)
{
    const char *tag = json_text(snapshot, "tag");
    const json_t *pause = json_object_get(snapshot, "pause_us");
    printf("snapshot %s is a branch of %s: paused for %.2f ms, ready after %lld ms", tag,
           json_text(snapshot, "branched_from"), us_to_ms(json_object_get(pause, "total")),
           (long long)json_integer_value(json_object_get(snapshot, "ready_ms")));
    if (children) {
        puts("");
        sandboxes_print(children);
    } else {
        printf("; fork it with: forkd spawn --tag %s\n", tag);
    }
}

int branch_make(const struct args *args, const struct branch_wish *wish)
{
    struct err err;
    struct client *client;
    json_t *snapshot = NULL, *children = NULL;
    if (client_open(args, &client, &err) < 0)
        return verb_fail(&err);
    int rc = branch_post(args, client, wish, &snapshot, &err);
    int failed = rc;
    if (rc == 0 && wish->children)
        failed = children_post(client, json_text(snapshot, "tag"), wish->children, &children, &err);
    client_close(client);
    if (rc == 0 && args->json)
        verb_json(wish->children && failed == 0 ? json_pack("{s:O, s:O}", "snapshot", snapshot, "sandboxes", children)
                                                : json_incref(snapshot));
    else if (rc == 0)
        print(snapshot, children);
    json_decref(snapshot);
    json_decref(children);
    return failed < 0 ? verb_fail(&err) : 0;
}

static struct branch_wish options;

static const struct arg flags[] = {
    {"tag", 't', ARG_TEXT, &options.tag, "TAG", "the new snapshot's name (branch-ID-TIME-RANDOM)"},
    {"n", 'n', ARG_NUMBER, &options.children, "N", "fork N sandboxes of it at once and list them"},
    {"diff", 0, ARG_FLAG, &options.diff, NULL, "write only the pages that differ from the sandbox's snapshot"},
    {"live", 0, ARG_FLAG, &options.live, NULL, "the same as --diff"},
    {"no-wait", 0, ARG_FLAG, &options.no_wait, NULL, "return as soon as it can be forked; it is written then"},
    {0},
};

static int branch_run(const struct args *args)
{
    if (args->count != 1)
        return verb_usage("forkd branch needs one sandbox's id; see forkd branch --help");
    if (options.diff && options.live)
        return verb_usage("--diff and --live exclude each other");
    options.sandbox = args->rest[0];
    return branch_make(args, &options);
}

const struct verb verb_branch = {
    .name = "branch",
    .what = "make a snapshot of a sandbox while it runs",
    .usage = "ID [--tag TAG] [-n N] [options]",
    .about = "Makes a running sandbox a snapshot that others are forked from: its memory, its processes and its disk, "
             "of one "
             "instant. The sandbox runs on, after a pause that is printed, and its connections live on in it alone.",
    .flags = flags,
    .run = branch_run,
};
