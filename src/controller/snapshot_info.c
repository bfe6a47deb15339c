/* snapshot_info.c: see snapshot_info.h. */
#include "controller/snapshot_info.h"

#include "controller/lineage.h"
#include "controller/snapshot_root.h"
#include "controller/snapshots.h"

static void set_bytes(json_t *object, const char *name, uint64_t bytes)
{
    json_object_set_new(object, name, json_integer((json_int_t)bytes));
}

/* Zero where it is not on the disk. */
static void add_files(struct controller *c, const struct snapshot *s, json_t *object)
{
    uint64_t physical = 0, logical = 0, state = 0, ignored;
    pthread_mutex_lock(&c->fleet.lock);
    bool written = s->durable.state == DURABLE_WRITTEN;
    pthread_mutex_unlock(&c->fleet.lock);
    if (written) {
        snapshot_root_file(c->root, s->tag, "memory.bin", &physical, &logical);
        snapshot_root_file(c->root, s->tag, "vmstate", &ignored, &state);
    }
    set_bytes(object, "memory_logical_bytes", logical);
    set_bytes(object, "memory_physical_bytes", physical);
    set_bytes(object, "vmstate_bytes", state);
}

/* The fleet's lock is held. */
static void add_hashes(const struct snapshot *s, json_t *object)
{
    char hash[SNAPSHOT_HASH_MAX];
    if (s->durable.state != DURABLE_WRITTEN)
        return;
    snapshot_meta_hash(s->durable.meta, hash);
    json_object_set_new(object, "content_hash", json_string(hash));
    if (*s->durable.meta->parent_hash)
        json_object_set_new(object, "parent_content_hash", json_string(s->durable.meta->parent_hash));
}

/* The fleet's lock is held. A chain that is broken ends where it is. */
static json_t *ancestors_json(const struct controller *c, const struct snapshot *s)
{
    const struct snapshot *chain[LINEAGE_MAX];
    json_t *list = json_array();
    int count = s->durable.state == DURABLE_WRITTEN ? lineage_chain(&c->fleet, s, chain, c->snapshot_root, NULL) : 0;
    for (int i = count - 1; i > 0; i--)
        json_array_append_new(list, json_string(chain[i]->tag));
    return list;
}

/* The fleet's lock is held. */
static json_t *dependents_json(const struct controller *c, const struct snapshot *s)
{
    json_t *list = json_array();
    list_for_each (n, &c->fleet.snapshots) {
        const struct snapshot *other = list_entry(n, struct snapshot, link);
        if (lineage_depends(other, s))
            json_array_append_new(list, json_string(other->tag));
    }
    return list;
}

json_t *snapshot_info_json(struct controller *c, struct snapshot *s)
{
    json_t *object = snapshot_json(c, s, false);
    if (!object)
        return NULL;
    add_files(c, s, object);
    pthread_mutex_lock(&c->fleet.lock);
    add_hashes(s, object);
    json_t *ancestors = ancestors_json(c, s), *dependents = dependents_json(c, s);
    pthread_mutex_unlock(&c->fleet.lock);
    set_bytes(object, "chain_depth", json_array_size(ancestors));
    json_object_set_new(object, "ancestors", ancestors);
    json_object_set_new(object, "dependents", dependents);
    return object;
}
