/* stop.c: forkd stop. */
#include "cli/cli.h"
#include "cli/private.h"
#include "cli/progress.h"

#include <stdio.h>

static bool keep;

static const struct arg flags[] = {
    {"keep", 0, ARG_FLAG, &keep, NULL,
     "end the controller alone; the next command starts one that takes over what lives"},
    {0},
};

static int stop_run(const struct args *args)
{
    struct err err;
    struct client *client;
    if (args->count)
        return verb_usage("forkd stop takes no arguments");
    if (client_open(args, &client, &err) < 0)
        return verb_fail(&err);
    /* One was started if none ran: what an earlier one left can be ended by a controller only. */
    if (!client_is_private(client)) {
        client_close(client);
        return verb_usage("forkd stop ends the controller of your own; this one was started by somebody else");
    }
    struct progress *progress = progress_begin("ending");
    client_close(client);
    int rc = private_stop(!keep, &err);
    progress_end(progress, NULL);
    if (rc < 0)
        return verb_fail(&err);
    if (args->json)
        return verb_json(json_pack("{s:b, s:b}", "ended", true, "sandboxes_kept", keep));
    puts(keep ? "the controller ended; sandboxes live on" : "everything ended");
    return 0;
}

const struct verb verb_stop = {
    .name = "stop",
    .what = "end everything, and the controller of your own",
    .usage = "[--keep]",
    .about = "Ends all sandboxes and templates and the controller of your own, so that no process is left. Snapshots "
             "on the disk stay, and are loaded by the first spawn of each.",
    .flags = flags,
    .run = stop_run,
};
