/* eval.c: forkd eval. */
#include "cli/cli.h"
#include "cli/sandbox.h"

#include <stdio.h>

static void print(FILE *to, const json_t *answer, const char *name)
{
    const json_t *text = json_object_get(answer, name);
    if (json_is_string(text))
        fwrite(json_string_value(text), 1, json_string_length(text), to);
}

/* A repr has no line end of its own, a traceback has one. */
static void print_line(FILE *to, const json_t *answer, const char *name)
{
    const json_t *text = json_object_get(answer, name);
    size_t len = json_string_length(text);
    print(to, answer, name);
    if (json_is_string(text) && (!len || json_string_value(text)[len - 1] != '\n'))
        fputc('\n', to);
}

static unsigned timeout = ARG_NOT_GIVEN;

static const struct arg flags[] = {
    {"timeout-secs", 0, ARG_NUMBER, &timeout, "N", "after which it is interrupted (30)"},
    {0},
};

static int eval_run(const struct args *args)
{
    json_t *answer;
    if (args->count != 2)
        return verb_usage("forkd eval needs a sandbox and code, as one argument; see forkd eval --help");
    json_t *body = json_object();
    json_object_set_new(body, "code", json_string(args->rest[1]));
    if (timeout != ARG_NOT_GIVEN)
        json_object_set_new(body, "timeout_secs", json_integer(timeout));
    int failed = sandbox_ask(args, "eval", body, &answer);
    if (failed)
        return failed;
    int status = sandbox_exit_status(answer);
    if (args->json) {
        verb_json(answer);
        return status;
    }
    print(stdout, answer, "stdout");
    print_line(stdout, answer, "result");
    fflush(stdout);
    print(stderr, answer, "stderr");
    print_line(stderr, answer, "error");
    json_decref(answer);
    return status;
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
