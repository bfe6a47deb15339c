/* eval.c: forkd eval. */
#include "cli/cli.h"
#include "cli/sandbox.h"

#include <stdio.h>

static void print(FILE *to, const json_t *answer, const char *name, const char *end)
{
    const json_t *text = json_object_get(answer, name);
    if (!json_is_string(text))
        return;
    fwrite(json_string_value(text), 1, json_string_length(text), to);
    fputs(end, to);
}

static unsigned timeout = ARG_NOT_GIVEN;

static const struct arg flags[] = {
    {"timeout-secs", 0, ARG_NUMBER, &timeout, "N", "after which it is interrupted (30)"},
    {0},
};

static int eval_run(const struct args *args)
{
    struct err err;
    struct client *client;
    json_t *answer;
    char path[256];
    if (args->count != 2)
        return verb_usage("forkd eval needs a sandbox and code, as one argument; see forkd eval --help");
    json_t *body = json_object();
    json_object_set_new(body, "code", json_string(args->rest[1]));
    if (timeout != ARG_NOT_GIVEN)
        json_object_set_new(body, "timeout_secs", json_integer(timeout));
    snprintf(path, sizeof path, "/v1/sandboxes/%.200s/eval", args->rest[0]);
    if (client_open(args, &client, &err) < 0) {
        json_decref(body);
        return verb_fail(&err);
    }
    int rc = client_call(client, "POST", path, body, &answer, &err);
    client_close(client);
    if (rc < 0)
        return verb_fail(&err);
    long long code = json_integer_value(json_object_get(answer, "exit_code"));
    if (args->json)
        return verb_json(answer), (int)(code < 0 ? 128 - code : code);
    print(stdout, answer, "stdout", "");
    print(stdout, answer, "result", "\n");
    fflush(stdout);
    print(stderr, answer, "stderr", "");
    print(stderr, answer, "error", "\n");
    json_decref(answer);
    return (int)(code < 0 ? 128 - code : code);
}

const struct verb verb_eval = {
    .name = "eval",
    .what = "evaluate code in a sandbox's warm interpreter",
    .usage = "ID [options] [--] CODE",
    .about = "Evaluates Python code in the sandbox's warm interpreter, and prints what it printed and the repr of its "
             "value. The exit status is 0, or 1 after an exception, whose traceback goes to standard error.",
    .flags = flags,
    .run = eval_run,
};
