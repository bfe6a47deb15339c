/* ping.c: forkd ping. */
#include "base/own.h"
#include "cli/cli.h"
#include "cli/defuse.h"
#include "cli/sandbox.h"

#include <stdio.h>
#include <string.h>

static int ping(struct client *client, const char *id, bool json)
{
    struct err err;
    json_t *answer;
    if (client_call_named(client, "POST", "/v1/sandboxes/*/ping", id, NULL, &answer, &err) < 0)
        return verb_fail(&err);
    if (json)
        return verb_json(answer);
    own_free char *lang = strdup(json_text(answer, "agent_lang")), *numpy = strdup(json_text(answer, "numpy_version"));
    if (lang && numpy)
        printf("%s is well: agent in %s, %s interpreter%s%s\n", id, text_defuse(lang),
               json_is_true(json_object_get(answer, "warmup_ready")) ? "warm" : "no warm", *numpy ? ", numpy " : "",
               text_defuse(numpy));
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
