/* rmi.c: forkd rmi. */
#include "cli/cli.h"

static bool cascade, force;

static const struct arg flags[] = {
    {"cascade", 0, ARG_FLAG, &cascade, NULL, "and what depends on them"},
    {"force", 'f', ARG_FLAG, &force, NULL, "though something depends on them"},
    {0},
};

static int rmi_run(const struct args *args)
{
    if (!args->count || (cascade && force))
        return verb_usage("forkd rmi needs tags, and one of --cascade and --force at most");
    const char *path = cascade ? "/v1/snapshots/*?cascade=true"
                       : force ? "/v1/snapshots/*?force=true"
                               : "/v1/snapshots/*";
    return verb_each(args, "DELETE", path, "deleted ", "");
}

const struct verb verb_rmi = {
    .name = "rmi",
    .what = "delete snapshots",
    .usage = "TAG... [--cascade | --force]",
    .about = "Deletes snapshots. Sandboxes that were forked from them go on.",
    .flags = flags,
    .run = rmi_run,
};
