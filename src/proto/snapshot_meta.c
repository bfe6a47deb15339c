/* snapshot_meta.c: see snapshot_meta.h. */
#include "proto/snapshot_meta.h"

#include "base/crc.h"
#include "base/own.h"

#include <errno.h>
#include <string.h>

enum { PAGE = 4096, CRC_DIGITS = 8 };

static const char format_name[] = "forkd-snapshot";

/* The end of every text: the checksum of what is before it. */
static const char tail_head[] = ",\n  \"crc32c\": \"";
static const char tail_end[] = "\"\n}\n";
enum { TAIL_LEN = sizeof tail_head - 1 + CRC_DIGITS + sizeof tail_end - 1 };

static const char *const part_names[] = {
    [SNAPSHOT_VMSTATE] = "vmstate",
    [SNAPSHOT_MEMORY_MAP] = "memory.map",
    [SNAPSHOT_DISK_MAP] = "disk0.map",
};
_Static_assert(sizeof part_names / sizeof *part_names == SNAPSHOT_PARTS, "every part has a name");

void snapshot_meta_hash(const struct snapshot_meta *meta, char hash[static SNAPSHOT_HASH_MAX])
{
    snprintf(hash, SNAPSHOT_HASH_MAX, "%08x-%08x-%08x", meta->part[SNAPSHOT_VMSTATE].crc,
             meta->part[SNAPSHOT_MEMORY_MAP].crc, meta->part[SNAPSHOT_DISK_MAP].crc);
}

/* Encoding. Setters return nonzero when a value cannot be had: a text that is no UTF-8, no memory. */

static json_t *crc_json(uint32_t crc)
{
    char text[CRC_DIGITS + 1];
    snprintf(text, sizeof text, "%08x", crc);
    return json_string(text);
}

static int set_text(json_t *object, const char *name, const char *text)
{
    return *text ? json_object_set_new(object, name, json_string(text)) : 0;
}

static int set_number(json_t *object, const char *name, uint64_t value)
{
    return json_object_set_new(object, name, json_integer((json_int_t)value));
}

static int set_parent(json_t *object, const struct snapshot_meta *meta)
{
    json_t *parent = json_object();
    int bad = set_text(parent, "tag", meta->parent_tag) | set_text(parent, "content_hash", meta->parent_hash);
    return json_object_set_new(object, "parent", parent) | bad;
}

static int set_base(json_t *object, const struct snapshot_base *base)
{
    json_t *image = json_object();
    int bad = set_text(image, "path", base->path) | set_number(image, "bytes", base->bytes) |
              json_object_set_new(image, "mtime_ns", json_integer((json_int_t)base->mtime_ns)) |
              json_object_set_new(image, "crc32c", crc_json(base->crc));
    return json_object_set_new(object, "base", image) | bad;
}

static int set_parts(json_t *object, const struct snapshot_meta *meta)
{
    json_t *files = json_object();
    int bad = 0;
    for (int i = 0; i < SNAPSHOT_PARTS; i++) {
        if (i == SNAPSHOT_DISK_MAP && !*meta->base.path)
            continue;
        json_t *part = json_object();
        bad |= set_number(part, "bytes", meta->part[i].bytes) |
               json_object_set_new(part, "crc32c", crc_json(meta->part[i].crc)) |
               json_object_set_new(files, part_names[i], part);
    }
    return json_object_set_new(object, "files", files) | bad;
}

static int set_written(json_t *object, const struct snapshot_meta *meta)
{
    char hash[SNAPSHOT_HASH_MAX];
    snapshot_meta_hash(meta, hash);
    return set_text(object, "content_hash", hash) | set_text(object, "engine", meta->engine) |
           set_text(object, "warning", meta->warning) | set_number(object, "logical_bytes", meta->logical_bytes) |
           set_number(object, "shared_bytes", meta->shared_bytes) |
           set_number(object, "physical_bytes", meta->physical_bytes) | set_number(object, "write_ms", meta->write_ms) |
           set_parts(object, meta);
}

static int set_all(json_t *object, const struct snapshot_meta *meta)
{
    int bad = set_text(object, "format", format_name) | set_number(object, "version", SNAPSHOT_META_VERSION) |
              set_text(object, "tag", meta->tag) | set_number(object, "created_at_unix", meta->created_at_unix) |
              set_text(object, "branched_from", meta->branched_from) |
              set_number(object, "mem_bytes", meta->mem_bytes) | set_number(object, "vcpus", meta->vcpus);
    if (*meta->parent_tag)
        bad |= set_parent(object, meta);
    if (*meta->base.path)
        bad |= set_base(object, &meta->base);
    if (*meta->details)
        bad |= json_object_set_new(object, "details", json_loads(meta->details, JSON_REJECT_DUPLICATES, NULL));
    if (meta->written)
        bad |= set_written(object, meta);
    return bad;
}

int snapshot_meta_encode(const struct snapshot_meta *meta, char *text, size_t cap, struct err *err)
{
    json_t *object = json_object();
    own_free char *body = set_all(object, meta) == 0 ? json_dumps(object, JSON_INDENT(2)) : NULL;
    json_decref(object);
    if (!body)
        return err_say(err, EINVAL, "snapshot %s cannot be described: a text of it is no UTF-8, or memory ran out",
                       meta->tag);
    size_t len = strlen(body) - 2; /* without the "\n}" that the tail brings */
    if (len + TAIL_LEN >= cap)
        return err_say(err, EMSGSIZE, "the description of snapshot %s is too long", meta->tag);
    snprintf(text, cap, "%.*s%s%08x%s", (int)len, body, tail_head, crc32c(0, body, len), tail_end);
    return (int)(len + TAIL_LEN);
}

/* Decoding. Each taker says whether the member is there and of its kind. */

static bool take_text(const json_t *object, const char *name, char *into, size_t cap)
{
    const json_t *value = json_object_get(object, name);
    size_t len = json_string_length(value);
    if (!json_is_string(value) || len >= cap)
        return false;
    memcpy(into, json_string_value(value), len + 1);
    return true;
}

/* Absent is allowed, and empty then. */
static bool take_text_if_there(const json_t *object, const char *name, char *into, size_t cap)
{
    into[0] = 0;
    return !json_object_get(object, name) || take_text(object, name, into, cap);
}

static bool take_number(const json_t *object, const char *name, uint64_t *into)
{
    const json_t *value = json_object_get(object, name);
    if (!json_is_integer(value) || json_integer_value(value) < 0)
        return false;
    *into = (uint64_t)json_integer_value(value);
    return true;
}

static bool take_crc(const json_t *object, uint32_t *into)
{
    char text[CRC_DIGITS + 1];
    if (!take_text(object, "crc32c", text, sizeof text) || strlen(text) != CRC_DIGITS ||
        strspn(text, "0123456789abcdef") != CRC_DIGITS)
        return false;
    *into = (uint32_t)strtoul(text, NULL, 16);
    return true;
}

static bool take_parent(const json_t *object, struct snapshot_meta *meta)
{
    const json_t *parent = json_object_get(object, "parent");
    if (!parent)
        return true;
    return take_text(parent, "tag", meta->parent_tag, sizeof meta->parent_tag) && rest_tag_valid(meta->parent_tag) &&
           take_text(parent, "content_hash", meta->parent_hash, sizeof meta->parent_hash) && *meta->parent_hash;
}

static bool take_base(const json_t *object, struct snapshot_base *base)
{
    const json_t *value = json_object_get(object, "base");
    if (!value)
        return true;
    const json_t *mtime = json_object_get(value, "mtime_ns");
    if (!json_is_integer(mtime))
        return false;
    base->mtime_ns = json_integer_value(mtime);
    return take_text(value, "path", base->path, sizeof base->path) && *base->path &&
           take_number(value, "bytes", &base->bytes) && take_crc(value, &base->crc);
}

static bool take_details(const json_t *object, struct snapshot_meta *meta)
{
    const json_t *details = json_object_get(object, "details");
    if (!details)
        return true;
    own_free char *text = json_is_object(details) ? json_dumps(details, JSON_COMPACT) : NULL;
    if (!text || strlen(text) >= sizeof meta->details)
        return false;
    memcpy(meta->details, text, strlen(text) + 1);
    return true;
}

static bool take_part(const json_t *files, enum snapshot_part part, struct snapshot_meta *meta)
{
    const json_t *file = json_object_get(files, part_names[part]);
    if (part == SNAPSHOT_DISK_MAP && !*meta->base.path)
        return !file;
    return take_number(file, "bytes", &meta->part[part].bytes) && take_crc(file, &meta->part[part].crc);
}

static bool take_written(const json_t *object, struct snapshot_meta *meta)
{
    char found[SNAPSHOT_HASH_MAX], hash[SNAPSHOT_HASH_MAX];
    meta->written = json_object_get(object, "content_hash") != NULL;
    if (!meta->written)
        return true;
    const json_t *files = json_object_get(object, "files");
    for (int i = 0; i < SNAPSHOT_PARTS; i++)
        if (!take_part(files, (enum snapshot_part)i, meta))
            return false;
    snapshot_meta_hash(meta, hash);
    return take_text(object, "content_hash", found, sizeof found) && !strcmp(found, hash) &&
           take_text(object, "engine", meta->engine, sizeof meta->engine) &&
           take_text_if_there(object, "warning", meta->warning, sizeof meta->warning) &&
           take_number(object, "logical_bytes", &meta->logical_bytes) &&
           take_number(object, "shared_bytes", &meta->shared_bytes) &&
           take_number(object, "physical_bytes", &meta->physical_bytes) &&
           take_number(object, "write_ms", &meta->write_ms);
}

static bool take_identity(const json_t *object, struct snapshot_meta *meta)
{
    return take_text(object, "tag", meta->tag, sizeof meta->tag) && rest_tag_valid(meta->tag) &&
           take_number(object, "created_at_unix", &meta->created_at_unix) &&
           take_text_if_there(object, "branched_from", meta->branched_from, sizeof meta->branched_from);
}

/* An order may leave it to forkd-store to look. */
static bool take_machine(const json_t *object, struct snapshot_meta *meta)
{
    uint64_t vcpus;
    if (!take_number(object, "mem_bytes", &meta->mem_bytes) || !take_number(object, "vcpus", &vcpus) ||
        vcpus > REST_VCPUS_MAX)
        return false;
    meta->vcpus = (uint32_t)vcpus;
    bool known = meta->mem_bytes && vcpus;
    return meta->mem_bytes % PAGE == 0 && meta->mem_bytes <= (uint64_t)REST_MEM_MAX_MIB << 20 &&
           (known || !meta->written);
}

static int read_object(struct snapshot_meta *meta, const json_t *object, struct err *err)
{
    char format[sizeof format_name + 1];
    uint64_t version;
    if (!take_text(object, "format", format, sizeof format) || strcmp(format, format_name) ||
        !take_number(object, "version", &version))
        return err_say(err, EINVAL, "snapshot.json is none of forkd's");
    if (version != SNAPSHOT_META_VERSION)
        return err_say(err, EINVAL, "snapshot.json has version %llu; this forkd reads version %d",
                       (unsigned long long)version, SNAPSHOT_META_VERSION);
    if (!take_identity(object, meta))
        return err_say(err, EINVAL, "snapshot.json: the tag or the origin of the snapshot is malformed");
    if (!take_parent(object, meta))
        return err_say(err, EINVAL, "snapshot.json: the parent is malformed");
    if (!take_base(object, &meta->base))
        return err_say(err, EINVAL, "snapshot.json: the base image is malformed");
    if (!take_details(object, meta))
        return err_say(err, EINVAL, "snapshot.json: the details are malformed");
    if (!take_written(object, meta))
        return err_say(err, EINVAL, "snapshot.json: what it says of the snapshot's files is malformed");
    if (!take_machine(object, meta))
        return err_say(err, EINVAL, "snapshot.json: the size of the memory or the number of CPUs is malformed");
    return 0;
}

/* The text up to its tail, if the checksum there is that text's. */
static bool sum_is_right(const char *text, size_t len, size_t *body)
{
    if (len <= TAIL_LEN)
        return false;
    *body = len - TAIL_LEN;
    char tail[TAIL_LEN + 1];
    snprintf(tail, sizeof tail, "%s%08x%s", tail_head, crc32c(0, text, *body), tail_end);
    return !memcmp(text + *body, tail, TAIL_LEN);
}

int snapshot_meta_decode(struct snapshot_meta *meta, const char *text, size_t len, struct err *err)
{
    size_t body;
    *meta = (struct snapshot_meta){0};
    if (!sum_is_right(text, len, &body))
        return err_say(err, EINVAL, "snapshot.json is damaged or cut: its checksum is not that of its text");
    json_error_t why;
    json_t *object = json_loadb(text, len, JSON_REJECT_DUPLICATES, &why);
    if (!object)
        return err_say(err, EINVAL, "snapshot.json is no JSON: %s (line %d)", why.text, why.line);
    int rc = read_object(meta, object, err);
    json_decref(object);
    return rc;
}
