/* main.c: forkd, the command line. One file per verb; each speaks HTTP to a controller (client.h). */
#include "cli/cli.h"

#include <curl/curl.h>
#include <errno.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct {
    const char *name, *what;
    int (*fn)(int argc, char **argv);
} verbs[] = {
    {"quickstart", "from nothing to ten forks that answer", verb_quickstart},
    {"doctor", "what this host can do, and what mends the rest", verb_doctor},
    {"images", "snapshots and guest images; build, check, add-agent", verb_images},
    {"snapshot", "boot and warm up a parent, make it a template", verb_snapshot},
    {"spawn", "fork sandboxes from a snapshot", verb_spawn},
    {"fork", "the same; with --settle-secs in the foreground", verb_spawn},
    {"ls", "list sandboxes", verb_ls},
    {"exec", "run a command in a sandbox", verb_exec},
    {"eval", "evaluate code in a sandbox's warm interpreter", verb_eval},
    {"ping", "ask a sandbox whether it is well", verb_ping},
    {"kill", "end sandboxes", verb_kill},
    {"resume", "let sandboxes run on that waited for disk space", verb_resume},
    {"rmi", "delete snapshots", verb_rmi},
    {"stop", "end everything, and the controller of your own", verb_stop},
    {"version", "versions of forkd and its controller", verb_version},
};

enum { VERBS = sizeof verbs / sizeof *verbs };

static void help_print(FILE *to)
{
    fputs("forkd: forks microVMs\n\nusage: forkd VERB [options]\n\n", to);
    for (size_t i = 0; i < VERBS; i++)
        fprintf(to, "  %-11s %s\n", verbs[i].name, verbs[i].what);
    fputs("\nEvery verb knows --help, --json, --daemon-url URL (FORKD_URL) and --daemon-token TOKEN (FORKD_TOKEN).\n"
          "Without a URL a controller of your own is used, and started if need be; `forkd stop` ends it.\n",
          to);
}

bool verb_begin(struct args *args, int argc, char **argv, const char *help, int *status)
{
    struct err err;
    if (args_parse(args, argc, argv, &err) < 0) {
        fprintf(stderr, "forkd: %s; see forkd %s --help\n", err.text, argv[0]);
        *status = EXIT_USAGE;
        return false;
    }
    *status = 0;
    if (args->help)
        fputs(help, stdout);
    return !args->help;
}

int verb_fail(const struct err *err)
{
    fflush(stdout);
    fprintf(stderr, "forkd: %s\n", err->text);
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

static int run(int argc, char **argv)
{
    for (size_t i = 0; i < VERBS; i++)
        if (!strcmp(argv[0], verbs[i].name))
            return verbs[i].fn(argc, argv);
    fprintf(stderr, "forkd: there is no verb %s; see forkd --help\n", argv[0]);
    return EXIT_USAGE;
}

int main(int argc, char **argv)
{
    static char version[] = "version";
    signal(SIGPIPE, SIG_IGN);
    if (argc < 2) {
        help_print(stderr);
        return EXIT_USAGE;
    }
    if (!strcmp(argv[1], "--help") || !strcmp(argv[1], "-h") || !strcmp(argv[1], "help")) {
        help_print(stdout);
        return 0;
    }
    if (!strcmp(argv[1], "--version"))
        argv[1] = version;
    curl_global_init(CURL_GLOBAL_DEFAULT);
    int status = run(argc - 1, argv + 1);
    curl_global_cleanup();
    if (fflush(stdout) != 0 && status == 0) {
        fprintf(stderr, "forkd: write the output: %s\n", strerrordesc_np(errno));
        status = EXIT_ERROR;
    }
    return status;
}
