/* template.h: a template for tests, without a VM: memory, a disk and a state file, and what EXPORT would say of them.
 */
#ifndef FORKD_TESTS_STORE_TEMPLATE_H
#define FORKD_TESTS_STORE_TEMPLATE_H

#include "base/err.h"
#include "proto/snapshot_meta.h"
#include "vm/machine.h"

#include <stdbool.h>
#include <stdint.h>

enum { TEMPLATE_PAGE = 4096, TEMPLATE_DISK_BLOCKS = 1024 };

struct template
{
    uint64_t mem_bytes;
    uint8_t *ram;           /* as it is now; the pages that differ from the image are read here */
    int image_fd;           /* sealed: as it was when it was made */
    uint64_t *pages, *diff; /* bitmaps of what was written since then, and since the last template_branch() */
    size_t words;
    struct machine *machine; /* its disk is written to through disk_write() */
    uint8_t *disk;           /* what the disk should read as */
    int base_fd;
    char base_path[64];
    unsigned birth_layers;
    bool is_branch, is_diff; /* a branch that is written whole is no diff */
    char parent_tag[REST_TAG_MAX + 1], parent_hash[SNAPSHOT_HASH_MAX];
};

/* Memory of which `data` pages, spread out, are not zero; a disk of TEMPLATE_DISK_BLOCKS, or none. */
void template_init(struct template *t, uint64_t mem_bytes, uint64_t data, bool has_disk);
void template_destroy(struct template *t);

/* Writes: a page of bytes made of `seed`, 0 for zeros; a block likewise; a discard. */
void template_touch(struct template *t, uint64_t page, uint32_t seed);
void template_write_block(struct template *t, uint64_t block, uint32_t seed);
void template_discard(struct template *t, uint64_t block, uint64_t count);

/* From here on it is a sandbox of the snapshot `parent`: what is written now is the next diff. */
void template_branch(struct template *t, const struct snapshot_meta *parent);

/* The descriptors of an export. Closed by export_close(). */
struct export
{
    int own_memory, pages, diff, state;
    uint64_t state_bytes;
    int layer[DISK_LAYERS_MAX];
    unsigned layer_count;
};
void template_export(struct template *t, struct export *e);
void export_close(struct export *e);

/* What the snapshot should be called and say. */
void template_describe(const struct template *t, const char *tag, struct snapshot_meta *meta);

/* A page of pseudo-random bytes; zeros for a seed of 0. */
void fill_page(uint8_t *page, uint32_t seed);

#endif
