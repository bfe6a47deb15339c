/* stop.c: forkd stop. */
#include "cli/cli.h"
#include "cli/private.h"
#include "cli/progress.h"
#include "cli/sandbox.h"

#include <stdio.h>

static const char help[] =
    "usage: forkd stop [--keep]\n"
    "\n"
    "Ends all sandboxes, deletes all snapshots and ends the controller of your own, so that nothing is left.\n"
    "\n"
    "  --keep   end the controller alone; the next command starts one that takes over what lives\n";

/* Deletes everything in a list, each under `stem` and its field `key`. */
static int delete_all(struct client *client, const char *list_path, const char *key, struct err *err)
{
    json_t *list, *one;
    size_t i;
    int rc = client_call(client, "GET", list_path, NULL, &list, err);
    if (rc < 0)
        return rc;
    json_array_foreach(list, i, one)
    {
        char path[256];
        snprintf(path, sizeof path, "%s/%s", list_path, json_text(one, key));
        if (client_call(client, "DELETE", path, NULL, NULL, err) < 0)
            rc = -err->code;
    }
    json_decref(list);
    return rc;
}

static int end_everything(struct client *client, struct err *err)
{
    int rc = delete_all(client, "/v1/sandboxes", "id", err);
    return rc < 0 ? rc : delete_all(client, "/v1/snapshots", "tag", err);
}

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
    if (!client_is_private(client)) {
        client_close(client);
        return verb_usage("forkd stop ends the controller of your own; this one was started by somebody else");
    }
    struct progress *progress = progress_begin("ending");
    int rc = keep ? 0 : end_everything(client, &err);
    client_close(client);
    if (rc == 0)
        rc = private_stop(&err);
    progress_end(progress, NULL);
    if (rc < 0)
        return verb_fail(&err);
    if (!args.json)
        puts(keep ? "the controller ended; sandboxes live on" : "everything ended");
    return 0;
}
