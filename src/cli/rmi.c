/* rmi.c: forkd rmi. */
#include "cli/cli.h"

#include <stdio.h>

static bool cascade, force;

static const struct arg flags[] = {
    {"cascade", 0, ARG_FLAG, &cascade, NULL, "and what depends on them"},
    {"force", 'f', ARG_FLAG, &force, NULL, "though something depends on them"},
    {0},
};

static int rmi_run(const struct args *args)
{
    struct err err;
    struct client *client;
    int status = 0;
    if (!args->count || (cascade && force))
        return verb_usage("forkd rmi needs tags, and one of --cascade and --force at most");
    if (client_open(args, &client, &err) < 0)
        return verb_fail(&err);
    const char *path = cascade ? "/v1/snapshots/*?cascade=true"
                       : force ? "/v1/snapshots/*?force=true"
                               : "/v1/snapshots/*";
    json_t *deleted = json_array();
    for (int i = 0; i < args->count; i++) {
        if (client_call_named(client, "DELETE", path, args->rest[i], NULL, NULL, &err) < 0)
            status = verb_fail(&err);
        else if (args->json)
            json_array_append_new(deleted, json_string(args->rest[i]));
        else
            printf("deleted %s\n", args->rest[i]);
    }
    client_close(client);
    if (args->json)
        verb_json(json_incref(deleted));
    json_decref(deleted);
    return status;
}

const struct verb verb_rmi = {
    .name = "rmi",
    .what = "delete snapshots",
    .usage = "TAG... [--cascade | --force]",
    .about = "Deletes snapshots. Sandboxes that were forked from them go on.",
    .flags = flags,
    .run = rmi_run,
};
