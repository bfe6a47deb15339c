/* snapshot_info.c: forkd snapshot-info. */
#include "cli/cli.h"
#include "cli/sandbox.h"

#include <stdio.h>

static void line(const char *what, const char *text)
{
    if (*text)
        printf("%-14s %s\n", what, text);
}

static void size_line(const json_t *info, const char *what, const char *field)
{
    long long bytes = json_integer_value(json_object_get(info, field));
    if (bytes < 1 << 20)
        printf("%-14s %lld KiB\n", what, (bytes + 1023) >> 10);
    else
        printf("%-14s %.1f MiB\n", what, (double)bytes / (1 << 20));
}

static void list_line(const char *what, const json_t *tags)
{
    size_t i;
    json_t *tag;
    if (!json_array_size(tags))
        return;
    printf("%-14s", what);
    json_array_foreach(tags, i, tag)
    {
        printf(" %s", json_string_value(tag));
    }
    putchar('\n');
}

static void pause_line(const json_t *info)
{
    static const char *const phases[] = {"kick", "save", "log", "pages", "resume"};
    const json_t *pause = json_object_get(info, "pause_us");
    if (!pause)
        return;
    printf("%-14s %lld us:", "paused", (long long)json_integer_value(json_object_get(pause, "total")));
    for (size_t i = 0; i < sizeof phases / sizeof *phases; i++)
        printf(" %s %lld", phases[i], (long long)json_integer_value(json_object_get(pause, phases[i])));
    printf("\n%-14s %lld while it ran, %lld in the pause; ready after %lld ms\n", "pages read",
           (long long)json_integer_value(json_object_get(info, "pages_streamed")),
           (long long)json_integer_value(json_object_get(info, "pages_in_pause")),
           (long long)json_integer_value(json_object_get(info, "ready_ms")));
}

/* Sizes of what is not there are all 0. */
static void disk_lines(const json_t *info)
{
    bool there = json_integer_value(json_object_get(info, "vmstate_bytes")) > 0;
    line(there ? "directory" : "on disk", there ? json_text(info, "dir") : "nothing, or not yet all of it");
    if (!there)
        return;
    size_line(info, "memory", "memory_logical_bytes");
    size_line(info, "on disk", "memory_physical_bytes");
    size_line(info, "state", "vmstate_bytes");
}

static void print(const json_t *info)
{
    char age[24];
    age_text(json_integer_value(json_object_get(info, "created_at_unix")), age, sizeof age);
    line("snapshot", json_text(info, "tag"));
    line("status", json_text(info, "status"));
    line("can be forked", json_is_true(json_object_get(info, "bootable")) ? "yes" : "no");
    line("warning", json_text(info, "warning"));
    line("made", age);
    line("branched from", json_text(info, "branched_from"));
    line("a child of", json_text(info, "parent_tag"));
    line("mode", json_text(info, "mode"));
    pause_line(info);
    disk_lines(info);
    line("content", json_text(info, "content_hash"));
    list_line("a diff to", json_object_get(info, "ancestors"));
    list_line("diffs to it", json_object_get(info, "dependents"));
}

static int info_run(const struct args *args)
{
    struct err err;
    struct client *client;
    json_t *info = NULL;
    if (args->count != 1)
        return verb_usage("forkd snapshot-info needs one tag");
    if (client_open(args, &client, &err) < 0)
        return verb_fail(&err);
    int rc = client_call_named(client, "GET", "/v1/snapshots/*/info", args->rest[0], NULL, &info, &err);
    client_close(client);
    if (rc < 0)
        return verb_fail(&err);
    if (args->json)
        return verb_json(info);
    print(info);
    json_decref(info);
    return 0;
}

const struct verb verb_snapshot_info = {
    .name = "snapshot-info",
    .what = "what a snapshot is, on the disk and in its line",
    .usage = "TAG [--json]",
    .about =
        "Says where a snapshot came from, what making it took, what its files take on the disk, and which snapshots it "
        "needs there or is needed by.",
    .run = info_run,
};
