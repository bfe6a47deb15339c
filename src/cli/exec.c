/* exec.c: forkd exec. */
#include "cli/cli.h"
#include "cli/sandbox.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { STDIN_MAX = 1 << 20 };

static int stdin_read(json_t *body)
{
    char *text = malloc(STDIN_MAX + 1);
    size_t len = 0;
    for (ssize_t n = 1; text && n > 0 && len <= STDIN_MAX; len += n > 0 ? (size_t)n : 0)
        n = read(STDIN_FILENO, text + len, STDIN_MAX + 1 - len);
    int status = 0;
    if (!text || len > STDIN_MAX)
        status = verb_usage("standard input is longer than %d bytes", STDIN_MAX);
    else if (json_object_set_new(body, "stdin", json_stringn(text, len)) < 0)
        status = verb_usage("standard input is no UTF-8 text");
    free(text);
    return status;
}

static int env_set(json_t *body, const struct arg_texts *env)
{
    json_t *object = json_object();
    json_object_set_new(body, "env", object);
    for (unsigned i = 0; i < env->count; i++) {
        const char *equals = strchr(env->at[i], '=');
        if (!equals || equals == env->at[i])
            return verb_usage("--env needs NAME=VALUE, not %s", env->at[i]);
        char *name = strndup(env->at[i], (size_t)(equals - env->at[i]));
        json_object_set_new(object, name, json_string(equals + 1));
        free(name);
    }
    return 0;
}

static void print(FILE *to, const json_t *answer, const char *name)
{
    const json_t *text = json_object_get(answer, name);
    if (json_is_string(text))
        fwrite(json_string_value(text), 1, json_string_length(text), to);
}

static int call(const struct args *args, json_t *body)
{
    json_t *answer;
    int failed = sandbox_ask(args, "exec", body, &answer);
    if (failed)
        return failed;
    int status = sandbox_exit_status(answer);
    if (args->json) {
        verb_json(answer);
    } else {
        print(stdout, answer, "stdout");
        fflush(stdout);
        print(stderr, answer, "stderr");
        if (json_is_true(json_object_get(answer, "timed_out")))
            fputs("forkd: the command was killed: it ran out of time\n", stderr);
        if (json_is_true(json_object_get(answer, "stdout_truncated")) ||
            json_is_true(json_object_get(answer, "stderr_truncated")))
            fputs("forkd: its output was cut\n", stderr);
        json_decref(answer);
    }
    return status;
}

static struct {
    unsigned timeout;
    struct arg_texts env;
    const char *cwd;
    bool input;
} options = {.timeout = ARG_NOT_GIVEN};

static const struct arg flags[] = {
    {"timeout-secs", 0, ARG_NUMBER, &options.timeout, "N", "after which it is killed, status 124 (30)"},
    {"env", 'e', ARG_TEXTS, &options.env, "NAME=VALUE", "a variable of its environment"},
    {"cwd", 0, ARG_TEXT, &options.cwd, "DIR-THERE", "where it starts (/)"},
    {"stdin", 'i', ARG_FLAG, &options.input, NULL, "pass on standard input, at most 1 MiB of text"},
    {0},
};

static int exec_run(const struct args *args)
{
    if (args->count < 2)
        return verb_usage("forkd exec needs a sandbox and a command; see forkd exec --help");
    json_t *body = json_object(), *list = json_array();
    for (int i = 1; i < args->count; i++)
        json_array_append_new(list, json_string(args->rest[i]));
    json_object_set_new(body, "args", list);
    if (options.timeout != ARG_NOT_GIVEN)
        json_object_set_new(body, "timeout_secs", json_integer(options.timeout));
    if (options.cwd)
        json_object_set_new(body, "cwd", json_string(options.cwd));
    int status = options.env.count ? env_set(body, &options.env) : 0;
    if (status == 0 && options.input)
        status = stdin_read(body);
    if (status) {
        json_decref(body);
        return status;
    }
    return call(args, body);
}

const struct verb verb_exec = {
    .name = "exec",
    .what = "run a command in a sandbox",
    .usage = "ID [options] [--] COMMAND [ARGUMENT...]",
    .about =
        "Runs a command in a sandbox. The exit status is the command's, 128 + N when signal N ended it, 127 when it is "
        "not there and 124 when its time was over.",
    .flags = flags,
    .flags_end_after = 1,
    .run = exec_run,
};
