/* kill.c: forkd kill. */
#include "cli/cli.h"
#include "cli/progress.h"
#include "cli/sandbox.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

static bool all;
static const char *tag;

static const struct arg flags[] = {
    {"all", 'a', ARG_FLAG, &all, NULL, "all there are"},
    {"tag", 't', ARG_TEXT, &tag, "TAG", "all of one snapshot"},
    {0},
};

static int kill_one(struct client *client, const char *id, json_t *killed)
{
    struct err err;
    if (sandbox_delete(client, id, &err) < 0)
        return verb_fail(&err);
    json_array_append_new(killed, json_string(id));
    return 0;
}

/* Those of --tag, or all. One that ended by itself meanwhile is what was wanted. */
static int kill_many(struct client *client, json_t *killed)
{
    struct err err;
    json_t *list, *one;
    size_t i;
    int status = 0;
    if (client_call_list(client, "GET", "/v1/sandboxes", NULL, &list, &err) < 0)
        return verb_fail(&err);
    json_array_foreach(list, i, one)
    {
        if (tag && strcmp(json_text(one, "snapshot_tag"), tag) != 0)
            continue;
        if (sandbox_delete(client, json_text(one, "id"), &err) == 0)
            json_array_append_new(killed, json_string(json_text(one, "id")));
        else if (strncmp(err.text, "HTTP 404", 8) != 0)
            status = verb_fail(&err);
        if (status && err.code == EIO) /* nobody is there any more: the others need not be told so */
            break;
    }
    json_decref(list);
    return status;
}

static int kill_run(const struct args *args)
{
    struct err err;
    struct client *client;
    int status = 0;
    if ((args->count > 0) + all + (tag != NULL) != 1)
        return verb_usage("forkd kill needs ids, --all or --tag, one of them");
    if (client_open(args, &client, &err) < 0)
        return verb_fail(&err);
    json_t *killed = json_array();
    struct progress *progress = progress_begin("killing");
    for (int i = 0; i < args->count; i++)
        if (kill_one(client, args->rest[i], killed) != 0)
            status = EXIT_ERROR;
    if (!args->count)
        status = kill_many(client, killed);
    progress_end(progress, NULL);
    client_close(client);
    if (args->json)
        verb_json(json_incref(killed));
    else if (!status || json_array_size(killed))
        printf("killed %zu\n", json_array_size(killed));
    json_decref(killed);
    return status;
}

const struct verb verb_kill = {
    .name = "kill",
    .what = "end sandboxes",
    .usage = "ID... | --all | --tag TAG",
    .about = "Ends sandboxes: those named, all, or all of one snapshot. They are gone when this returns.",
    .flags = flags,
    .run = kill_run,
};
