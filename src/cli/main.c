/* main.c: forkd, the command line. One file per verb; each speaks HTTP to a controller (client.h). */
#include "cli/cli.h"
#include "cli/defuse.h"
#include "cli/help.h"

#include <curl/curl.h>
#include <errno.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* In the order of --help; one a line. */
static const struct verb *const verbs[] = {
    /* clang-format off */
    &verb_quickstart,
    &verb_doctor,
    &verb_images,
    &verb_snapshot,
    &verb_spawn,
    &verb_fork,
    &verb_branch,
    &verb_ls,
    &verb_tree,
    &verb_top,
    &verb_exec,
    &verb_eval,
    &verb_cp,
    &verb_ping,
    &verb_kill,
    &verb_resume,
    &verb_rmi,
    &verb_snapshot_info, &verb_snapshot_diff, &verb_snapshot_compact,
    &verb_workspace,
    &verb_stop,
    &verb_cleanup,
    &verb_where,
    &verb_bench,
    &verb_version,
    &verb_names,
    NULL,
    /* clang-format on */
};

int verb_fail(const struct err *err)
{
    char text[sizeof err->text];
    memcpy(text, err->text, sizeof text);
    fflush(stdout);
    fprintf(stderr, "forkd: %s\n", text_defuse(text));
    return EXIT_ERROR;
}

int verb_usage(const char *fmt, ...)
{
    va_list args;
    fputs("forkd: ", stderr);
    va_start(args, fmt);
    vfprintf(stderr, fmt, args);
    va_end(args);
    fputc('\n', stderr);
    return EXIT_USAGE;
}

int verb_json(json_t *json)
{
    json_dumpf(json, stdout, JSON_COMPACT | JSON_ENCODE_ANY);
    putchar('\n');
    json_decref(json);
    return 0;
}

int verb_each(const struct args *args, const char *method, const char *path, const char *before, const char *after)
{
    struct err err;
    struct client *client;
    int status = 0;
    if (client_open(args, &client, &err) < 0)
        return verb_fail(&err);
    json_t *done = json_array();
    for (int i = 0; i < args->count; i++) {
        if (client_call_named(client, method, path, args->rest[i], NULL, NULL, &err) < 0)
            status = verb_fail(&err);
        else if (args->json)
            json_array_append_new(done, json_string(args->rest[i]));
        else
            printf("%s%s%s\n", before, args->rest[i], after);
    }
    client_close(client);
    if (args->json)
        verb_json(json_incref(done));
    json_decref(done);
    return status;
}

static int verb_run(const struct verb *verb, int argc, char **argv)
{
    struct args args = {.verb = verb};
    struct err err;
    if (args_parse(&args, argc, argv, &err) < 0)
        return verb_usage("%s; see forkd %s --help", err.text, verb->name);
    if (args.help) {
        help_verb(verb);
        return 0;
    }
    return verb->run(&args);
}

static int run(int argc, char **argv)
{
    for (const struct verb *const *verb = verbs; *verb; verb++)
        if (!strcmp(argv[0], (*verb)->name))
            return verb_run(*verb, argc, argv);
    return verb_usage("there is no verb %s; see forkd --help", argv[0]);
}

/* What was not written is no success. Whoever stopped reading (forkd ls | head) wants to hear no more, of that either.
 */
static int output_end(int status)
{
    bool failed = fflush(stdout) != 0;
    int error = errno;
    if (status || (!failed && !ferror(stdout)))
        return status;
    if (!failed || error != EPIPE)
        fprintf(stderr, "forkd: write the output: %s\n", failed ? strerrordesc_np(error) : "it was cut");
    return failed && error == EPIPE ? 128 + SIGPIPE : EXIT_ERROR;
}

int main(int argc, char **argv)
{
    static char version[] = "version";
    signal(SIGPIPE, SIG_IGN);
    if (argc < 2) {
        help_program(verbs, stderr);
        return EXIT_USAGE;
    }
    if (!strcmp(argv[1], "--help") || !strcmp(argv[1], "-h") || !strcmp(argv[1], "help")) {
        bool json = argc > 2 && !strcmp(argv[2], "--json");
        (json ? help_program_json : help_program)(verbs, stdout);
        return output_end(0);
    }
    if (!strcmp(argv[1], "--version"))
        argv[1] = version;
    curl_global_init(CURL_GLOBAL_DEFAULT);
    int status = run(argc - 1, argv + 1);
    curl_global_cleanup();
    return output_end(status);
}
