/* where.c: forkd where. */
#include "base/own.h"
#include "cli/cli.h"
#include "cli/private.h"
#include "cli/table.h"
#include "proto/places.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void set_program(json_t *object, const char *name, const char *file)
{
    char path[PATH_MAX];
    own_free char *real = program_find(file, path, sizeof path, NULL) == 0 ? realpath(path, NULL) : NULL;
    json_object_set_new(object, name, real ? json_string(real) : json_null());
}

static json_t *places(const struct args *args)
{
    json_t *object = json_object();
    char path[PATH_MAX], own[PRIVATE_URL_MAX];
    const char *url = args->url ? args->url : getenv("FORKD_URL"), *root = getenv("FORKD_SNAPSHOT_ROOT");
    struct client *client;
    if (url && *url) {
        json_object_set_new(object, "controller", json_string(url));
    } else if (client_open_running(args, &client, NULL) == 0) {
        bool is_own = client_is_private(client) && private_url(own, NULL) == 0;
        json_object_set_new(object, "controller", json_string(is_own ? own : "http://" PLACE_ADDRESS));
        client_close(client);
    } else {
        json_object_set_new(object, "controller", json_null());
    }
    private_snapshots(path, sizeof path);
    json_object_set_new(object, "snapshots", json_string(root && *root ? root : path));
    place_images(path, sizeof path);
    json_object_set_new(object, "guest_images", json_string(path));
    set_program(object, "forkd_controller", "forkd-controller");
    set_program(object, "forkd_vmm", "forkd-vmm");
    set_program(object, "image_builder", "guest/images/build");
    set_program(object, "lab", "lab/run");
    return object;
}

static int where_run(const struct args *args)
{
    static const char *const headings[] = {"WHAT", "WHERE", NULL};
    const char *name;
    json_t *value;
    if (args->count)
        return verb_usage("forkd where takes no arguments");
    json_t *object = places(args);
    if (args->json)
        return verb_json(object);
    struct table *table = table_new(headings);
    json_object_foreach(object, name, value)
    {
        const char *cells[] = {name, json_is_string(value) ? json_string_value(value) : "(none)"};
        table_row(table, cells);
    }
    table_print(table);
    json_decref(object);
    return 0;
}

const struct verb verb_where = {
    .name = "where",
    .what = "where things are: controller, directories, programs",
    .usage = "[--json]",
    .about =
        "Prints the address of the controller that runs, the directories of snapshots (of the controller of your own) "
        "and of guest images, and the programs that forkd runs.",
    .run = where_run,
};
