/* resume.c: forkd resume. */
#include "cli/cli.h"

#include <stdio.h>

static int resume_run(const struct args *args)
{
    struct err err;
    struct client *client;
    int status = 0;
    if (!args->count)
        return verb_usage("forkd resume needs a sandbox");
    if (client_open(args, &client, &err) < 0)
        return verb_fail(&err);
    json_t *resumed = json_array();
    for (int i = 0; i < args->count; i++) {
        if (client_call_named(client, "POST", "/v1/sandboxes/*/resume", args->rest[i], NULL, NULL, &err) < 0)
            status = verb_fail(&err);
        else if (args->json)
            json_array_append_new(resumed, json_string(args->rest[i]));
        else
            printf("%s runs on\n", args->rest[i]);
    }
    client_close(client);
    if (args->json)
        verb_json(json_incref(resumed));
    json_decref(resumed);
    return status;
}

const struct verb verb_resume = {
    .name = "resume",
    .what = "let sandboxes run on that waited for disk space",
    .usage = "ID... [--json]",
    .about = "Lets sandboxes run on that stand still because the host's disk was full.",
    .run = resume_run,
};
