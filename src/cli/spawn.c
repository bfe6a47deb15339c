/* spawn.c: forkd spawn and forkd fork.
 *
 * `fork --settle-secs S` stays in the foreground: SIGINT and SIGTERM are blocked before the first child is asked
 * for, so that no moment exists in which a signal would leave children behind. */
#include "base/clock.h"
#include "cli/cli.h"
#include "cli/progress.h"
#include "cli/sandbox.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char help[] =
    "usage: forkd spawn --tag TAG [-n N] [--memory-limit-mib N] [--json]\n"
    "       forkd fork  --tag TAG [-n N] [--memory-limit-mib N] [--settle-secs S] [--json]\n"
    "\n"
    "Forks N sandboxes (1) from a snapshot: all of them, or none.\n"
    "\n"
    "  --tag TAG             the snapshot (FORKD_TAG)\n"
    "  -n N                  how many, at most 1000\n"
    "  --memory-limit-mib N  what each may use for itself\n"
    "  --settle-secs S       stay so long, or until SIGINT or SIGTERM, then kill them (fork only)\n";

struct spawn {
    const char *tag;
    unsigned n, limit, settle;
    bool netns, ignored;
};

static json_t *body_make(const struct spawn *s)
{
    json_t *body = json_object();
    json_object_set_new(body, "snapshot_tag", json_string(s->tag));
    json_object_set_new(body, "n", json_integer(s->n));
    if (s->limit)
        json_object_set_new(body, "memory_limit_mib", json_integer(s->limit));
    if (s->netns)
        json_object_set_new(body, "per_child_netns", json_true());
    return body;
}

static void signals_await(unsigned secs, const sigset_t *ends)
{
    uint64_t deadline = clock_monotonic_ns() + secs * NS_PER_SEC, now;
    while ((now = clock_monotonic_ns()) < deadline) {
        struct timespec left = {.tv_sec = (time_t)((deadline - now) / NS_PER_SEC),
                                .tv_nsec = (long)((deadline - now) % NS_PER_SEC)};
        if (sigtimedwait(ends, NULL, &left) > 0)
            return;
    }
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
    sigset_t ends;
    char what[128];
    sigemptyset(&ends);
    sigaddset(&ends, SIGINT);
    sigaddset(&ends, SIGTERM);
    if (client_open(args, &client, &err) < 0)
        return verb_fail(&err);
    if (s->settle)
        sigprocmask(SIG_BLOCK, &ends, NULL);
    snprintf(what, sizeof what, "forking %u from %s", s->n, s->tag);
    struct progress *progress = progress_begin(what);
    int rc = client_call(client, "POST", "/v1/sandboxes", body_make(s), &list, &err);
    progress_end(progress, rc < 0 ? "failed" : NULL);
    int status = 0;
    if (rc < 0)
        status = verb_fail(&err);
    else if (args->json)
        verb_json(json_incref(list));
    else
        sandboxes_print(list);
    fflush(stdout);
    if (rc == 0 && s->settle) {
        signals_await(s->settle, &ends);
        status = children_kill(client, list);
    }
    json_decref(list);
    client_close(client);
    return status;
}

int verb_spawn(int argc, char **argv)
{
    struct spawn s = {.tag = getenv("FORKD_TAG"), .n = 1};
    const struct arg flags[] = {
        {"tag", 't', ARG_TEXT, &s.tag},
        {"n", 'n', ARG_NUMBER, &s.n},
        {"memory-limit-mib", 0, ARG_NUMBER, &s.limit},
        {"settle-secs", 0, ARG_NUMBER, &s.settle},
        {"per-child-netns", 0, ARG_FLAG, &s.netns},
        /* Wishes of the original's users that every fork here meets. */
        {"prewarm", 0, ARG_FLAG, &s.ignored},
        {"live-fork", 0, ARG_FLAG, &s.ignored},
        {"hugepages", 0, ARG_FLAG, &s.ignored},
        {0},
    };
    struct args args = {.flags = flags};
    int status;
    if (!verb_begin(&args, argc, argv, help, &status))
        return status;
    if (args.count || !s.tag || !*s.tag)
        return verb_usage("forkd %s needs --tag and nothing else but options; see forkd %s --help", argv[0], argv[0]);
    if (s.settle && strcmp(argv[0], "fork") != 0)
        return verb_usage("--settle-secs is for forkd fork");
    return spawn(&args, &s);
}
