/* stop.c: forkd stop. */
#include "cli/cli.h"
#include "cli/private.h"
#include "cli/progress.h"

#include <stdio.h>

static const char help[] =
    "usage: forkd stop [--keep]\n"
    "\n"
    "Ends all sandboxes, deletes all snapshots and ends the controller of your own, so that nothing is left.\n"
    "\n"
    "  --keep   end the controller alone; the next command starts one that takes over what lives\n";

int verb_stop(int argc, char **argv)
{
    struct err err;
    struct client *client;
    bool keep = false;
    const struct arg flags[] = {{"keep", 0, ARG_FLAG, &keep}, {0}};
    struct args args = {.flags = flags};
    int status;
    if (!verb_begin(&args, argc, argv, help, &status))
        return status;
    if (args.count)
        return verb_usage("forkd stop takes no arguments");
    if (client_open(&args, &client, &err) < 0)
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
    if (!args.json)
        puts(keep ? "the controller ended; sandboxes live on" : "everything ended");
    return 0;
}
