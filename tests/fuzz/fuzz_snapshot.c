/* fuzz_snapshot.c: whatever lies in a snapshot's directory, its description and its maps are refused or keep their
 * invariants.
 *
 * The first byte chooses which of the two the rest is, and whether its checksums are made right before it is read:
 * without that nothing but checksums would be tested. */
#include "base/crc.h"
#include "proto/snapshot_meta.h"
#include "snap/block_map.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { MAP_BLOCKS = 3000, MAP_HEADER = 64, MAP_RECORD = 80 };

static void require(bool what)
{
    if (!what)
        abort();
}

/* What is accepted can be written, and is the same when it is read again. */
static void meta_check(const char *text, size_t len)
{
    static struct snapshot_meta meta, again;
    char out[SNAPSHOT_META_MAX];
    struct err err = {0};
    if (snapshot_meta_decode(&meta, text, len, &err) < 0) {
        require(err.text[0]);
        return;
    }
    require(rest_tag_valid(meta.tag) && meta.mem_bytes % 4096 == 0);
    require(!meta.parent_tag[0] == !meta.parent_hash[0]);
    int written = snapshot_meta_encode(&meta, out, sizeof out, &err);
    if (written < 0)
        return; /* it was longer when it was escaped otherwise */
    require(snapshot_meta_decode(&again, out, (size_t)written, &err) == 0);
    require(!memcmp(&meta, &again, sizeof meta));
}

static void meta_with_sum(const uint8_t *data, size_t size)
{
    static char text[SNAPSHOT_META_MAX + 64];
    size_t len = size < SNAPSHOT_META_MAX ? size : SNAPSHOT_META_MAX;
    memcpy(text, data, len);
    int tail = snprintf(text + len, 64, ",\n  \"crc32c\": \"%08x\"\n}\n", crc32c(0, data, len));
    meta_check(text, len + (size_t)tail);
}

static void map_check(const uint8_t *data, size_t size)
{
    struct block_map map;
    struct err err = {0};
    int fd = memfd_create("map", MFD_CLOEXEC);
    require(write(fd, data, size) == (ssize_t)size);
    if (block_map_read(&map, fd, "the.map", MAP_BLOCKS, &err) < 0) {
        require(strstr(err.text, "the.map") && !map.chunk);
        close(fd);
        return;
    }
    uint64_t next = 0;
    for (uint64_t i = 0; i < map.count; i++) {
        const struct block_chunk *chunk = &map.chunk[i];
        require(chunk->number >= next && chunk->number * CHUNK_BLOCKS < MAP_BLOCKS);
        require(block_map_find(&map, chunk->number) == chunk);
        next = chunk->number + 1;
        for (unsigned block = 0, run; (run = chunk_run(chunk->held, &block)); block += run)
            require(chunk->number * CHUNK_BLOCKS + block + run <= MAP_BLOCKS);
        for (unsigned j = 0; j < CHUNK_WORDS; j++)
            require(!(chunk->held[j] & chunk->zero[j]));
    }
    block_map_free(&map);
    close(fd);
}

static void map_with_sums(const uint8_t *data, size_t size)
{
    static uint8_t bytes[1 << 14];
    size_t len = size < sizeof bytes ? size : sizeof bytes;
    memcpy(bytes, data, len);
    for (size_t at = 0; at + MAP_HEADER <= len; at += at ? MAP_RECORD : MAP_HEADER) {
        size_t part = at ? MAP_RECORD : MAP_HEADER;
        if (at + part > len)
            break;
        uint32_t crc = crc32c(0, bytes + at, part - 4);
        memcpy(bytes + at + part - 4, &crc, 4);
    }
    map_check(bytes, len);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (!size)
        return 0;
    switch (data[0] & 3) {
    case 0:
        meta_check((const char *)data + 1, size - 1);
        break;
    case 1:
        meta_with_sum(data + 1, size - 1);
        break;
    case 2:
        map_check(data + 1, size - 1);
        break;
    default:
        map_with_sums(data + 1, size - 1);
    }
    return 0;
}
