/* block_map.h: which blocks a data file of a snapshot holds, and their checksums.
 *
 * Theory of operation. A data file (memory.bin, disk0.layer) has block i at offset i * 4096 and is sparse. Which
 * blocks it holds, and which are zero, does not stand in its holes, which copying makes and fills as it likes, but
 * in a map beside it. Blocks are mapped in chunks of 256 (1 MiB): a record has the chunk's number, a bit for each
 * block held, a bit for each that is zero, and the CRC-32C of the held blocks' bytes in order. A chunk without
 * either has no record, so a map is as long as what was written, whatever the size of the disk.
 *
 *   header   "FORKDMAP" u64 | version u32 | 0 u32 | blocks u64 | records u64 | held blocks u64 | zero blocks u64 |
 *            8 bytes of zero | CRC of the 60 bytes before it u32       (64 bytes)
 *   record   chunk u64 | held 4 x u64 | zero 4 x u64 | CRC of the held blocks u32 | CRC of the 76 bytes before it u32
 *
 * Invariants.
 * 1. Records are in ascending order of their chunks; none is empty; no block is both held and zero, none is beyond
 *    the file.
 * 2. What neither is held nor zero is as it was in the parent; where there is none, zero in memory, and the base
 *    image's on a disk. */
#ifndef FORKD_SNAP_BLOCK_MAP_H
#define FORKD_SNAP_BLOCK_MAP_H

#include "base/err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    BLOCK_BYTES = 4096,
    CHUNK_BLOCKS = 256,
    CHUNK_BYTES = CHUNK_BLOCKS * BLOCK_BYTES,
    CHUNK_WORDS = CHUNK_BLOCKS / 64,
};

/* Chunks that a map may have records of: a tebibyte of blocks. Keeps what is allocated for one bounded. */
#define BLOCK_MAP_RECORDS_MAX (UINT64_C(1) << 20)

struct block_chunk {
    uint64_t number;
    uint64_t held[CHUNK_WORDS], zero[CHUNK_WORDS];
    uint32_t crc;
};

struct block_map {
    uint64_t blocks; /* of the file */
    uint64_t count, room;
    struct block_chunk *chunk; /* `count` of `room`, owned */
};

void block_map_init(struct block_map *map, uint64_t blocks);
void block_map_free(struct block_map *map);

/* Notes a run as held or zero; runs come in ascending order. -E2BIG past BLOCK_MAP_RECORDS_MAX. */
int block_map_add(struct block_map *map, uint64_t first, uint64_t count, bool zero, struct err *err);

/* The record of a chunk, or NULL. */
const struct block_chunk *block_map_find(const struct block_map *map, uint64_t chunk);

/* How many bits are set, in `held` or in `zero` of a chunk. */
unsigned chunk_count(const uint64_t *bits);
/* The next run of set bits from *block (below CHUNK_BLOCKS) on: its length, or 0 when there is none. */
unsigned chunk_run(const uint64_t *bits, unsigned *block);
/* The CRC of a chunk's held blocks; `bytes` are all of the chunk's, at their places. */
uint32_t chunk_sum(const struct block_chunk *chunk, const uint8_t *bytes);

/* Writes the map to an empty file; *bytes and *crc are the file's. `name` is for messages, as everywhere here. */
int block_map_write(const struct block_map *map, int fd, const char *name, uint64_t *bytes, uint32_t *crc,
                    struct err *err);
/* Reads and checks a map, which must be that of a file of `blocks` blocks. */
int block_map_read(struct block_map *map, int fd, const char *name, uint64_t blocks, struct err *err);

#endif
