/* template.c: see template.h. */
#include "template.h"

#include "base/own.h"
#include "mem/image.h"
#include "snap/machine_state.h"
#include "snap/state_file.h"

#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <sys/mman.h>

#include <cmocka.h>

enum { BASE_BYTES = 600 * TEMPLATE_PAGE + 1536 };

void fill_page(uint8_t *page, uint32_t seed)
{
    memset(page, 0, TEMPLATE_PAGE);
    for (uint32_t i = 0; seed && i < TEMPLATE_PAGE; i += 4) {
        seed = seed * 1664525 + 1013904223;
        memcpy(page + i, &seed, 4);
    }
}

static void set_bit(uint64_t *bitmap, uint64_t page)
{
    bitmap[page / 64] |= UINT64_C(1) << (page % 64);
}

/* A sealed image as a parent leaves it, and a private copy of it. */
static void make_memory(struct template *t, uint64_t data)
{
    struct image image;
    void *shared;
    struct err err = {0};
    uint64_t pages = t->mem_bytes / TEMPLATE_PAGE;
    assert_int_equal(image_create(t->mem_bytes, &t->image_fd, &shared, &err), 0);
    for (uint64_t i = 0; i < data; i++)
        fill_page((uint8_t *)shared + pages * i / data * TEMPLATE_PAGE, (uint32_t)i + 1);
    assert_int_equal(image_settle(t->image_fd, shared, t->mem_bytes, &image, &err), 0);
    munmap(shared, t->mem_bytes);
    assert_int_equal(image_seal(t->image_fd, &err), 0);
    void *ram;
    assert_int_equal(image_map(t->image_fd, &image, &ram, &err), 0);
    t->ram = ram;
    t->words = (size_t)((pages + 63) / 64);
    t->pages = calloc(t->words, 8);
    t->diff = calloc(t->words, 8);
    assert_true(t->pages && t->diff);
}

static int fresh_layer(void)
{
    int fd = memfd_create("layer", MFD_CLOEXEC);
    assert_true(fd >= 0);
    return fd;
}

static void make_disk(struct template *t)
{
    struct err err = {0};
    t->disk = calloc(TEMPLATE_DISK_BLOCKS, TEMPLATE_PAGE);
    assert_non_null(t->disk);
    for (int i = 0; i < BASE_BYTES / TEMPLATE_PAGE; i++)
        fill_page(t->disk + (size_t)i * TEMPLATE_PAGE, 5000 + (uint32_t)i);
    strcpy(t->base_path, "/tmp/store-base-XXXXXX");
    own_fd int fd = mkstemp(t->base_path);
    assert_int_equal(write(fd, t->disk, BASE_BYTES), BASE_BYTES);
    t->base_fd = open(t->base_path, O_RDONLY | O_CLOEXEC);
    struct disk *disk = &t->machine->disk;
    assert_int_equal(disk_open_base(disk, dup(t->base_fd), &err), 0);
    assert_int_equal(disk_open_private(disk, fresh_layer(), &err), 0);
}

void template_init(struct template *t, uint64_t mem_bytes, uint64_t data, bool has_disk)
{
    struct err err = {0};
    *t = (struct template){.mem_bytes = mem_bytes, .base_fd = -1};
    make_memory(t, data);
    const struct machine_config config = {.mem_bytes = mem_bytes,
                                          .vcpus = 1,
                                          .disk = has_disk,
                                          .disk_bytes = has_disk ? TEMPLATE_DISK_BLOCKS * TEMPLATE_PAGE : 0};
    t->machine = machine_new(&config, t->ram, &err);
    assert_non_null(t->machine);
    if (has_disk)
        make_disk(t);
}

void template_destroy(struct template *t)
{
    machine_free(t->machine);
    munmap(t->ram, t->mem_bytes);
    fd_close(&t->image_fd);
    fd_close(&t->base_fd);
    if (*t->base_path)
        unlink(t->base_path);
    free(t->pages);
    free(t->diff);
    free(t->disk);
}

void template_touch(struct template *t, uint64_t page, uint32_t seed)
{
    fill_page(t->ram + page * TEMPLATE_PAGE, seed);
    set_bit(t->pages, page);
    set_bit(t->diff, page);
}

void template_write_block(struct template *t, uint64_t block, uint32_t seed)
{
    uint8_t *at = t->disk + block * TEMPLATE_PAGE;
    fill_page(at, seed);
    const struct iovec iov = {at, TEMPLATE_PAGE};
    assert_int_equal(disk_write(&t->machine->disk, &iov, 1, block * TEMPLATE_PAGE), 0);
}

void template_discard(struct template *t, uint64_t block, uint64_t count)
{
    memset(t->disk + block * TEMPLATE_PAGE, 0, count * TEMPLATE_PAGE);
    assert_int_equal(disk_zero(&t->machine->disk, block * TEMPLATE_PAGE, count * TEMPLATE_PAGE), 0);
}

void template_branch(struct template *t, const struct snapshot_meta *parent)
{
    t->is_branch = t->is_diff = true;
    memset(t->diff, 0, t->words * 8);
    memcpy(t->parent_tag, parent->tag, sizeof t->parent_tag);
    snapshot_meta_hash(parent, t->parent_hash);
    if (!t->disk)
        return;
    t->birth_layers = t->machine->disk.layers;
    assert_int_equal(disk_freeze(&t->machine->disk, fresh_layer(), NULL), 0);
}

static int bitmap_file(const uint64_t *words, size_t count)
{
    int fd = memfd_create("bitmap", MFD_CLOEXEC);
    assert_int_equal(write(fd, words, count * 8), count * 8);
    return fd;
}

void template_export(struct template *t, struct export *e)
{
    struct err err = {0};
    size_t cap = machine_state_bound(t->machine);
    own_free uint8_t *buf = malloc(cap);
    assert_non_null(buf);
    int64_t len = machine_state_write(t->machine, buf, cap, &err);
    assert_true(len > 0);
    *e = (struct export){.diff = -1, .state_bytes = (uint64_t)len};
    e->state = memfd_create("state", MFD_CLOEXEC);
    assert_int_equal(write(e->state, buf, (size_t)len), len);
    e->own_memory = open("/proc/self/mem", O_RDONLY | O_CLOEXEC);
    assert_true(e->own_memory >= 0);
    e->pages = bitmap_file(t->pages, t->words);
    if (t->is_branch)
        e->diff = bitmap_file(t->diff, t->words);
    if (t->disk)
        e->layer_count = t->machine->disk.layers;
    memcpy(e->layer, t->machine->disk.layer_fd, e->layer_count * sizeof *e->layer);
}

void export_close(struct export *e)
{
    fd_close(&e->own_memory);
    fd_close(&e->pages);
    fd_close(&e->diff);
    fd_close(&e->state);
}

void template_describe(const struct template *t, const char *tag, struct snapshot_meta *meta)
{
    *meta = (struct snapshot_meta){.created_at_unix = 1700000000, .mem_bytes = t->mem_bytes, .vcpus = 1};
    snprintf(meta->tag, sizeof meta->tag, "%s", tag);
    snprintf(meta->base.path, sizeof meta->base.path, "%s", t->base_path);
    if (!t->is_diff)
        return;
    memcpy(meta->parent_tag, t->parent_tag, sizeof meta->parent_tag);
    memcpy(meta->parent_hash, t->parent_hash, sizeof meta->parent_hash);
}
