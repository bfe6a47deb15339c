/* snapshot_details.c: see snapshot_details.h. */
#include "controller/snapshot_details.h"

#include "base/own.h"

#include <errno.h>
#include <string.h>

static int put(json_t *object, const char *name, uint64_t value)
{
    return json_object_set_new(object, name, json_integer((json_int_t)value));
}

static int put_branch(json_t *object, const struct rest_branch *branch)
{
    json_t *phases = json_array();
    int bad = 0;
    for (int i = 0; i < REST_PHASES; i++)
        bad |= json_array_append_new(phases, json_integer((json_int_t)branch->pause_us[i]));
    return bad | json_object_set_new(object, "pause_us", phases) | put(object, "mode", branch->mode) |
           json_object_set_new(object, "spawned_from", json_string(branch->parent_tag)) |
           put(object, "rounds", branch->rounds) | put(object, "pages_streamed", branch->pages_streamed) |
           put(object, "pages_in_pause", branch->pages_in_pause) | put(object, "ready_us", branch->ready_us);
}

static int put_diff(json_t *object, const struct rest_diff *diff)
{
    return put(object, "diff_ms", diff->ms) | put(object, "diff_physical_bytes", diff->physical_bytes) |
           put(object, "diff_logical_bytes", diff->logical_bytes);
}

int details_write(const struct snapshot *s, struct snapshot_meta *meta, struct err *err)
{
    json_t *object = json_object();
    int bad = object ? 0 : -1;
    if (*s->branch.source)
        bad |= put_branch(object, &s->branch);
    if (s->durable.diff.logical_bytes)
        bad |= put_diff(object, &s->durable.diff);
    own_free char *text = bad ? NULL : json_dumps(object, JSON_COMPACT);
    json_decref(object);
    if (!text || strlen(text) >= sizeof meta->details)
        return err_say(err, ENOMEM, "snapshot %s cannot be described", s->tag);
    memcpy(meta->details, text, strlen(text) + 1);
    return 0;
}

static uint64_t get(const json_t *object, const char *name)
{
    json_int_t value = json_integer_value(json_object_get(object, name));
    return value < 0 ? 0 : (uint64_t)value;
}

static void get_branch(const json_t *object, struct rest_branch *branch)
{
    const json_t *phases = json_object_get(object, "pause_us");
    const char *parent = json_string_value(json_object_get(object, "spawned_from"));
    uint64_t mode = get(object, "mode");
    branch->mode = mode <= REST_LIVE ? (enum rest_mode)mode : REST_FULL;
    snprintf(branch->parent_tag, sizeof branch->parent_tag, "%s", parent ? parent : "");
    for (size_t i = 0; i < REST_PHASES; i++) {
        json_int_t us = json_integer_value(json_array_get(phases, i));
        branch->pause_us[i] = us < 0 ? 0 : (uint64_t)us;
    }
    branch->rounds = (unsigned)get(object, "rounds");
    branch->pages_streamed = get(object, "pages_streamed");
    branch->pages_in_pause = get(object, "pages_in_pause");
    branch->ready_us = get(object, "ready_us");
}

void details_read(const struct snapshot_meta *meta, struct rest_branch *branch, struct rest_diff *diff)
{
    json_t *object = *meta->details ? json_loads(meta->details, JSON_REJECT_DUPLICATES, NULL) : NULL;
    if (!*branch->source && *meta->branched_from) {
        snprintf(branch->source, sizeof branch->source, "%.*s", REST_ID_MAX, meta->branched_from);
        get_branch(object, branch);
    }
    *diff = (struct rest_diff){.ms = get(object, "diff_ms"),
                               .physical_bytes = get(object, "diff_physical_bytes"),
                               .logical_bytes = get(object, "diff_logical_bytes")};
    if (*meta->parent_tag)
        *diff = (struct rest_diff){
            .ms = meta->write_ms, .physical_bytes = meta->physical_bytes, .logical_bytes = meta->mem_bytes};
    json_decref(object);
}
