/* ping.c: forkd ping. */
#include "cli/cli.h"
#include "cli/sandbox.h"

#include <stdio.h>

static const char help[] = "usage: forkd ping ID... [--json]\n\nAsks the agents of sandboxes whether they are well.\n";

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

int verb_ping(int argc, char **argv)
{
    struct err err;
    struct client *client;
    unsigned timeout;
    const struct arg flags[] = {{"timeout-secs", 0, ARG_NUMBER, &timeout}, {0}};
    struct args args = {.flags = flags};
    int status;
    if (!verb_begin(&args, argc, argv, help, &status))
        return status;
    if (!args.count)
        return verb_usage("forkd ping needs a sandbox");
    if (client_open(&args, &client, &err) < 0)
        return verb_fail(&err);
    for (int i = 0; i < args.count; i++)
        if (ping(client, args.rest[i], args.json) != 0)
            status = EXIT_ERROR;
    client_close(client);
    return status;
}
