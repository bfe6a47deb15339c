/* names.c: forkd names, for completions in shells: quick, and never the one that starts a controller. */
#include "cli/cli.h"
#include "cli/images.h"
#include "cli/sandbox.h"

#include <stdio.h>
#include <string.h>

enum { PATIENCE_SECS = 5 };

static void fields_collect(const json_t *list, const char *field, json_t *names)
{
    size_t i;
    json_t *one;
    json_array_foreach(list, i, one) json_array_append_new(names, json_string(json_text(one, field)));
}

static int names_of(const struct args *args, const char *path, const char *field, json_t *names)
{
    struct err err;
    struct client *client;
    json_t *list;
    if (client_open_running(args, &client, &err) < 0)
        return verb_fail(&err);
    client_set_patience(client, PATIENCE_SECS);
    int rc = client_call_list(client, "GET", path, NULL, &list, &err);
    client_close(client);
    if (rc < 0)
        return verb_fail(&err);
    fields_collect(list, field, names);
    json_decref(list);
    return 0;
}

static int names_run(const struct args *args)
{
    json_t *names = json_array(), *images = images_list(), *one;
    size_t i;
    int status = 0;
    const char *of = args->count == 1 ? args->rest[0] : "";
    if (!strcmp(of, "tags"))
        status = names_of(args, "/v1/snapshots", "tag", names);
    else if (!strcmp(of, "sandboxes"))
        status = names_of(args, "/v1/sandboxes", "id", names);
    else if (!strcmp(of, "images"))
        fields_collect(images, "name", names);
    else
        status = verb_usage("forkd names needs one of tags, sandboxes, images");
    if (!status && args->json)
        verb_json(json_incref(names));
    else if (!status)
        json_array_foreach(names, i, one) puts(json_string_value(one));
    json_decref(images);
    json_decref(names);
    return status;
}

const struct verb verb_names = {
    .name = "names",
    .what = "the names of what there is, for completion in a shell",
    .usage = "tags\n"
             "sandboxes\n"
             "images",
    .about =
        "Prints the tags of snapshots, the ids of sandboxes or the names of guest images, one a line. No controller is "
        "started for it.",
    .run = names_run,
};
