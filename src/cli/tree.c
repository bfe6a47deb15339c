/* tree.c: forkd tree: who came from whom.
 *
 * Under a snapshot stand the sandboxes that were spawned from it, under a sandbox the snapshots that are its branches.
 * A branch whose source is gone stands under the snapshot the source was spawned from. What has lost that, too, begins
 * a tree of its own: tags are free again after a deletion, so a sandbox older than the snapshot of its tag is of an
 * earlier one, and that is said. */
#include "base/own.h"
#include "cli/cli.h"
#include "cli/sandbox.h"
#include "cli/table.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PREFIX_MAX = 512 };

#define COMPACT "compact:" /* what a compacted snapshot is a branch of, before the tag */

static const char *const headings[] = {"SNAPSHOT / SANDBOX", "STATE", ">OWN MiB", ">PAUSED ms", ">AGE", NULL};

struct node {
    const json_t *one;
    const json_t *above; /* NULL: it begins a tree */
};

struct forest {
    const json_t *snapshots, *sandboxes;
    struct node *node; /* sandboxes first */
    size_t nodes;
    struct table *table;
    char prefix[PREFIX_MAX]; /* of the lines below the one being printed */
};

static json_int_t created(const json_t *one)
{
    return json_integer_value(json_object_get(one, "created_at_unix"));
}

static const json_t *find(const json_t *list, const char *field, const char *value)
{
    size_t i;
    json_t *one;
    json_array_foreach(list, i, one)
    {
        if (!strcmp(json_text(one, field), value))
            return one;
    }
    return NULL;
}

/* The snapshot of that tag, if it is old enough to be an ancestor. */
static const json_t *snapshot_of(const struct forest *f, const char *tag, const json_t *descendant)
{
    const json_t *s = find(f->snapshots, "tag", tag);
    const char *id = json_text(descendant, "id");
    bool younger = s && *id && !strcmp(json_text(s, "branched_from"), id);
    return s && s != descendant && !younger && created(s) <= created(descendant) ? s : NULL;
}

static const json_t *above_of(const struct forest *f, const json_t *one)
{
    if (*json_text(one, "id"))
        return snapshot_of(f, json_text(one, "snapshot_tag"), one);
    const char *source = json_text(one, "branched_from");
    const json_t *sandbox = *source ? find(f->sandboxes, "id", source) : NULL;
    return sandbox ? sandbox : *source ? snapshot_of(f, json_text(one, "parent_tag"), one) : NULL;
}

static void own_text(const json_t *one, char *text, size_t cap)
{
    const json_t *own = json_object_get(one, "memory_own_kib");
    json_int_t image = json_integer_value(json_object_get(one, "memory_image_kib"));
    if (json_is_integer(own))
        snprintf(text, cap, "%.1f", (double)(json_integer_value(own) + image) / 1024);
    else
        snprintf(text, cap, "-");
}

/* What is not to be seen from where the line stands. */
static void origin_text(const struct forest *f, const struct node *n, char *text, size_t cap)
{
    const json_t *one = n->one;
    const char *source = json_text(one, "branched_from"), *tag = json_text(one, "snapshot_tag");
    *text = 0;
    if (!strncmp(source, COMPACT, sizeof COMPACT - 1))
        snprintf(text, cap, " (the whole of %s)", source + sizeof COMPACT - 1);
    else if (*source && !find(f->sandboxes, "id", source))
        snprintf(text, cap, " (of %s, which is gone)", source);
    else if (*tag && !n->above)
        snprintf(text, cap, " (of a deleted snapshot %s)", tag);
}

static void row(struct forest *f, const struct node *n, const char *branch)
{
    const json_t *one = n->one;
    char name[PREFIX_MAX + 256], origin[128], own[24], paused[24] = "", age[24];
    const char *id = json_text(one, "id");
    const json_t *total = json_object_get(json_object_get(one, "pause_us"), "total");
    origin_text(f, n, origin, sizeof origin);
    snprintf(name, sizeof name, "%s%s%s%s", f->prefix, branch, *id ? id : json_text(one, "tag"), origin);
    own_text(one, own, sizeof own);
    if (total)
        snprintf(paused, sizeof paused, "%.2f", (double)json_integer_value(total) / 1000);
    age_text(created(one), age, sizeof age);
    const char *state = *id ? (*json_text(one, "stalled") ? "stalled" : "running") : json_text(one, "status");
    const char *cells[] = {name, state, own, paused, age};
    table_row(f->table, cells);
}

/* The next node that stands under `above`, from *at on. */
static const struct node *next_under(const struct forest *f, const json_t *above, size_t *at)
{
    while (*at < f->nodes) {
        const struct node *n = &f->node[(*at)++];
        if (n->above == above)
            return n;
    }
    return NULL;
}

static bool nodes_make(struct forest *f)
{
    size_t i;
    json_t *one;
    f->node = calloc(json_array_size(f->sandboxes) + json_array_size(f->snapshots) + 1, sizeof *f->node);
    if (!f->node)
        return false;
    json_array_foreach(f->sandboxes, i, one)
    {
        f->node[f->nodes++] = (struct node){one, above_of(f, one)};
    }
    json_array_foreach(f->snapshots, i, one)
    {
        f->node[f->nodes++] = (struct node){one, above_of(f, one)};
    }
    return true;
}

/* NOLINTNEXTLINE(misc-no-recursion): as deep as the tree, and its lines no longer than PREFIX_MAX */
static void print_under(struct forest *f, const json_t *above)
{
    size_t at = 0, len = strlen(f->prefix);
    for (const struct node *n = next_under(f, above, &at), *next; n; n = next) {
        next = next_under(f, above, &at);
        row(f, n, !above ? "" : next ? "├─ " : "└─ ");
        if (above && len + 8 < sizeof f->prefix)
            snprintf(f->prefix + len, sizeof f->prefix - len, "%s", next ? "│  " : "   ");
        print_under(f, n->one);
        f->prefix[len] = 0;
    }
}

static int tree_run(const struct args *args)
{
    struct err err;
    struct client *client;
    json_t *snapshots = NULL, *sandboxes = NULL;
    if (args->count)
        return verb_usage("forkd tree takes no arguments");
    if (client_open(args, &client, &err) < 0)
        return verb_fail(&err);
    int rc = client_call_list(client, "GET", "/v1/snapshots?memory=true", NULL, &snapshots, &err);
    if (rc == 0)
        rc = client_call_list(client, "GET", "/v1/sandboxes?memory=true", NULL, &sandboxes, &err);
    client_close(client);
    if (rc == 0 && args->json)
        return verb_json(json_pack("{s:o, s:o}", "snapshots", snapshots, "sandboxes", sandboxes));
    if (rc == 0) {
        struct forest f = {.snapshots = snapshots, .sandboxes = sandboxes, .table = table_new(headings)};
        if (nodes_make(&f))
            print_under(&f, NULL);
        table_print(f.table);
        free(f.node);
    }
    json_decref(snapshots);
    json_decref(sandboxes);
    return rc < 0 ? verb_fail(&err) : 0;
}

const struct verb verb_tree = {
    .name = "tree",
    .what = "snapshots and sandboxes as a tree: who came from whom",
    .usage = "[--json]",
    .about = "Shows snapshots, the sandboxes forked from each, and their branches below them. OWN is the memory that "
             "would be free again without it: a template's image and the pages that no other process has.",
    .run = tree_run,
};
