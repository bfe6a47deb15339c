/* spawn.c: forkd spawn and forkd fork.
 *
 * `fork --settle-secs S` stays in the foreground: signals are held back before the first child is asked for, so that no
 * moment exists in which one would leave children behind. That one came is the ordinary end of it, with status 0. */
#include "base/clock.h"
#include "cli/cli.h"
#include "cli/interrupt.h"
#include "cli/making.h"
#include "cli/sandbox.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static struct spawn {
    const char *tag;
    unsigned n, limit, settle;
    bool netns, ignored;
} options = {.n = 1, .limit = ARG_NOT_GIVEN};

/* Those of fork; spawn's begin with the second. */
static const struct arg flags[] = {
    {"settle-secs", 0, ARG_NUMBER, &options.settle, "N",
     "stay so long, or until SIGINT, SIGTERM or SIGHUP, then kill them"},
    {"tag", 't', ARG_TEXT, &options.tag, "TAG", "the snapshot (FORKD_TAG)"},
    {"n", 'n', ARG_NUMBER, &options.n, "N", "how many, at most 1000 (1)"},
    {"memory-limit-mib", 0, ARG_NUMBER, &options.limit, "N", "what each may use for itself"},
    {"per-child-netns", 0, ARG_FLAG, &options.netns, NULL, NULL},
    /* Wishes of the original's users that every fork here meets. */
    {"prewarm", 0, ARG_FLAG, &options.ignored, NULL, NULL},
    {"live-fork", 0, ARG_FLAG, &options.ignored, NULL, NULL},
    {"hugepages", 0, ARG_FLAG, &options.ignored, NULL, NULL},
    {0},
};

static json_t *body_make(const struct spawn *s)
{
    json_t *body = json_object();
    json_object_set_new(body, "snapshot_tag", json_string(s->tag));
    json_object_set_new(body, "n", json_integer(s->n));
    if (s->limit != ARG_NOT_GIVEN)
        json_object_set_new(body, "memory_limit_mib", json_integer(s->limit));
    if (s->netns)
        json_object_set_new(body, "per_child_netns", json_true());
    return body;
}

static int children_kill(struct client *client, const json_t *list)
{
    struct err err;
    size_t i;
    json_t *one;
    int status = 0;
    json_array_foreach(list, i, one)
    {
        /* One that ended by itself meanwhile is what was wanted. */
        if (sandbox_delete(client, json_text(one, "id"), &err) < 0 && strncmp(err.text, "HTTP 404", 8) != 0)
            status = verb_fail(&err);
    }
    return status;
}

static int spawn(const struct args *args, const struct spawn *s)
{
    struct err err;
    struct client *client;
    json_t *list = NULL;
    char what[128];
    if (client_open(args, &client, &err) < 0)
        return verb_fail(&err);
    if (s->settle)
        interrupts_hold();
    snprintf(what, sizeof what, "forking %u from %s", s->n, s->tag);
    struct making making = {.tag = s->tag};
    making_begin(&making, args, what);
    int rc = client_call_list(client, "POST", "/v1/sandboxes", body_make(s), &list, &err);
    making_end(&making, rc < 0 ? "failed" : NULL);
    int status = 0;
    if (rc < 0)
        status = verb_fail(&err);
    else if (args->json)
        verb_json(json_incref(list));
    else
        sandboxes_print(list);
    fflush(stdout);
    if (rc == 0 && s->settle) {
        interrupts_await(clock_monotonic_ns() + s->settle * NS_PER_SEC);
        status = children_kill(client, list);
    }
    json_decref(list);
    client_close(client);
    return status;
}

static int spawn_run(const struct args *args)
{
    if (!options.tag)
        options.tag = getenv("FORKD_TAG");
    if (args->count || !options.tag || !*options.tag)
        return verb_usage("forkd %s needs --tag and nothing else but options; see forkd %s --help", args->verb->name,
                          args->verb->name);
    return spawn(args, &options);
}

const struct verb verb_spawn = {
    .name = "spawn",
    .what = "fork sandboxes from a snapshot",
    .usage = "--tag TAG [-n N] [options]",
    .about = "Forks N sandboxes from a snapshot, all of them or none, and prints them.",
    .flags = flags + 1,
    .run = spawn_run,
};

const struct verb verb_fork = {
    .name = "fork",
    .what = "the same; with --settle-secs in the foreground",
    .usage = "--tag TAG [-n N] [--settle-secs N] [options]",
    .about =
        "Forks N sandboxes from a snapshot, all of them or none, and prints them. With --settle-secs it stays in the "
        "foreground and kills them at its end.",
    .flags = flags,
    .run = spawn_run,
};
