/* workspace.c: forkd workspace. */
#include "cli/cli.h"
#include "cli/making.h"
#include "cli/sandbox.h"
#include "cli/table.h"

#include <stdio.h>
#include <string.h>

static struct {
    const char *tag;
    unsigned limit;
    bool diff, netns;
} options = {.limit = ARG_NOT_GIVEN};

static const struct arg flags[] = {
    {"tag", 't', ARG_TEXT, &options.tag, "TAG", "the snapshot to begin with (create)"},
    {"memory-limit-mib", 0, ARG_NUMBER, &options.limit, "N", "what its sandboxes may use for themselves (create)"},
    {"diff", 0, ARG_FLAG, &options.diff, NULL, "write only what differs from its snapshot (the first suspend)"},
    {"per-child-netns", 0, ARG_FLAG, &options.netns, NULL, NULL},
    {0},
};

static void workspaces_print(const json_t *list)
{
    static const char *const headings[] = {"WORKSPACE", "STATUS", "SANDBOX", "STATE", "FROM", ">ACTIVE", NULL};
    struct table *table = table_new(headings);
    size_t i;
    json_t *one;
    json_array_foreach(list, i, one)
    {
        char age[24];
        age_text(json_integer_value(json_object_get(one, "last_active_unix")), age, sizeof age);
        const char *cells[] = {json_text(one, "name"),
                               json_text(one, "status"),
                               json_text(one, "live_sandbox_id"),
                               json_text(one, "current_state_tag"),
                               json_text(one, "source_snapshot_tag"),
                               age};
        table_row(table, cells);
    }
    table_print(table);
}

static void print_one(const json_t *workspace)
{
    const char *name = json_text(workspace, "name"), *sandbox = json_text(workspace, "live_sandbox_id");
    if (*sandbox)
        printf("workspace %s runs in %s\n", name, sandbox);
    else
        printf("workspace %s is %s as %s; take it up with: forkd workspace resume %s\n", name,
               json_text(workspace, "status"), json_text(workspace, "current_state_tag"), name);
}

/* One request, and what came of it. */
static int ask(const struct args *args, const char *method, const char *path, const char *name, json_t *body,
               const char *what)
{
    struct err err;
    struct client *client;
    json_t *answer = NULL;
    if (client_open(args, &client, &err) < 0) {
        json_decref(body);
        return verb_fail(&err);
    }
    struct making making = {.workspace = args->count > 1 ? args->rest[1] : ""};
    making_begin(&making, args, what);
    int rc = name ? client_call_named(client, method, path, name, body, &answer, &err)
                  : client_call(client, method, path, body, &answer, &err);
    making_end(&making, rc < 0 ? "failed" : NULL);
    client_close(client);
    if (rc < 0)
        return verb_fail(&err);
    /* Only the answer to a deletion is empty. */
    if (args->json)
        return verb_json(answer ? answer : json_pack("{s:s}", "deleted", args->rest[1]));
    if (json_is_array(answer))
        workspaces_print(answer);
    else if (answer)
        print_one(answer);
    else
        puts(what);
    json_decref(answer);
    return 0;
}

static int create(const struct args *args, const char *name)
{
    char what[128];
    if (!options.tag)
        return verb_usage("forkd workspace create needs --tag, the snapshot to begin with");
    json_t *body = json_pack("{s:s, s:s}", "name", name, "snapshot_tag", options.tag);
    if (options.limit != ARG_NOT_GIVEN)
        json_object_set_new(body, "memory_limit_mib", json_integer(options.limit));
    if (options.netns)
        json_object_set_new(body, "per_child_netns", json_true());
    snprintf(what, sizeof what, "creating workspace %.64s", name);
    return ask(args, "POST", "/v1/workspaces", NULL, body, what);
}

static int act(const struct args *args, const char *deed, const char *name)
{
    char path[64], what[128];
    bool suspends = !strcmp(deed, "suspend");
    if (!strcmp(deed, "delete")) {
        snprintf(what, sizeof what, "deleted workspace %.64s", name);
        return ask(args, "DELETE", "/v1/workspaces/*", name, NULL, what);
    }
    snprintf(path, sizeof path, "/v1/workspaces/*/%s", deed);
    snprintf(what, sizeof what, "%s workspace %.64s", suspends ? "suspending" : "resuming", name);
    return ask(args, "POST", path, name, suspends && options.diff ? json_pack("{s:b}", "diff", 1) : json_object(),
               what);
}

static int workspace_run(const struct args *args)
{
    const char *deed = args->count ? args->rest[0] : "list", *name = args->count > 1 ? args->rest[1] : NULL;
    if (!strcmp(deed, "list") && args->count <= 1)
        return ask(args, "GET", "/v1/workspaces", NULL, NULL, "listing workspaces");
    if (args->count == 2 && !strcmp(deed, "create"))
        return create(args, name);
    if (args->count == 2 && (!strcmp(deed, "suspend") || !strcmp(deed, "resume") || !strcmp(deed, "delete")))
        return act(args, deed, name);
    return verb_usage("forkd workspace needs create, suspend, resume or delete and a name, or list; see forkd "
                      "workspace --help");
}

const struct verb verb_workspace = {
    .name = "workspace",
    .what = "a sandbox with a name, put away and taken up again",
    .usage = "create NAME --tag TAG [--memory-limit-mib N]\n"
             "suspend NAME\n"
             "resume NAME\n"
             "delete NAME\n"
             "[list]",
    .about =
        "A workspace begins as a sandbox of a snapshot. suspend makes a snapshot of it and ends the sandbox; resume "
        "forks a sandbox of that snapshot, which goes on where the other was. delete ends and deletes all of it.",
    .flags = flags,
    .run = workspace_run,
};
