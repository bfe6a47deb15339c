/* snapshot.c: forkd snapshot. */
#include "cli/branch.h"
#include "cli/cli.h"
#include "cli/making.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { BOOT_WAIT_SECS = 10 }; /* unless it is asked for more */

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
    if (number != ARG_NOT_GIVEN)
        json_object_set_new(body, name, json_integer(number));
}

static struct {
    const char *tag, *image, *kernel, *rootfs, *initrd, *ready, *warmup, *code, *tap, *sandbox;
    unsigned mem, vcpus, wait;
    bool rw, diff, live, no_wait;
} options = {.mem = ARG_NOT_GIVEN, .vcpus = ARG_NOT_GIVEN, .wait = ARG_NOT_GIVEN};

static const struct arg flags[] = {
    {"tag", 't', ARG_TEXT, &options.tag, "TAG", "the snapshot's name (FORKD_TAG)"},
    {"image", 0, ARG_TEXT, &options.image, "IMAGE", "a guest image made by forkd images build"},
    {"kernel", 0, ARG_TEXT, &options.kernel, "FILE", "bzImage or ELF vmlinux (FORKD_KERNEL)"},
    {"rootfs", 0, ARG_TEXT, &options.rootfs, "FILE",
     "ext4 image with forkd's agent (FORKD_ROOTFS); the file itself is never written to"},
    {"initrd", 0, ARG_TEXT, &options.initrd, "FILE", "default: the file initrd beside the kernel"},
    {"rw", 0, ARG_FLAG, &options.rw, NULL, "accepted; every sandbox has a writable disk of its own anyway"},
    {"mem-size-mib", 0, ARG_NUMBER, &options.mem, "N", "memory (512)"},
    {"vcpus", 0, ARG_NUMBER, &options.vcpus, "N", "CPUs (1)"},
    {"boot-wait-secs", 0, ARG_NUMBER, &options.wait, "N", "how long the agent may take to be up (10, at most 60)"},
    {"ready-cmd", 0, ARG_TEXT, &options.ready, "COMMAND", "a shell command that must succeed once the agent is up"},
    {"warmup", 0, ARG_TEXT, &options.warmup, "M[,M...]", "Python modules to import"},
    {"warmup-code", 0, ARG_TEXT, &options.code, "CODE", "Python code to run instead"},
    {"from-sandbox", 0, ARG_TEXT, &options.sandbox, "ID",
     "branch this sandbox instead of booting, as forkd branch does"},
    {"diff", 0, ARG_FLAG, &options.diff, NULL, "with --from-sandbox: see forkd branch"},
    {"live", 0, ARG_FLAG, &options.live, NULL, "with --from-sandbox: see forkd branch"},
    {"no-wait", 0, ARG_FLAG, &options.no_wait, NULL, "with --from-sandbox: see forkd branch"},
    {"tap", 0, ARG_TEXT, &options.tap, NULL, NULL},
    {0},
};

static json_t *body_make(void)
{
    json_t *body = json_object();
    set_text(body, "tag", options.tag);
    set_text(body, "image", options.image);
    set_path(body, "kernel", options.kernel);
    set_path(body, "rootfs", options.rootfs);
    set_path(body, "initrd", options.initrd);
    set_text(body, "ready_cmd", options.ready);
    set_text(body, "warmup", options.code);
    set_text(body, "tap", options.tap);
    set_number(body, "mem_size_mib", options.mem);
    set_number(body, "vcpus", options.vcpus);
    set_number(body, "boot_wait_secs", options.wait);
    if (options.warmup)
        json_object_set_new(body, "warmup", modules_of(options.warmup));
    if (options.rw)
        json_object_set_new(body, "rw", json_true());
    return body;
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
    struct making making = {.tag = tag, .boot_secs = options.wait == ARG_NOT_GIVEN ? BOOT_WAIT_SECS : options.wait};
    making_begin(&making, args, what);
    int rc = client_call(client, "POST", "/v1/snapshots", body, &answer, &err);
    making_end(&making, rc < 0 ? "failed" : NULL);
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

static bool boots_something(void)
{
    const char *const words[] = {options.image,  options.kernel, options.rootfs, options.initrd,
                                 options.warmup, options.code,   options.ready,  options.tap};
    bool any =
        options.rw || options.mem != ARG_NOT_GIVEN || options.vcpus != ARG_NOT_GIVEN || options.wait != ARG_NOT_GIVEN;
    for (size_t i = 0; i < sizeof words / sizeof *words; i++)
        any |= words[i] != NULL;
    return any;
}

static int branch(const struct args *args)
{
    const struct branch_wish wish = {.sandbox = options.sandbox,
                                     .tag = options.tag,
                                     .diff = options.diff,
                                     .live = options.live,
                                     .no_wait = options.no_wait};
    if (boots_something())
        return verb_usage("--from-sandbox boots nothing: it goes with --tag, --diff, --live and --no-wait");
    if (options.diff && options.live)
        return verb_usage("--diff and --live exclude each other");
    return branch_make(args, &wish);
}

static int snapshot_run(const struct args *args)
{
    if (!options.tag)
        options.tag = getenv("FORKD_TAG");
    if (!args->count && options.sandbox)
        return branch(args);
    if (options.diff || options.live || options.no_wait)
        return verb_usage("--diff, --live and --no-wait go with --from-sandbox");
    if (args->count || !options.tag || !*options.tag)
        return verb_usage("forkd snapshot needs --tag and nothing else but options; see forkd snapshot --help");
    if (options.warmup && options.code)
        return verb_usage("--warmup and --warmup-code exclude each other");
    if (!options.image && !options.kernel)
        options.kernel = getenv("FORKD_KERNEL");
    if (!options.image && !options.rootfs)
        options.rootfs = getenv("FORKD_ROOTFS");
    return create(args, body_make(), options.tag);
}

const struct verb verb_snapshot = {
    .name = "snapshot",
    .what = "boot and warm up a parent, make it a template",
    .usage = "--tag TAG (--image IMAGE | --kernel FILE [--rootfs FILE] [--initrd FILE]) [options]\n"
             "--from-sandbox ID [--tag TAG] [--diff | --live] [--no-wait]",
    .about = "Boots a parent, waits for its agent, warms it up and makes it a template that sandboxes are forked from.",
    .flags = flags,
    .run = snapshot_run,
};
