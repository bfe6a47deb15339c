/* fuzz_snapshot.c: whatever lies in a snapshot's directory, its description, its maps and its state file are refused or
 * keep their invariants.
 *
 * The first byte chooses which of them the rest is, and whether its checksums are made right before it is read:
 * without that nothing but checksums would be tested. */
#include "base/crc.h"
#include "proto/snapshot_meta.h"
#include "snap/block_map.h"
#include "snap/state_file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { MAP_BLOCKS = 3000, MAP_HEADER = 64, MAP_RECORD = 80 };
enum { STATE_HEADER = 64, STATE_ENTRY = 40, STATE_BODY = STATE_HEADER + STATE_ENTRY * STATE_SECTIONS_MAX };

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

/* Sections lie in the file, one after the other, and each can be found. */
static void state_check(const uint8_t *data, size_t size)
{
    struct state_reader r;
    struct err err = {0};
    if (state_reader_init(&r, data, size, &err) < 0) {
        require(err.text[0]);
        return;
    }
    uint64_t at = STATE_BODY;
    for (unsigned i = 0; i < r.count; i++) {
        const struct state_entry *e = &r.entry[i];
        struct unpack u;
        require(e->offset == at && e->length <= size - at);
        at += e->length;
        int rc = state_reader_section(&r, (enum state_section)e->type, e->instance, e->version, &u, &err);
        require(rc == 0 || rc == -EINVAL); /* or an earlier one of that name has another version */
    }
}

/* The table and the sections as the input has them, behind a header that fits. */
static void state_with_sums(const uint8_t *data, size_t size)
{
    static uint8_t bytes[1 << 14];
    size_t table = STATE_BODY - STATE_HEADER,
           len = size < sizeof bytes - STATE_HEADER - 8 ? size : sizeof bytes - STATE_HEADER - 8;
    memset(bytes, 0, sizeof bytes);
    memcpy(bytes + STATE_HEADER, data, len);
    size_t total = STATE_HEADER + (len > table ? len : table) + 8;
    memcpy(bytes + total - 8, "FORKDEND", 8);
    uint32_t count = size ? data[size - 1] % 6 : 0;
    uint64_t at = STATE_BODY;
    for (uint32_t i = 0; i < count; i++) {
        uint8_t *entry = bytes + STATE_HEADER + (size_t)i * STATE_ENTRY;
        uint64_t length = entry[24] | (uint64_t)entry[25] << 8;
        memset(entry + 26, 0, 6);
        memcpy(entry + 16, &at, 8);
        uint32_t crc = at + length <= total - 8 ? crc32c(0, bytes + at, length) : 0;
        memcpy(entry + 32, &crc, 4);
        at += length;
    }
    struct pack header = pack_into(bytes, STATE_HEADER);
    pack_bytes(&header, "FORKDVMS", 8);
    pack_u32(&header, 1);
    pack_u32(&header, 0x3e);
    pack_u32(&header, count);
    pack_u32(&header, 0);
    pack_u64(&header, total);
    pack_u32(&header, crc32c(0, bytes + STATE_HEADER, table));
    header.len = STATE_HEADER - 4;
    pack_u32(&header, crc32c(0, bytes, STATE_HEADER - 4));
    state_check(bytes, total);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (!size)
        return 0;
    switch (data[0] % 6) {
    case 0:
        meta_check((const char *)data + 1, size - 1);
        break;
    case 1:
        meta_with_sum(data + 1, size - 1);
        break;
    case 2:
        map_check(data + 1, size - 1);
        break;
    case 3:
        map_with_sums(data + 1, size - 1);
        break;
    case 4:
        state_check(data + 1, size - 1);
        break;
    default:
        state_with_sums(data + 1, size - 1);
    }
    return 0;
}
