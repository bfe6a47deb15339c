/* chain.c: see chain.h. */
#include "snap/chain.h"

#include "base/crc.h"
#include "base/io.h"
#include "base/own.h"

#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

/* Opening */

/* A disk's files may be missing: whether they should is known when snapshot.json was read. */
static int open_link(struct chain_link *link, int dir, struct err *err)
{
    for (int i = 0; i < SNAPSHOT_FILES; i++) {
        link->fd[i] = openat(dir, snapshot_file_name((enum snapshot_file)i), O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
        if (link->fd[i] < 0 && !(errno == ENOENT && (i == FILE_LAYER || i == FILE_LAYER_MAP)))
            return err_set(err, errno, "open %s", snapshot_file_name((enum snapshot_file)i));
    }
    return 0;
}

int chain_open(struct chain *chain, const int *dirs, unsigned count, struct err *err)
{
    *chain = (struct chain){0};
    if (count == 0 || count > CHAIN_MAX)
        return err_say(err, EINVAL, "a chain of %u snapshots cannot be loaded, at most %d", count, CHAIN_MAX);
    chain->link = calloc(count, sizeof *chain->link);
    if (!chain->link)
        return err_set(err, ENOMEM, "open a chain of %u snapshots", count);
    for (unsigned i = 0; i < count; i++)
        memset(chain->link[i].fd, -1, sizeof chain->link[i].fd);
    chain->count = count;
    for (unsigned i = 0; i < count; i++) {
        int rc = open_link(&chain->link[i], dirs[i], err);
        if (rc < 0) {
            chain_close(chain);
            return count == 1 ? rc : err_wrap(err, "snapshot %u of a chain of %u", i + 1, count);
        }
    }
    return 0;
}

void chain_close(struct chain *chain)
{
    for (unsigned i = 0; i < chain->count; i++) {
        for (int f = 0; f < SNAPSHOT_FILES; f++)
            fd_close(&chain->link[i].fd[f]);
        block_map_free(&chain->link[i].memory);
        block_map_free(&chain->link[i].disk);
    }
    free(chain->link);
    *chain = (struct chain){0};
}

/* Checking */

static int file_bytes(const struct chain_link *link, enum snapshot_file file, uint64_t *bytes, struct err *err)
{
    struct stat st;
    if (fstat(link->fd[file], &st) < 0)
        return err_set(err, errno, "%s", snapshot_file_name(file));
    if (!S_ISREG(st.st_mode))
        return err_say(err, EINVAL, "%s is no regular file", snapshot_file_name(file));
    *bytes = (uint64_t)st.st_size;
    return 0;
}

static int read_meta(struct chain_link *link, struct err *err)
{
    char text[SNAPSHOT_META_MAX];
    uint64_t bytes = 0;
    int rc = file_bytes(link, FILE_META, &bytes, err);
    if (rc == 0 && bytes == 0)
        rc = err_say(err, EINVAL, "snapshot.json is empty: the snapshot was never written to its end");
    if (rc == 0 && bytes > sizeof text)
        rc = err_say(err, EINVAL, "snapshot.json is too long");
    if (rc == 0)
        rc = io_pread_all(link->fd[FILE_META], text, (size_t)bytes, 0, err);
    if (rc == 0)
        rc = snapshot_meta_decode(&link->meta, text, (size_t)bytes, err);
    if (rc == 0 && !link->meta.written)
        rc = err_say(err, EINVAL, "snapshot.json does not say what was written");
    return rc;
}

static int check_bytes(const struct chain_link *link, enum snapshot_file file, uint64_t wanted, struct err *err)
{
    uint64_t bytes = 0;
    int rc = file_bytes(link, file, &bytes, err);
    if (rc == 0 && bytes != wanted)
        rc = err_say(err, EINVAL, "%s has %llu bytes instead of %llu: it was cut, or is of another snapshot",
                     snapshot_file_name(file), (unsigned long long)bytes, (unsigned long long)wanted);
    return rc;
}

/* Ties a file to snapshot.json. Its own checks come first where it has some: they name the part that is damaged. */
static int check_sum(const struct chain_link *link, enum snapshot_file file, const struct snapshot_part_sum *sum,
                     struct err *err)
{
    uint8_t buf[1 << 14];
    uint32_t crc = 0;
    for (uint64_t at = 0; at < sum->bytes; at += sizeof buf) {
        size_t len = sum->bytes - at < sizeof buf ? (size_t)(sum->bytes - at) : sizeof buf;
        int rc = io_pread_all(link->fd[file], buf, len, at, err);
        if (rc < 0)
            return err_wrap(err, "%s", snapshot_file_name(file));
        crc = crc32c(crc, buf, len);
    }
    if (crc != sum->crc)
        return err_say(err, EINVAL, "%s is damaged, or of another snapshot: its checksum is not that in snapshot.json",
                       snapshot_file_name(file));
    return 0;
}

static int read_map(struct chain_link *link, enum snapshot_file data, uint64_t blocks, struct block_map *map,
                    struct err *err)
{
    enum snapshot_file file = data == FILE_MEMORY ? FILE_MEMORY_MAP : FILE_LAYER_MAP;
    const struct snapshot_part_sum *sum =
        &link->meta.part[data == FILE_MEMORY ? SNAPSHOT_MEMORY_MAP : SNAPSHOT_DISK_MAP];
    int rc = check_bytes(link, data, blocks * BLOCK_BYTES, err);
    if (rc == 0)
        rc = block_map_read(map, link->fd[file], snapshot_file_name(file), blocks, err);
    if (rc == 0)
        rc = check_bytes(link, file, sum->bytes, err);
    return rc == 0 ? check_sum(link, file, sum, err) : rc;
}

static int check_lineage(const struct chain_link *link, const struct chain_link *parent, struct err *err)
{
    const struct snapshot_meta *meta = &link->meta;
    char hash[SNAPSHOT_HASH_MAX];
    if (!parent)
        return *meta->parent_tag
                   ? err_say(err, EINVAL, "it is a diff to %s, which did not come with it", meta->parent_tag)
                   : 0;
    snapshot_meta_hash(&parent->meta, hash);
    if (!*meta->parent_tag)
        return err_say(err, EINVAL, "it is whole, and no diff to %s", parent->meta.tag);
    if (strcmp(hash, meta->parent_hash))
        return err_say(err, EINVAL, "it is a diff to %s as it was when that had the content hash %s; it has %s now",
                       meta->parent_tag, meta->parent_hash, hash);
    if (meta->mem_bytes != parent->meta.mem_bytes || meta->vcpus != parent->meta.vcpus ||
        meta->base.bytes != parent->meta.base.bytes || meta->base.crc != parent->meta.base.crc)
        return err_say(err, EINVAL, "it is of another machine than its parent %s", parent->meta.tag);
    return 0;
}

static int check_link(struct chain_link *link, const struct chain_link *parent, uint64_t disk_bytes, struct err *err)
{
    int rc = check_lineage(link, parent, err);
    if (rc == 0)
        rc = check_bytes(link, FILE_VMSTATE, link->meta.part[SNAPSHOT_VMSTATE].bytes, err);
    if (rc == 0)
        rc = check_sum(link, FILE_VMSTATE, &link->meta.part[SNAPSHOT_VMSTATE], err);
    if (rc == 0)
        rc = read_map(link, FILE_MEMORY, link->meta.mem_bytes / BLOCK_BYTES, &link->memory, err);
    if (rc < 0 || !*link->meta.base.path)
        return rc;
    if (link->fd[FILE_LAYER] < 0 || link->fd[FILE_LAYER_MAP] < 0)
        return err_say(err, ENOENT, "%s is missing",
                       snapshot_file_name(link->fd[FILE_LAYER] < 0 ? FILE_LAYER : FILE_LAYER_MAP));
    return read_map(link, FILE_LAYER, disk_bytes / BLOCK_BYTES, &link->disk, err);
}

int chain_inspect(struct chain *chain, uint64_t disk_bytes, struct err *err)
{
    int rc = read_meta(&chain->link[0], err);
    return rc == 0 ? check_link(&chain->link[0], NULL, disk_bytes, err) : rc;
}

static uint64_t map_bytes(const struct block_map *map)
{
    uint64_t bytes = 0;
    for (uint64_t i = 0; i < map->count; i++)
        bytes += (uint64_t)chunk_count(map->chunk[i].held) * BLOCK_BYTES;
    return bytes;
}

static uint64_t chain_bytes(const struct chain *chain)
{
    uint64_t bytes = 0;
    for (unsigned i = 0; i < chain->count; i++)
        bytes += map_bytes(&chain->link[i].memory) + map_bytes(&chain->link[i].disk);
    return bytes;
}

int chain_describe(struct chain *chain, struct err *err)
{
    for (unsigned i = 0; i < chain->count; i++) {
        int rc = read_meta(&chain->link[i], err);
        if (rc < 0)
            return chain->count == 1 ? rc : err_wrap(err, "snapshot %u of a chain of %u", i + 1, chain->count);
    }
    return 0;
}

int chain_check(struct chain *chain, uint64_t disk_bytes, struct err *err)
{
    for (unsigned i = 0; i < chain->count; i++) {
        int rc = check_link(&chain->link[i], i ? &chain->link[i - 1] : NULL, disk_bytes, err);
        if (rc < 0)
            return err_wrap(err, "snapshot %s", chain->link[i].meta.tag);
    }
    chain->total = chain_bytes(chain);
    return 0;
}
