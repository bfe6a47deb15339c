/* lineage.c: see lineage.h. */
#include "controller/lineage.h"

#include <errno.h>
#include <string.h>

static const struct snapshot *written_as(const struct fleet *fleet, const char *tag)
{
    list_for_each (n, &fleet->snapshots) {
        const struct snapshot *s = list_entry(n, struct snapshot, link);
        if (s->state != SNAPSHOT_HIDDEN && s->durable.state == DURABLE_WRITTEN && !strcmp(s->tag, tag))
            return s;
    }
    return NULL;
}

int lineage_chain(const struct fleet *fleet, const struct snapshot *s, const struct snapshot *chain[LINEAGE_MAX],
                  const char *root, struct err *err)
{
    int count = 0;
    for (;;) {
        if (count == LINEAGE_MAX)
            return err_say(err, E2BIG, "it has more than %d ancestors", LINEAGE_MAX - 1);
        chain[count++] = s;
        const struct snapshot_meta *meta = s->durable.meta;
        if (!*meta->parent_tag)
            return count;
        char hash[SNAPSHOT_HASH_MAX];
        const struct snapshot *parent = written_as(fleet, meta->parent_tag);
        if (!parent)
            return err_say(err, ENOENT, "%s is a diff to %s, and %s/%s/memory.bin is missing", s->tag, meta->parent_tag,
                           root, meta->parent_tag);
        snapshot_meta_hash(parent->durable.meta, hash);
        if (strcmp(hash, meta->parent_hash) != 0)
            return err_say(err, ENOENT, "%s is a diff to another %s than the one in %s/%s/memory.bin", s->tag,
                           meta->parent_tag, root, meta->parent_tag);
        s = parent;
    }
}

bool lineage_depends(const struct snapshot *s, const struct snapshot *parent)
{
    if (s == parent || s->state == SNAPSHOT_HIDDEN || s->state == SNAPSHOT_GONE)
        return false;
    if (s->durable.state == DURABLE_WRITING)
        return s->durable.parent == parent && s->branch.mode != REST_FULL;
    if (s->durable.state != DURABLE_WRITTEN || parent->durable.state != DURABLE_WRITTEN)
        return false;
    char hash[SNAPSHOT_HASH_MAX];
    snapshot_meta_hash(parent->durable.meta, hash);
    return !strcmp(s->durable.meta->parent_tag, parent->tag) && !strcmp(s->durable.meta->parent_hash, hash);
}
