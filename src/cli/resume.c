/* resume.c: forkd resume. */
#include "cli/cli.h"

#include <stdio.h>

static const char help[] = "usage: forkd resume ID...\n"
                           "\n"
                           "Lets sandboxes run on that stand still because the host's disk was full.\n";

int verb_resume(int argc, char **argv)
{
    struct err err;
    struct client *client;
    struct args args = {0};
    int status;
    if (!verb_begin(&args, argc, argv, help, &status))
        return status;
    if (!args.count)
        return verb_usage("forkd resume needs a sandbox");
    if (client_open(&args, &client, &err) < 0)
        return verb_fail(&err);
    for (int i = 0; i < args.count; i++) {
        char path[256];
        snprintf(path, sizeof path, "/v1/sandboxes/%.200s/resume", args.rest[i]);
        if (client_call(client, "POST", path, NULL, NULL, &err) < 0)
            status = verb_fail(&err);
        else if (!args.json)
            printf("%s runs on\n", args.rest[i]);
    }
    client_close(client);
    return status;
}
