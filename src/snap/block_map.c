/* block_map.c: see block_map.h. */
#include "snap/block_map.h"

#include "base/crc.h"
#include "base/io.h"
#include "base/own.h"
#include "base/pack.h"

#include <string.h>
#include <sys/stat.h>

enum { HEADER_LEN = 64, RECORD_LEN = 80, MAP_VERSION = 1, RECORDS_AT_ONCE = 512 };

static const char magic[8] = "FORKDMAP";

void block_map_init(struct block_map *map, uint64_t blocks)
{
    *map = (struct block_map){.blocks = blocks};
}

void block_map_free(struct block_map *map)
{
    free(map->chunk);
    *map = (struct block_map){0};
}

static int make_room(struct block_map *map, uint64_t count, struct err *err)
{
    if (count <= map->room)
        return 0;
    if (count > BLOCK_MAP_RECORDS_MAX)
        return err_say(err, E2BIG, "a snapshot's file can hold blocks of at most %llu MiB",
                       (unsigned long long)BLOCK_MAP_RECORDS_MAX);
    uint64_t room = map->room ? map->room * 2 : 64;
    if (room < count)
        room = count;
    struct block_chunk *chunk = realloc(map->chunk, room * sizeof *chunk);
    if (!chunk)
        return err_set(err, ENOMEM, "get memory for the map of a snapshot's file");
    map->chunk = chunk;
    map->room = room;
    return 0;
}

static int note(struct block_map *map, uint64_t block, bool zero, struct err *err)
{
    uint64_t number = block / CHUNK_BLOCKS;
    if (!map->count || map->chunk[map->count - 1].number != number) {
        int rc = make_room(map, map->count + 1, err);
        if (rc < 0)
            return rc;
        map->chunk[map->count++] = (struct block_chunk){.number = number};
    }
    struct block_chunk *chunk = &map->chunk[map->count - 1];
    uint64_t *bits = zero ? chunk->zero : chunk->held;
    bits[block % CHUNK_BLOCKS / 64] |= UINT64_C(1) << (block % 64);
    return 0;
}

int block_map_add(struct block_map *map, uint64_t first, uint64_t count, bool zero, struct err *err)
{
    int rc = 0;
    for (uint64_t block = first; rc == 0 && block < first + count; block++)
        rc = note(map, block, zero, err);
    return rc;
}

const struct block_chunk *block_map_find(const struct block_map *map, uint64_t chunk)
{
    uint64_t low = 0, high = map->count;
    while (low < high) {
        uint64_t middle = low + (high - low) / 2;
        if (map->chunk[middle].number < chunk)
            low = middle + 1;
        else
            high = middle;
    }
    return low < map->count && map->chunk[low].number == chunk ? &map->chunk[low] : NULL;
}

unsigned chunk_count(const uint64_t *bits)
{
    unsigned count = 0;
    for (int i = 0; i < CHUNK_WORDS; i++)
        count += (unsigned)__builtin_popcountll(bits[i]);
    return count;
}

static bool is_set(const uint64_t *bits, unsigned block)
{
    return bits[block / 64] >> (block % 64) & 1;
}

unsigned chunk_run(const uint64_t *bits, unsigned *block)
{
    unsigned at = *block;
    while (at < CHUNK_BLOCKS && !is_set(bits, at))
        at = bits[at / 64] >> (at % 64) ? at + 1 : (at / 64 + 1) * 64;
    unsigned end = at;
    while (end < CHUNK_BLOCKS && is_set(bits, end))
        end++;
    *block = at;
    return end - at;
}

uint32_t chunk_sum(const struct block_chunk *chunk, const uint8_t *bytes)
{
    uint32_t crc = 0;
    for (unsigned block = 0, run; (run = chunk_run(chunk->held, &block)); block += run)
        crc = crc32c(crc, bytes + (size_t)block * BLOCK_BYTES, (size_t)run * BLOCK_BYTES);
    return crc;
}

/* Files */

static void pack_record(const struct block_chunk *chunk, struct pack *p)
{
    size_t begin = p->len;
    pack_u64(p, chunk->number);
    for (int i = 0; i < CHUNK_WORDS; i++)
        pack_u64(p, chunk->held[i]);
    for (int i = 0; i < CHUNK_WORDS; i++)
        pack_u64(p, chunk->zero[i]);
    pack_u32(p, chunk->crc);
    pack_u32(p, crc32c(0, p->buf + begin, RECORD_LEN - 4));
}

static void pack_header(const struct block_map *map, struct pack *p)
{
    uint64_t held = 0, zero = 0;
    for (uint64_t i = 0; i < map->count; i++) {
        held += chunk_count(map->chunk[i].held);
        zero += chunk_count(map->chunk[i].zero);
    }
    pack_bytes(p, magic, sizeof magic);
    pack_u32(p, MAP_VERSION);
    pack_u32(p, 0);
    pack_u64(p, map->blocks);
    pack_u64(p, map->count);
    pack_u64(p, held);
    pack_u64(p, zero);
    pack_u64(p, 0);
    pack_u32(p, 0);
    pack_u32(p, crc32c(0, p->buf, HEADER_LEN - 4));
}

static int append(int fd, struct pack *p, uint64_t *bytes, uint32_t *crc, struct err *err)
{
    int rc = io_pwrite_all(fd, p->buf, p->len, *bytes, err);
    *crc = crc32c(*crc, p->buf, p->len);
    *bytes += p->len;
    p->len = 0;
    return rc;
}

int block_map_write(const struct block_map *map, int fd, const char *name, uint64_t *bytes, uint32_t *crc,
                    struct err *err)
{
    own_free uint8_t *buf = malloc((size_t)RECORDS_AT_ONCE * RECORD_LEN);
    if (!buf)
        return err_set(err, ENOMEM, "write %s", name);
    struct pack p = pack_into(buf, (size_t)RECORDS_AT_ONCE * RECORD_LEN);
    *bytes = 0;
    *crc = 0;
    pack_header(map, &p);
    int rc = append(fd, &p, bytes, crc, err);
    for (uint64_t i = 0; rc == 0 && i < map->count; i++) {
        pack_record(&map->chunk[i], &p);
        if (p.len == p.cap || i + 1 == map->count)
            rc = append(fd, &p, bytes, crc, err);
    }
    return rc < 0 ? err_wrap(err, "%s", name) : 0;
}

struct counts {
    uint64_t held, zero;
};

static int read_header(struct block_map *map, int fd, const char *name, uint64_t blocks, struct counts *counts,
                       struct err *err)
{
    struct stat st;
    uint8_t bytes[HEADER_LEN];
    if (fstat(fd, &st) < 0)
        return err_set(err, errno, "%s", name);
    if (st.st_size < HEADER_LEN)
        return err_say(err, EINVAL, "%s: the header is cut: the file has %lld bytes", name, (long long)st.st_size);
    int rc = io_pread_all(fd, bytes, sizeof bytes, 0, err);
    if (rc < 0)
        return err_wrap(err, "%s", name);
    struct unpack u = unpack_from(bytes, sizeof bytes);
    char found[sizeof magic];
    unpack_bytes(&u, found, sizeof found);
    uint32_t version = unpack_u32(&u);
    unpack_u32(&u);
    map->blocks = unpack_u64(&u);
    map->count = unpack_u64(&u);
    counts->held = unpack_u64(&u);
    counts->zero = unpack_u64(&u);
    u.at = HEADER_LEN - 4;
    if (memcmp(found, magic, sizeof magic) || unpack_u32(&u) != crc32c(0, bytes, HEADER_LEN - 4))
        return err_say(err, EINVAL, "%s: the header is damaged", name);
    if (version != MAP_VERSION)
        return err_say(err, EINVAL, "%s has version %u; this forkd reads version %d", name, version, MAP_VERSION);
    if (map->blocks != blocks)
        return err_say(err, EINVAL, "%s is of a file of %llu blocks instead of %llu", name,
                       (unsigned long long)map->blocks, (unsigned long long)blocks);
    if (map->count > BLOCK_MAP_RECORDS_MAX || (uint64_t)st.st_size != HEADER_LEN + map->count * RECORD_LEN)
        return err_say(err, EINVAL, "%s has %lld bytes, which is not what its %llu records need: it was cut", name,
                       (long long)st.st_size, (unsigned long long)map->count);
    return 0;
}

static void unpack_record(struct block_chunk *chunk, struct unpack *u)
{
    chunk->number = unpack_u64(u);
    for (int i = 0; i < CHUNK_WORDS; i++)
        chunk->held[i] = unpack_u64(u);
    for (int i = 0; i < CHUNK_WORDS; i++)
        chunk->zero[i] = unpack_u64(u);
    chunk->crc = unpack_u32(u);
}

/* Invariant 1. `from` is the first chunk that may come. */
static bool record_is_right(const struct block_map *map, const struct block_chunk *chunk, uint64_t from)
{
    uint64_t any = 0, both = 0;
    for (int i = 0; i < CHUNK_WORDS; i++) {
        any |= chunk->held[i] | chunk->zero[i];
        both |= chunk->held[i] & chunk->zero[i];
    }
    if (!any || both || chunk->number < from || chunk->number > map->blocks / CHUNK_BLOCKS)
        return false;
    for (unsigned block = CHUNK_BLOCKS; block-- > 0;)
        if (is_set(chunk->held, block) || is_set(chunk->zero, block))
            return chunk->number * CHUNK_BLOCKS + block < map->blocks;
    return false;
}

static int read_records(struct block_map *map, int fd, const char *name, uint8_t *buf, struct counts *counts,
                        struct err *err)
{
    uint64_t from = 0;
    for (uint64_t i = 0; i < map->count; i++) {
        uint64_t left = map->count - i;
        if (i % RECORDS_AT_ONCE == 0) {
            int rc = io_pread_all(fd, buf, (left < RECORDS_AT_ONCE ? left : RECORDS_AT_ONCE) * RECORD_LEN,
                                  HEADER_LEN + i * RECORD_LEN, err);
            if (rc < 0)
                return err_wrap(err, "%s", name);
        }
        const uint8_t *record = buf + i % RECORDS_AT_ONCE * RECORD_LEN;
        struct unpack u = unpack_from(record, RECORD_LEN);
        unpack_record(&map->chunk[i], &u);
        if (unpack_u32(&u) != crc32c(0, record, RECORD_LEN - 4))
            return err_say(err, EINVAL, "%s: record %llu is damaged", name, (unsigned long long)i);
        if (!record_is_right(map, &map->chunk[i], from))
            return err_say(err, EINVAL, "%s: record %llu makes no sense", name, (unsigned long long)i);
        from = map->chunk[i].number + 1;
        counts->held -= chunk_count(map->chunk[i].held);
        counts->zero -= chunk_count(map->chunk[i].zero);
    }
    if (counts->held || counts->zero)
        return err_say(err, EINVAL, "%s: the header counts other blocks than the records have", name);
    return 0;
}

int block_map_read(struct block_map *map, int fd, const char *name, uint64_t blocks, struct err *err)
{
    struct counts counts;
    block_map_init(map, blocks);
    int rc = read_header(map, fd, name, blocks, &counts, err);
    uint64_t count = map->count;
    map->count = 0; /* until there is room for them */
    if (rc == 0)
        rc = make_room(map, count, err);
    own_free uint8_t *buf = malloc((size_t)RECORDS_AT_ONCE * RECORD_LEN);
    if (rc == 0 && !buf)
        rc = err_set(err, ENOMEM, "read %s", name);
    if (rc == 0) {
        map->count = count;
        rc = read_records(map, fd, name, buf, &counts, err);
    }
    if (rc < 0)
        block_map_free(map);
    return rc;
}
