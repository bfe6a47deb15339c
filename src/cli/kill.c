/* kill.c: forkd kill. */
#include "cli/cli.h"
#include "cli/sandbox.h"

#include <stdio.h>
#include <string.h>

static const char help[] =
    "usage: forkd kill ID... | --all | --tag TAG\n"
    "\n"
    "Ends sandboxes: those named, all, or all of one snapshot. They are gone when this returns.\n";

static int kill_one(struct client *client, const char *id, json_t *killed)
{
    struct err err;
    if (sandbox_delete(client, id, &err) < 0)
        return verb_fail(&err);
    json_array_append_new(killed, json_string(id));
    return 0;
}

/* Those of a snapshot, or all where `tag` is NULL. One that ended by itself meanwhile is what was wanted. */
static int kill_many(struct client *client, const char *tag, json_t *killed)
{
    struct err err;
    json_t *list, *one;
    size_t i;
    int status = 0;
    if (client_call(client, "GET", "/v1/sandboxes", NULL, &list, &err) < 0)
        return verb_fail(&err);
    json_array_foreach(list, i, one)
    {
        if (tag && strcmp(json_text(one, "snapshot_tag"), tag) != 0)
            continue;
        if (sandbox_delete(client, json_text(one, "id"), &err) == 0)
            json_array_append_new(killed, json_string(json_text(one, "id")));
        else if (strncmp(err.text, "HTTP 404", 8) != 0)
            status = verb_fail(&err);
    }
    json_decref(list);
    return status;
}

int verb_kill(int argc, char **argv)
{
    struct err err;
    struct client *client;
    bool all = false;
    const char *tag = NULL;
    const struct arg flags[] = {{"all", 'a', ARG_FLAG, &all}, {"tag", 't', ARG_TEXT, &tag}, {0}};
    struct args args = {.flags = flags};
    int status;
    if (!verb_begin(&args, argc, argv, help, &status))
        return status;
    if ((args.count > 0) + all + (tag != NULL) != 1)
        return verb_usage("forkd kill needs ids, --all or --tag, one of them");
    if (client_open(&args, &client, &err) < 0)
        return verb_fail(&err);
    json_t *killed = json_array();
    for (int i = 0; i < args.count; i++)
        if (kill_one(client, args.rest[i], killed) != 0)
            status = EXIT_ERROR;
    if (!args.count)
        status = kill_many(client, tag, killed);
    client_close(client);
    if (args.json)
        verb_json(json_incref(killed));
    else if (!status || json_array_size(killed))
        printf("killed %zu\n", json_array_size(killed));
    json_decref(killed);
    return status;
}
