/* version.c: forkd version. */
#include "cli/cli.h"
#include "cli/sandbox.h"

#include <stdio.h>

enum { PATIENCE_SECS = 5 };

static int version_run(const struct args *args)
{
    struct client *client;
    json_t *answer = NULL;
    /* Asked where it runs; for this alone none is started. */
    if (client_open_running(args, &client, NULL) == 0) {
        client_set_patience(client, PATIENCE_SECS);
        if (client_call(client, "GET", "/version", NULL, &answer, NULL) < 0)
            answer = NULL;
        client_close(client);
    }
    if (args->json) {
        json_t *object = json_pack("{s:s}", "version", FORKD_VERSION);
        json_object_set(object, "controller", answer ? answer : json_null());
        verb_json(object);
    } else {
        puts("forkd " FORKD_VERSION);
        if (answer)
            printf("controller %s, API %s\n", json_text(answer, "version"), json_text(answer, "api"));
    }
    json_decref(answer);
    return 0;
}

const struct verb verb_version = {
    .name = "version",
    .what = "versions of forkd and its controller",
    .usage = "[--json]",
    .about = "Prints the versions of forkd and, where one runs, of its controller.",
    .run = version_run,
};
