/* snapshot.c: forkd snapshot. */
#include "cli/cli.h"
#include "cli/progress.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char help[] =
    "usage: forkd snapshot --tag TAG (--image NAME | --kernel FILE [--rootfs FILE] [--initrd FILE]) [options]\n"
    "\n"
    "Boots a parent, waits for its agent, warms it up and makes it a template that sandboxes are forked from.\n"
    "\n"
    "  --tag TAG              the snapshot's name (FORKD_TAG)\n"
    "  --image NAME           a guest image made by forkd images build\n"
    "  --kernel FILE          bzImage or ELF vmlinux (FORKD_KERNEL)\n"
    "  --rootfs FILE          ext4 image with forkd's agent (FORKD_ROOTFS); the file itself is never written to\n"
    "  --initrd FILE          default: the file initrd beside the kernel\n"
    "  --rw                   accepted; every sandbox has a writable disk of its own anyway\n"
    "  --mem-size-mib N       memory (512)\n"
    "  --vcpus N              CPUs (1)\n"
    "  --boot-wait-secs N     how long the agent may take to be up (10, at most 60)\n"
    "  --ready-cmd COMMAND    a shell command that must succeed once the agent is up\n"
    "  --warmup M[,M...]      Python modules to import\n"
    "  --warmup-code CODE     Python code to run instead\n"
    "  --json                 print the snapshot as JSON\n";

static json_t *modules_of(const char *list)
{
    json_t *modules = json_array();
    char *copy = strdup(list), *save = NULL;
    for (char *m = copy ? strtok_r(copy, ", ", &save) : NULL; m; m = strtok_r(NULL, ", ", &save))
        json_array_append_new(modules, json_string(m));
    free(copy);
    return modules;
}

static void set_text(json_t *body, const char *name, const char *text)
{
    if (text && *text)
        json_object_set_new(body, name, json_string(text));
}

/* A relative path means something else to the controller. */
static void set_path(json_t *body, const char *name, const char *path)
{
    char *full = path && *path ? realpath(path, NULL) : NULL;
    set_text(body, name, full ? full : path);
    free(full);
}

static void set_number(json_t *body, const char *name, unsigned number)
{
    if (number)
        json_object_set_new(body, name, json_integer(number));
}

static int create(const struct args *args, json_t *body, const char *tag)
{
    struct err err;
    struct client *client;
    json_t *answer = NULL;
    char what[128];
    if (client_open(args, &client, &err) < 0) {
        json_decref(body);
        return verb_fail(&err);
    }
    snprintf(what, sizeof what, "making snapshot %s", tag);
    struct progress *progress = progress_begin(what);
    int rc = client_call(client, "POST", "/v1/snapshots", body, &answer, &err);
    progress_end(progress, rc < 0 ? "failed" : NULL);
    if (rc < 0) {
        verb_fail(&err);
        if (client_detail(client))
            fprintf(stderr, "%s\n", client_detail(client));
    } else if (args->json) {
        verb_json(answer);
    } else {
        printf("snapshot %s is ready; fork it with: forkd spawn --tag %s\n", tag, tag);
        json_decref(answer);
    }
    client_close(client);
    return rc < 0 ? EXIT_ERROR : 0;
}

int verb_snapshot(int argc, char **argv)
{
    const char *tag = getenv("FORKD_TAG"), *kernel = NULL, *rootfs = NULL, *image = NULL, *initrd = NULL;
    const char *ready = NULL, *warmup = NULL, *code = NULL, *tap = NULL;
    unsigned mem = 0, vcpus = 0, wait = 0;
    bool rw = false;
    const struct arg flags[] = {
        {"tag", 't', ARG_TEXT, &tag},
        {"image", 0, ARG_TEXT, &image},
        {"kernel", 0, ARG_TEXT, &kernel},
        {"rootfs", 0, ARG_TEXT, &rootfs},
        {"initrd", 0, ARG_TEXT, &initrd},
        {"rw", 0, ARG_FLAG, &rw},
        {"mem-size-mib", 0, ARG_NUMBER, &mem},
        {"vcpus", 0, ARG_NUMBER, &vcpus},
        {"boot-wait-secs", 0, ARG_NUMBER, &wait},
        {"ready-cmd", 0, ARG_TEXT, &ready},
        {"warmup-code", 0, ARG_TEXT, &code},
        {"warmup", 0, ARG_TEXT, &warmup},
        {"tap", 0, ARG_TEXT, &tap},
        {0},
    };
    struct args args = {.flags = flags};
    int status;
    if (!verb_begin(&args, argc, argv, help, &status))
        return status;
    if (args.count || !tag || !*tag)
        return verb_usage("forkd snapshot needs --tag and nothing else but options; see forkd snapshot --help");
    if (warmup && code)
        return verb_usage("--warmup and --warmup-code exclude each other");
    if (!image && !kernel)
        kernel = getenv("FORKD_KERNEL");
    if (!image && !rootfs)
        rootfs = getenv("FORKD_ROOTFS");
    json_t *body = json_object();
    set_text(body, "tag", tag);
    set_text(body, "image", image);
    set_path(body, "kernel", kernel);
    set_path(body, "rootfs", rootfs);
    set_path(body, "initrd", initrd);
    set_text(body, "ready_cmd", ready);
    set_text(body, "warmup", code);
    set_text(body, "tap", tap);
    set_number(body, "mem_size_mib", mem);
    set_number(body, "vcpus", vcpus);
    set_number(body, "boot_wait_secs", wait);
    if (warmup)
        json_object_set_new(body, "warmup", modules_of(warmup));
    if (rw)
        json_object_set_new(body, "rw", json_true());
    return create(&args, body, tag);
}
