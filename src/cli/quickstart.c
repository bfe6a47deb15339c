/* quickstart.c: forkd quickstart.
 *
 * Two phases: setup makes what is kept from run to run (guest image, controller, snapshot), fork shows the
 * children. Where KVM runs Linux natively both happen here. Elsewhere they happen in the lab, whose host is
 * saved after setup (lab/run --warm), so that the next run begins with a warm template. */
#include "cli/quickstart.h"

#include "base/own.h"
#include "cli/cli.h"
#include "cli/images.h"
#include "cli/making.h"
#include "cli/private.h"
#include "cli/probe.h"
#include "cli/sandbox.h"
#include "proto/places.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char tag_stem[] = "quickstart-";

/* The lab's limits are for what hangs; a child takes a second there, and many on a host that is busy. */
enum { TAG_DIGITS = 16, BOOT_WAIT_SECS = 60, LAB_SECS = 600, LAB_CHILD_SECS = 10 };

static bool image_there(const char *name)
{
    char dir[PATH_MAX], path[PATH_MAX + 128];
    place_images(dir, sizeof dir);
    snprintf(path, sizeof path, "%s/%.64s/image.json", dir, name);
    return access(path, R_OK) == 0;
}

static int image_make(const char *name)
{
    if (image_there(name))
        return 0;
    fprintf(stderr, "making the guest image %s (once)\n", name);
    return images_build(name);
}

/* A snapshot is kept as long as image and modules are the same: both are in its tag. */
static void tag_make(const struct quickstart *q, char *tag, size_t cap)
{
    char dir[PATH_MAX], path[PATH_MAX + 128];
    place_images(dir, sizeof dir);
    snprintf(path, sizeof path, "%s/%.64s/image.json", dir, q->image);
    json_t *image = json_load_file(path, 0, NULL);
    uint64_t hash = 1469598103934665603u; /* FNV-1a */
    const char *parts[] = {json_text(image, "key"), q->image, q->modules};
    for (size_t i = 0; i < 3; i++)
        for (const char *c = parts[i]; *c; c++)
            hash = (hash ^ (uint8_t)*c) * 1099511628211u;
    json_decref(image);
    snprintf(tag, cap, "%s%016llx", tag_stem, (unsigned long long)hash);
}

/* What tag_make() makes, and nobody else's quickstart-of-something. */
static bool is_tag_of_ours(const char *tag)
{
    size_t stem = sizeof tag_stem - 1;
    return !strncmp(tag, tag_stem, stem) && strspn(tag + stem, "0123456789abcdef") == TAG_DIGITS &&
           strlen(tag) == stem + TAG_DIGITS;
}

static json_t *snapshot_body(const struct quickstart *q, const char *tag)
{
    json_t *modules = json_array();
    char *copy = strdup(q->modules), *save = NULL;
    for (char *m = copy ? strtok_r(copy, ", ", &save) : NULL; m; m = strtok_r(NULL, ", ", &save))
        json_array_append_new(modules, json_string(m));
    free(copy);
    return json_pack("{s:s, s:s, s:i, s:o}", "tag", tag, "image", q->image, "boot_wait_secs", BOOT_WAIT_SECS, "warmup",
                     modules);
}

/* Deletes what earlier runs made of another image; true when this one's is there. */
static int snapshots_sweep(struct client *client, const char *tag, bool *there, struct err *err)
{
    json_t *list, *one;
    size_t i;
    *there = false;
    int rc = client_call_list(client, "GET", "/v1/snapshots", NULL, &list, err);
    if (rc < 0)
        return rc;
    json_array_foreach(list, i, one)
    {
        const char *name = json_text(one, "tag");
        if (!is_tag_of_ours(name))
            continue;
        if (!strcmp(name, tag) && json_is_true(json_object_get(one, "bootable"))) {
            *there = true;
            continue;
        }
        if (client_call_named(client, "DELETE", "/v1/snapshots/*", name, NULL, NULL, err) < 0)
            rc = -err->code;
    }
    json_decref(list);
    return rc;
}

static int snapshot_make(const struct args *args, struct client *client, const struct quickstart *q, const char *tag)
{
    struct err err;
    bool there;
    int rc = snapshots_sweep(client, tag, &there, &err);
    if (rc == 0 && there)
        return 0;
    char what[200];
    snprintf(what, sizeof what, "booting a parent from %s and importing %.100s", q->image, q->modules);
    struct making making = {.tag = tag, .boot_secs = BOOT_WAIT_SECS};
    making_begin(&making, args, what);
    if (rc == 0)
        rc = client_call(client, "POST", "/v1/snapshots", snapshot_body(q, tag), NULL, &err);
    making_end(&making, rc < 0 ? "failed" : "the template is kept");
    if (rc == 0)
        return 0;
    verb_fail(&err);
    if (client_detail(client))
        fprintf(stderr, "%s\n", client_detail(client));
    return EXIT_ERROR;
}

static int run_here(const struct args *args, const struct quickstart *q, bool setup_only)
{
    struct err err;
    struct client *client;
    char tag[80];
    int status = image_make(q->image);
    if (status)
        return status;
    if (client_open(args, &client, &err) < 0)
        return verb_fail(&err);
    tag_make(q, tag, sizeof tag);
    status = snapshot_make(args, client, q, tag);
    if (!status && !setup_only)
        status = children_show(client, q, tag);
    client_close(client);
    return status;
}

/* In single quotes, for the shell. */
static char *quoted(const char *text)
{
    char *out = malloc(4 * strlen(text) + 3), *put = out;
    if (!out)
        abort();
    *put++ = '\'';
    for (; *text; text++)
        put = *text == '\'' ? stpcpy(put, "'\\''") : (*put = *text, put + 1);
    *put++ = '\'';
    *put = 0;
    return out;
}

/* The lab shows the tree that it lies in. An installed program lies elsewhere and is shown besides: adds the words for
 * that to `argv`. */
static void show_program(char *lab, char *program, char **argv)
{
    static char payload[] = "--payload";
    char top[PATH_MAX];
    if (!realpath(lab, top))
        return;
    size_t len = strlen(top) - strlen("lab/run");
    if (!strncmp(program, top, len))
        return;
    while (*argv)
        argv++;
    argv[0] = payload;
    argv[1] = program;
}

/* With setup_only the host is saved, and nothing is run in it. */
static int run_in_lab(const struct quickstart *q, bool setup_only)
{
    static char env_images[] = "FORKD_IMAGES=/var/lib/forkd/images", nothing[] = "true";
    struct err err;
    char lab[PATH_MAX], self[PATH_MAX], controller[PATH_MAX], dir[PATH_MAX], path[PATH_MAX + 128], secs[16];
    int status = image_make(q->image);
    if (status)
        return status;
    if (program_find("lab/run", lab, sizeof lab, &err) < 0 ||
        program_find("forkd-controller", controller, sizeof controller, &err) < 0)
        return verb_fail(&err);
    ssize_t len = readlink("/proc/self/exe", self, sizeof self - 1);
    self[len > 0 ? len : 0] = 0;
    place_images(dir, sizeof dir);
    snprintf(path, sizeof path, "%s/%.64s", dir, q->image);
    own_free char *image = realpath(path, NULL), *from = quoted(image ? image : path), *forkd = quoted(self),
                  *name = quoted(q->image), *modules = quoted(q->modules), *code = quoted(q->code),
                  *command = quoted(q->command);
    own_free char *setup = NULL, *run = NULL;
    if (!image ||
        asprintf(&setup,
                 "mkdir -p /var/lib/forkd/images && ln -sfn %s /var/lib/forkd/images/%s && "
                 "%s quickstart --setup-only --image %s --modules %s",
                 from, name, forkd, name, modules) < 0 ||
        asprintf(&run, "%s quickstart --image %s --modules %s --code %s --command %s -n %u%s", forkd, name, modules,
                 code, command, q->n, q->json ? " --json" : "") < 0)
        return verb_usage("the image %s cannot be found", q->image);
    snprintf(secs, sizeof secs, "%u", LAB_SECS + q->n * LAB_CHILD_SECS);
    char time_flag[] = "--time", payload[] = "--payload", warm[] = "--warm", env[] = "--env";
    char *argv[16] = {lab, time_flag, secs, payload, image, env, env_images, warm, setup};
    show_program(lab, self, argv);
    show_program(lab, controller, argv);
    unsigned count = 0;
    while (argv[count])
        count++;
    argv[count] = setup_only ? nothing : run;
    return program_run(argv);
}

static unsigned default_n(void)
{
    const char *n = getenv("N");
    unsigned long value = n ? strtoul(n, NULL, 10) : 0;
    return value >= 1 && value <= 1000 ? (unsigned)value : 10;
}

static struct quickstart options = {.n = ARG_NOT_GIVEN,
                                    .image = "python3",
                                    .modules = "numpy",
                                    .code = "f'numpy {numpy.__version__} draws {numpy.random.randint(10**6)}'",
                                    .command = "hostname"};
static bool in_lab, setup_only;

static const struct arg flags[] = {
    {"n", 'n', ARG_NUMBER, &options.n, "N", "how many children (10, or the environment's N)"},
    {"image", 0, ARG_TEXT, &options.image, "IMAGE", "the guest image (python3)"},
    {"modules", 0, ARG_TEXT, &options.modules, "M[,M...]", "imported before the fork (numpy)"},
    {"code", 0, ARG_TEXT, &options.code, "CODE", "evaluated in the warm interpreter of each child"},
    {"command", 0, ARG_TEXT, &options.command, "COMMAND", "run by the shell of each child (hostname)"},
    {"in-lab", 0, ARG_FLAG, &in_lab, NULL, "in the emulated KVM host, whatever this host can do"},
    {"setup-only", 0, ARG_FLAG, &setup_only, NULL, "image, parent and template, no children"},
    {0},
};

static int quickstart_run(const struct args *args)
{
    struct probe probe = {.native = true};
    struct err err;
    bool inside = getenv("FORKD_IN_LAB") != NULL;
    if (options.n == ARG_NOT_GIVEN)
        options.n = default_n();
    if (args->count || options.n < 1 || options.n > 1000)
        return verb_usage("forkd quickstart takes options only, and -n from 1 to 1000");
    options.json = args->json;
    if (!inside && !in_lab && probe_host(&probe, &err) < 0)
        return verb_fail(&err);
    if (!inside && !in_lab && !probe.native)
        fprintf(stderr, "%s; the same follows in the lab, an emulated KVM host\n", probe.reason);
    return !inside && (in_lab || !probe.native) ? run_in_lab(&options, setup_only)
                                                : run_here(args, &options, setup_only);
}

const struct verb verb_quickstart = {
    .name = "quickstart",
    .what = "from nothing to ten forks that answer",
    .usage = "[-n N] [options]",
    .about = "Makes a Debian guest with Python, boots one parent, imports its modules, makes it a template, forks N "
             "sandboxes and asks each. Images and templates are kept for the next run. Where KVM cannot run Linux, the "
             "same happens in an emulated KVM host.",
    .flags = flags,
    .run = quickstart_run,
};
