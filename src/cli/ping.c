/* ping.c: forkd ping. */
#include "cli/cli.h"
#include "cli/sandbox.h"

#include <stdio.h>

static int ping(struct client *client, const char *id, bool json)
{
    struct err err;
    json_t *answer;
    char path[256];
    snprintf(path, sizeof path, "/v1/sandboxes/%.200s/ping", id);
    if (client_call(client, "POST", path, NULL, &answer, &err) < 0)
        return verb_fail(&err);
    if (json)
        return verb_json(answer);
    printf("%s is well: agent in %s, %s interpreter%s%s\n", id, json_text(answer, "agent_lang"),
           json_is_true(json_object_get(answer, "warmup_ready")) ? "warm" : "no warm",
           *json_text(answer, "numpy_version") ? ", numpy " : "", json_text(answer, "numpy_version"));
    json_decref(answer);
    return 0;
}

static unsigned ignored;

static const struct arg flags[] = {
    {"timeout-secs", 0, ARG_NUMBER, &ignored, NULL, NULL}, /* of the original; the controller has its own deadline */
    {0},
};

static int ping_run(const struct args *args)
{
    struct err err;
    struct client *client;
    int status = 0;
    if (!args->count)
        return verb_usage("forkd ping needs a sandbox");
    if (client_open(args, &client, &err) < 0)
        return verb_fail(&err);
    for (int i = 0; i < args->count; i++)
        if (ping(client, args->rest[i], args->json) != 0)
            status = EXIT_ERROR;
    client_close(client);
    return status;
}

const struct verb verb_ping = {
    .name = "ping",
    .what = "ask a sandbox whether it is well",
    .usage = "ID... [--json]",
    .about = "Asks the agents of sandboxes whether they are well. With --json each answer is a line.",
    .flags = flags,
    .run = ping_run,
};
