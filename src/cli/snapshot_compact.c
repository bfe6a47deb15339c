/* snapshot_compact.c: forkd snapshot-compact. */
#include "cli/cli.h"
#include "cli/making.h"

#include <stdio.h>

static const char *from, *to;

static const struct arg flags[] = {
    {"from", 0, ARG_TEXT, &from, "TAG", "the snapshot that may be a diff to others"},
    {"to", 0, ARG_TEXT, &to, "TAG", "the new one's name"},
    {0},
};

static int compact_run(const struct args *args)
{
    struct err err;
    struct client *client;
    json_t *made = NULL;
    if (!from || !to || args->count)
        return verb_usage("forkd snapshot-compact needs --from TAG and --to TAG");
    if (client_open(args, &client, &err) < 0)
        return verb_fail(&err);
    struct making making = {.tag = to};
    making_begin(&making, args, "writing the snapshot");
    int rc =
        client_call_named(client, "POST", "/v1/snapshots/*/compact", from, json_pack("{s:s}", "to", to), &made, &err);
    making_end(&making, rc < 0 ? "failed" : NULL);
    client_close(client);
    if (rc < 0)
        return verb_fail(&err);
    if (args->json)
        return verb_json(made);
    printf("snapshot %s has all of %s and needs no other\n", to, from);
    json_decref(made);
    return 0;
}

const struct verb verb_snapshot_compact = {
    .name = "snapshot-compact",
    .what = "write a snapshot whole, under another tag",
    .usage = "--from TAG --to TAG [--json]",
    .about = "A diff needs its parents on the disk. This writes all that it stands for into one snapshot that needs "
             "none, so "
             "that they can be deleted.",
    .flags = flags,
    .run = compact_run,
};
