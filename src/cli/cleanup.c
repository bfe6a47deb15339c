/* cleanup.c: forkd cleanup. */
#include "cli/cli.h"
#include "cli/leftovers.h"
#include "cli/table.h"

#include <stdio.h>

static bool yes;

static const struct arg flags[] = {
    {"yes", 'y', ARG_FLAG, &yes, NULL, "remove it; without this nothing is touched"},
    {0},
};

static const char *why(enum leftover_kind kind)
{
    switch (kind) {
    case LEFTOVER_PROCESS:
        return "the state it belongs to is gone";
    case LEFTOVER_DIRECTORY:
        return "the state beside it is gone";
    default:
        return "nothing lives in it";
    }
}

static void what(const struct leftover *l, char *text, size_t cap)
{
    if (l->kind == LEFTOVER_PROCESS)
        snprintf(text, cap, "%d of %s", (int)l->pid, l->path);
    else
        snprintf(text, cap, "%s", l->path);
}

static void print_people(const struct leftovers *found)
{
    static const char *const headings[] = {"KIND", "WHAT", "WHY", NULL};
    struct table *table = table_new(headings);
    for (size_t i = 0; i < found->count; i++) {
        char text[PATH_MAX + 32];
        what(&found->at[i], text, sizeof text);
        table_row(table, (const char *const[]){leftover_kind_name(found->at[i].kind), text, why(found->at[i].kind)});
    }
    if (found->count)
        table_print(table);
    else
        puts("Nothing is left over.");
}

static json_t *row_json(const struct leftover *l, bool removed)
{
    json_t *row = json_pack("{s:s}", "kind", leftover_kind_name(l->kind));
    if (l->kind == LEFTOVER_PROCESS)
        json_object_set_new(row, "pid", json_integer(l->pid));
    json_object_set_new(row, "path", json_string(l->path));
    json_object_set_new(row, "why", json_string(why(l->kind)));
    json_object_set_new(row, "removed", json_boolean(removed));
    return row;
}

static int cleanup_run(const struct args *args)
{
    struct err err;
    struct leftovers found;
    int status = 0;
    size_t removed = 0;
    if (args->count)
        return verb_usage("forkd cleanup takes no operands");
    if (leftovers_find(&found, &err) < 0) {
        leftovers_free(&found);
        return verb_fail(&err);
    }
    if (!args->json)
        print_people(&found);
    json_t *rows = json_array();
    for (size_t i = 0; i < found.count; i++) {
        bool gone = yes && leftover_remove(&found.at[i], &err) == 0;
        if (yes && !gone)
            status = verb_fail(&err);
        removed += gone;
        json_array_append_new(rows, row_json(&found.at[i], gone));
    }
    if (!args->json && found.count && yes)
        printf("Removed %zu of %zu.\n", removed, found.count);
    else if (!args->json && found.count)
        puts("Nothing was touched; forkd cleanup -y removes this.");
    if (args->json)
        verb_json(json_incref(rows));
    json_decref(rows);
    leftovers_free(&found);
    return status;
}

const struct verb verb_cleanup = {
    .name = "cleanup",
    .what = "find, and remove, what belongs to nobody",
    .usage = "[-y]",
    .about =
        "Lists what forkd made on this host and no state knows any more: processes of virtual machines and run "
        "directories whose state file is gone, and cgroups in which nothing lives. Without -y it only lists.\n"
        "\n"
        "What belongs to a state is not touched, whether a controller runs on it or not: the next controller takes "
        "over what lives there and removes what does not.",
    .flags = flags,
    .run = cleanup_run,
};
