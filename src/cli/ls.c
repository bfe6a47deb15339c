/* ls.c: forkd ls. */
#include "cli/cli.h"
#include "cli/sandbox.h"

#include <stdio.h>

static int ls_run(const struct args *args)
{
    struct err err;
    struct client *client;
    json_t *list, *one;
    size_t i;
    if (args->count)
        return verb_usage("forkd ls takes no arguments");
    if (client_open(args, &client, &err) < 0)
        return verb_fail(&err);
    int rc = client_call_list(client, "GET", "/v1/sandboxes", NULL, &list, &err);
    client_close(client);
    if (rc < 0)
        return verb_fail(&err);
    if (args->json)
        return verb_json(list);
    sandboxes_print(list);
    json_array_foreach(list, i, one)
    {
        const char *why = json_text(one, "stalled");
        if (*why)
            printf("%s is stalled: %s; make space, then: forkd resume %s\n", json_text(one, "id"), why,
                   json_text(one, "id"));
    }
    json_decref(list);
    return 0;
}

const struct verb verb_ls = {
    .name = "ls",
    .what = "list sandboxes",
    .usage = "[--json]",
    .about = "Lists the sandboxes there are, and says which stand still for want of disk space.",
    .run = ls_run,
};
