/* index.c: see index.h.
 *
 * Packed form: records that cover all blocks in order. A record is a 32-bit count and then one byte, the place of
 * that many blocks; or, where RECORD_LITERAL is set in the count, that many bytes, one each. Short runs are
 * written as literals, so the packed form is never much longer than the index. Places are those of a disk whose layers
 * are in the slots of their numbers. */
#include "disk/index.h"

#include <errno.h>
#include <stdbool.h>
#include <string.h>
#include <sys/mman.h>

enum { INDEX_PAGE = 4096, RUN_MIN = 16, RECORD_HEAD = 5 };

#define RECORD_LITERAL UINT32_C(0x80000000)
/* Records are cut to this many blocks, far below the literal bit. */
#define RECORD_MAX (UINT64_C(1) << 30)

static uint64_t index_pages(const struct disk_index *index)
{
    return (index->blocks + INDEX_PAGE - 1) / INDEX_PAGE;
}

static size_t mapped_bytes(const struct disk_index *index)
{
    return (size_t)(index_pages(index) * INDEX_PAGE + index_pages(index));
}

int index_map(struct disk_index *index, uint64_t blocks, struct err *err)
{
    *index = (struct disk_index){.blocks = blocks};
    void *at =
        mmap(NULL, mapped_bytes(index), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (at == MAP_FAILED)
        return err_set(err, errno, "map the index of a disk of %llu blocks", (unsigned long long)blocks);
    madvise(at, mapped_bytes(index), MADV_NOHUGEPAGE); /* a huge page would cost 2 MiB for one block written */
    index->place = at;
    index->touched = index->place + index_pages(index) * INDEX_PAGE;
    return 0;
}

void index_unmap(struct disk_index *index)
{
    if (index->place)
        munmap(index->place, mapped_bytes(index));
    index->place = index->touched = NULL;
}

static bool is_touched(const struct disk_index *index, uint64_t block)
{
    return __atomic_load_n(&index->touched[block / INDEX_PAGE], __ATOMIC_ACQUIRE);
}

void index_set(struct disk_index *index, uint64_t block, uint64_t count, uint8_t place)
{
    for (uint64_t b = block; b < block + count; b++) {
        if (!is_touched(index, b))
            __atomic_store_n(&index->touched[b / INDEX_PAGE], 1, __ATOMIC_RELEASE);
        __atomic_store_n(&index->place[b], place, __ATOMIC_RELEASE);
    }
}

/* Whether the eight blocks from `block` on, which is a multiple of eight, are in `place`. */
static bool eight_in_place(const struct disk_index *index, uint64_t block, uint8_t place)
{
    const uint64_t *eight = (const uint64_t *)(const void *)(index->place + block);
    return __atomic_load_n(eight, __ATOMIC_ACQUIRE) == place * UINT64_C(0x0101010101010101);
}

uint64_t index_run(const struct disk_index *index, uint64_t block, uint64_t most, uint8_t place)
{
    uint64_t n = 0;
    while (n < most) {
        uint64_t b = block + n;
        if (!is_touched(index, b)) {
            if (place != PLACE_BASE)
                break;
            n += INDEX_PAGE - b % INDEX_PAGE;
        } else if (b % 8 == 0 && most - n >= 8 && eight_in_place(index, b, place)) {
            n += 8;
        } else if (index_get(index, b) == place) {
            n++;
        } else {
            break;
        }
    }
    return n < most ? n : most;
}

size_t index_state_bound(const struct disk_index *index)
{
    /* A run covers at least RUN_MIN blocks, and between two literals there is a run, or RECORD_MAX blocks. */
    uint64_t blocks = index->blocks;
    return (size_t)(blocks + (blocks / RUN_MIN + blocks / RECORD_MAX + 2) * 2 * RECORD_HEAD);
}

/* What a place is called in the packed form. */
struct place_names {
    uint8_t name[256];
};

static struct place_names name_places(const uint8_t *slot, unsigned layers)
{
    struct place_names names = {.name = {[PLACE_ZERO] = PLACE_ZERO}};
    for (unsigned i = 0; i < layers; i++)
        names.name[place_of_slot(slot[i])] = (uint8_t)(PLACE_LAYER + i);
    return names;
}

static void pack_literal(const struct disk_index *index, const struct place_names *names, struct pack *p,
                         uint64_t block, uint64_t count)
{
    if (!count)
        return;
    pack_u32(p, RECORD_LITERAL | (uint32_t)count);
    for (uint64_t b = block; b < block + count; b++)
        pack_u8(p, names->name[index_get(index, b)]);
}

void index_save(const struct disk_index *index, const uint8_t *slot, unsigned layers, struct pack *p)
{
    const struct place_names names = name_places(slot, layers);
    uint64_t blocks = index->blocks, literal = 0, block = 0;
    while (block < blocks) {
        /* The worker may set bytes meanwhile: a run is what was seen of each block, and so is a literal. */
        uint64_t left = blocks - block;
        uint8_t place = index_get(index, block);
        uint64_t run = index_run(index, block, left < RECORD_MAX ? left : RECORD_MAX, place);
        if (run >= RUN_MIN) {
            pack_literal(index, &names, p, block - literal, literal);
            literal = 0;
            pack_u32(p, (uint32_t)run);
            pack_u8(p, names.name[place]);
        } else {
            run = run ? run : 1;
            literal += run;
        }
        block += run;
        if (literal >= RECORD_MAX / 2) {
            pack_literal(index, &names, p, block - literal, literal);
            literal = 0;
        }
    }
    pack_literal(index, &names, p, block - literal, literal);
}

static bool place_known(uint8_t place, unsigned layers)
{
    return place < PLACE_LAYER || place - PLACE_LAYER < (int)layers;
}

static bool load_literal(struct disk_index *index, unsigned layers, struct unpack *u, uint64_t block, uint64_t count)
{
    const uint8_t *places = unpack_span(u, (size_t)count);
    for (uint64_t i = 0; places && i < count; i++) {
        if (!place_known(places[i], layers))
            return false;
        if (places[i] != PLACE_BASE)
            index_set(index, block + i, 1, places[i]);
    }
    return places != NULL;
}

static bool load_run(struct disk_index *index, unsigned layers, struct unpack *u, uint64_t block, uint64_t count)
{
    uint8_t place = unpack_u8(u);
    if (u->bad || !place_known(place, layers))
        return false;
    if (place != PLACE_BASE)
        index_set(index, block, count, place);
    return true;
}

int index_load(struct disk_index *index, unsigned layers, struct unpack *u, struct err *err)
{
    uint64_t blocks = index->blocks, block = 0;
    while (block < blocks) {
        uint32_t head = unpack_u32(u);
        uint64_t count = head & ~RECORD_LITERAL;
        if (u->bad || !count || count > blocks - block)
            return err_say(err, EINVAL, "the disk's index is malformed");
        bool ok = head & RECORD_LITERAL ? load_literal(index, layers, u, block, count)
                                        : load_run(index, layers, u, block, count);
        if (!ok)
            return err_say(err, EINVAL, "the disk's index names a layer that is not there, or is cut off");
        block += count;
    }
    return 0;
}
