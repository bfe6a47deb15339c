/* ls.c: forkd ls. */
#include "cli/cli.h"
#include "cli/sandbox.h"

static const char help[] = "usage: forkd ls [--json]\n\nLists the sandboxes that are running.\n";

int verb_ls(int argc, char **argv)
{
    struct err err;
    struct client *client;
    json_t *list;
    struct args args = {0};
    int status;
    if (!verb_begin(&args, argc, argv, help, &status))
        return status;
    if (args.count)
        return verb_usage("forkd ls takes no arguments");
    if (client_open(&args, &client, &err) < 0)
        return verb_fail(&err);
    int rc = client_call(client, "GET", "/v1/sandboxes", NULL, &list, &err);
    client_close(client);
    if (rc < 0)
        return verb_fail(&err);
    if (args.json)
        return verb_json(list);
    sandboxes_print(list);
    json_decref(list);
    return 0;
}
