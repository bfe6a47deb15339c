/* rmi.c: forkd rmi. */
#include "cli/cli.h"

#include <stdio.h>

static const char help[] = "usage: forkd rmi TAG... [--cascade | --force]\n"
                           "\n"
                           "Deletes snapshots. Sandboxes that were forked from them go on.\n"
                           "\n"
                           "  --cascade   and what depends on them\n"
                           "  --force     though something depends on them\n";

int verb_rmi(int argc, char **argv)
{
    struct err err;
    struct client *client;
    bool cascade = false, force = false;
    const struct arg flags[] = {{"cascade", 0, ARG_FLAG, &cascade}, {"force", 'f', ARG_FLAG, &force}, {0}};
    struct args args = {.flags = flags};
    int status;
    if (!verb_begin(&args, argc, argv, help, &status))
        return status;
    if (!args.count || (cascade && force))
        return verb_usage("forkd rmi needs tags, and one of --cascade and --force at most");
    if (client_open(&args, &client, &err) < 0)
        return verb_fail(&err);
    for (int i = 0; i < args.count; i++) {
        char path[256];
        snprintf(path, sizeof path, "/v1/snapshots/%.160s%s", args.rest[i],
                 cascade ? "?cascade=true"
                 : force ? "?force=true"
                         : "");
        if (client_call(client, "DELETE", path, NULL, NULL, &err) < 0)
            status = verb_fail(&err);
        else if (!args.json)
            printf("deleted %s\n", args.rest[i]);
    }
    client_close(client);
    return status;
}
