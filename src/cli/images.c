/* images.c: forkd images. The list is the controller's and the directory's; the rest is guest/images's programs. */
#include "cli/images.h"
#include "base/own.h"
#include "cli/cli.h"
#include "cli/private.h"
#include "cli/sandbox.h"
#include "cli/table.h"
#include "proto/places.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>

int program_run(char *const *argv)
{
    int status;
    fflush(stdout);
    pid_t pid = fork();
    if (pid == 0) {
        signal(SIGPIPE, SIG_DFL);
        execvp(argv[0], argv);
        fprintf(stderr, "forkd: run %s: %s\n", argv[0], strerrordesc_np(errno));
        _exit(127);
    }
    while (pid > 0 && waitpid(pid, &status, 0) < 0)
        if (errno != EINTR)
            return EXIT_ERROR;
    if (pid < 0)
        return EXIT_ERROR;
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

static const char *const tools[] = {"build", "check", "add-agent", NULL};

/* words[0] is one of these; the others are the arguments of that program, which has a help of its own. */
static int tool_run(char *const *words)
{
    struct err err;
    char path[PATH_MAX], agents[PATH_MAX], name[64];
    static char agent_flag[] = "--agent-dir";
    bool needs_agent = strcmp(words[0], "check") != 0;
    snprintf(name, sizeof name, "guest/images/%s", words[0]);
    if (program_find(name, path, sizeof path, &err) < 0)
        return verb_fail(&err);
    unsigned more = 0;
    while (words[more])
        more++;
    own_free char **call = calloc((size_t)more + 4, sizeof *call);
    if (!call)
        return EXIT_ERROR;
    unsigned count = 0;
    call[count++] = path;
    if (needs_agent && program_find("guest/agent/forkd-agent", agents, sizeof agents, NULL) == 0) {
        *strrchr(agents, '/') = 0;
        call[count++] = agent_flag;
        call[count++] = agents;
    }
    for (unsigned i = 1; i < more; i++)
        call[count++] = words[i];
    return program_run(call);
}

json_t *images_list(void)
{
    char dir[PATH_MAX], path[PATH_MAX + 300];
    json_t *list = json_array();
    place_images(dir, sizeof dir);
    struct dirent **names;
    int count = scandir(dir, &names, NULL, alphasort);
    for (int i = 0; i < count; i++) {
        snprintf(path, sizeof path, "%s/%s/image.json", dir, names[i]->d_name);
        json_t *image = names[i]->d_name[0] == '.' ? NULL : json_load_file(path, 0, NULL);
        if (image)
            json_array_append_new(list, image);
        free(names[i]);
    }
    if (count >= 0)
        free(names);
    return list;
}

static void snapshots_print(const json_t *snapshots)
{
    static const char *const headings[] = {"SNAPSHOT",   "STATUS",  "BOOTABLE", "BRANCHED FROM",
                                           ">PAUSED ms", "WARNING", NULL};
    struct table *table = table_new(headings);
    size_t i;
    json_t *one;
    json_array_foreach(snapshots, i, one)
    {
        char paused[24] = "";
        const json_t *total = json_object_get(json_object_get(one, "pause_us"), "total");
        if (total)
            snprintf(paused, sizeof paused, "%.2f", (double)json_integer_value(total) / 1000);
        const char *cells[] = {json_text(one, "tag"),
                               json_text(one, "status"),
                               json_is_true(json_object_get(one, "bootable")) ? "yes" : "no",
                               json_text(one, "branched_from"),
                               paused,
                               json_text(one, "warning")};
        table_row(table, cells);
    }
    table_print(table);
}

static void images_print(const json_t *images)
{
    static const char *const headings[] = {"GUEST IMAGE", "RELEASE", "KERNEL", ">MiB", "BUILT", NULL};
    struct table *table = table_new(headings);
    size_t i;
    json_t *one;
    json_array_foreach(images, i, one)
    {
        char mib[24];
        const json_t *rootfs = json_object_get(json_object_get(one, "files"), "rootfs");
        snprintf(mib, sizeof mib, "%lld",
                 (long long)json_integer_value(json_object_get(rootfs, "allocated_bytes")) >> 20);
        const char *cells[] = {json_text(one, "name"), json_text(one, "release"),
                               json_text(json_object_get(one, "kernel"), "release"), mib, json_text(one, "created")};
        table_row(table, cells);
    }
    table_print(table);
}

static int list(const struct args *args)
{
    struct err err;
    struct client *client;
    json_t *snapshots;
    if (client_open(args, &client, &err) < 0)
        return verb_fail(&err);
    int rc = client_call_list(client, "GET", "/v1/snapshots", NULL, &snapshots, &err);
    client_close(client);
    if (rc < 0)
        return verb_fail(&err);
    json_t *images = images_list();
    if (args->json)
        return verb_json(json_pack("{s:o, s:o}", "snapshots", snapshots, "guest_images", images));
    snapshots_print(snapshots);
    putchar('\n');
    images_print(images);
    json_decref(snapshots);
    json_decref(images);
    return 0;
}

int images_build(const char *name)
{
    char build[] = "build";
    own_free char *copy = strdup(name);
    char *const words[] = {build, copy, NULL};
    return copy ? tool_run(words) : EXIT_ERROR;
}

static int images_run(const struct args *args)
{
    for (const char *const *tool = tools; args->count && *tool; tool++)
        if (!strcmp(args->rest[0], *tool))
            return tool_run(args->rest);
    if (args->count && (args->count > 1 || strcmp(args->rest[0], "list") != 0))
        return verb_usage("forkd images has no %s; see forkd images --help", args->rest[0]);
    return list(args);
}

const struct verb verb_images = {
    .name = "images",
    .what = "snapshots and guest images; build, check, add-agent",
    .usage = "[list]\n"
             "build IMAGE [-o DIR]\n"
             "check FILE\n"
             "add-agent FILE",
    .about =
        "Lists snapshots and guest images, or makes a guest image from Debian packages (python3, minimal, or a file "
        "NAME.conf), or says whether an ext4 image holds forkd's agent, or adds it.\n"
        "\n"
        "Guest images lie in $FORKD_IMAGES, else in /var/lib/forkd/images (root) or ~/.local/share/forkd/images. "
        "What makes, checks and mends them has options of its own: forkd images build --help.",
    .foreign = tools,
    .run = images_run,
};
