/* damage.c: claims about loading: a flipped bit or a truncation anywhere in any link of a chain is refused, and the
 * sentence names the file; so is a chain that does not belong together, or a base image that changed.
 *
 *   damage FORKD-STORE */
#include "base/own.h"
#include "shop.h"
#include "snap/chain_load.h"

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <sys/stat.h>
#include <utime.h>

#include <cmocka.h>

static char root[] = "/tmp/store-damage-XXXXXX";
static struct template template;
static const char *const tags[] = {"whole", "diff"};

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *walk)
{
    return remove(path);
}

/* A whole snapshot and a diff to it. */
static int make_chain(void **state)
{
    struct snapshot_meta meta;
    struct err err = {0};
    if (!mkdtemp(root))
        return -1;
    template_init(&template, 2 << 20, 30, true);
    for (unsigned i = 0; i < 2; i++) {
        for (uint64_t page = 0; page < 9; page++)
            template_touch(&template, page * 40 + i, (uint32_t)page + 7 * i + 1);
        template_touch(&template, 3 + i, 0);
        template_write_block(&template, 40 + i * 300, 9);
        template_discard(&template, 60 + i * 300, 20);
        template.machine->clock.clock = 1000 + i; /* no two states are equal */
        if (shop_save(&template, &(struct order){.root = root, .tag = tags[i]}, &meta, &err) < 0)
            fail_msg("%s", err.text);
        if (i == 0)
            template_branch(&template, &meta);
    }
    return 0;
}

static int remove_chain(void **state)
{
    template_destroy(&template);
    nftw(root, remove_one, 16, FTW_DEPTH | FTW_PHYS);
    strcpy(root + strlen(root) - 6, "XXXXXX");
    return 0;
}

/* In this process: there are thousands of loads to make. */
static int load(const char *const *names, unsigned count, const char *base_path, struct err *err)
{
    int dirs[4];
    struct chain chain;
    struct chain_image image;
    for (unsigned i = 0; i < count; i++) {
        char path[256];
        snprintf(path, sizeof path, "%s/%s", root, names[i]);
        dirs[i] = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        assert_true(dirs[i] >= 0);
    }
    own_fd int base = base_path ? open(base_path, O_RDONLY | O_CLOEXEC) : -1;
    int rc = chain_open(&chain, dirs, count, err);
    if (rc == 0) {
        rc = chain_load(&chain, base, &image, err);
        chain_close(&chain);
        if (rc == 0)
            chain_image_close(&image);
    }
    for (unsigned i = 0; i < count; i++)
        close(dirs[i]);
    return rc;
}

static int load_chain(struct err *err)
{
    return load(tags, 2, template.base_path, err);
}

static int open_file(unsigned link, enum snapshot_file file)
{
    char path[256];
    snprintf(path, sizeof path, "%s/%s/%s", root, tags[link], snapshot_file_name(file));
    int fd = open(path, O_RDWR | O_CLOEXEC);
    assert_true(fd >= 0);
    return fd;
}

static void assert_names(const struct err *err, enum snapshot_file file)
{
    if (!strstr(err->text, snapshot_file_name(file)))
        fail_msg("'%s' does not name %s", err->text, snapshot_file_name(file));
}

static void flip(int fd, off_t at, unsigned bit)
{
    uint8_t byte;
    assert_int_equal(pread(fd, &byte, 1, at), 1);
    byte ^= (uint8_t)(1u << bit);
    assert_int_equal(pwrite(fd, &byte, 1, at), 1);
}

static void assert_flip_refused(int fd, unsigned link, enum snapshot_file file, off_t at)
{
    struct err err = {0};
    flip(fd, at, (unsigned)at % 8);
    if (load_chain(&err) == 0)
        fail_msg("%s/%s: a flipped bit in byte %lld is not noticed", tags[link], snapshot_file_name(file),
                 (long long)at);
    assert_names(&err, file);
    flip(fd, at, (unsigned)at % 8);
}

/* Every so many bytes of a file that is all meaning. */
static void every_part_of_a_file_is_checked(unsigned link, enum snapshot_file file, off_t step)
{
    own_fd int fd = open_file(link, file);
    struct stat st;
    assert_int_equal(fstat(fd, &st), 0);
    for (off_t at = 0; at < st.st_size; at += step)
        assert_flip_refused(fd, link, file, at);
    assert_flip_refused(fd, link, file, st.st_size - 1);
}

/* The first and the last byte, and one between, of every block that a file holds. */
static void every_block_is_checked(unsigned link, enum snapshot_file file)
{
    struct block_map map;
    own_fd int fd = open_file(link, file);
    own_fd int map_fd = open_file(link, file == FILE_MEMORY ? FILE_MEMORY_MAP : FILE_LAYER_MAP);
    struct stat st;
    assert_int_equal(fstat(fd, &st), 0);
    unsigned blocks = 0;
    assert_int_equal(block_map_read(&map, map_fd, "map", (uint64_t)st.st_size / BLOCK_BYTES, NULL), 0);
    for (uint64_t i = 0; i < map.count; i++)
        for (unsigned block = 0, run; (run = chunk_run(map.chunk[i].held, &block)); block += run)
            for (unsigned j = 0; j < run; j++, blocks++) {
                off_t at = (off_t)((map.chunk[i].number * CHUNK_BLOCKS + block + j) * BLOCK_BYTES);
                assert_flip_refused(fd, link, file, at);
                assert_flip_refused(fd, link, file, at + 1801);
                assert_flip_refused(fd, link, file, at + BLOCK_BYTES - 1);
            }
    assert_true(blocks > 0);
    block_map_free(&map);
}

static void flipped_bits_in_descriptions_are_refused(void **state)
{
    for (unsigned link = 0; link < 2; link++)
        every_part_of_a_file_is_checked(link, FILE_META, 1);
}

static void flipped_bits_in_states_are_refused(void **state)
{
    for (unsigned link = 0; link < 2; link++)
        every_part_of_a_file_is_checked(link, FILE_VMSTATE, 7);
}

static void flipped_bits_in_maps_are_refused(void **state)
{
    for (unsigned link = 0; link < 2; link++) {
        every_part_of_a_file_is_checked(link, FILE_MEMORY_MAP, 1);
        every_part_of_a_file_is_checked(link, FILE_LAYER_MAP, 1);
    }
}

static void flipped_bits_in_memory_and_disk_are_refused(void **state)
{
    for (unsigned link = 0; link < 2; link++) {
        every_block_is_checked(link, FILE_MEMORY);
        every_block_is_checked(link, FILE_LAYER);
    }
}

/* Each file cut to nothing, by one byte, in the middle; and one byte too long. */
static void truncations_are_refused(void **state)
{
    for (unsigned link = 0; link < 2; link++)
        for (int file = 0; file < SNAPSHOT_FILES; file++) {
            own_fd int fd = open_file(link, (enum snapshot_file)file);
            struct stat st;
            assert_int_equal(fstat(fd, &st), 0);
            own_free uint8_t *bytes = malloc((size_t)st.st_size);
            assert_int_equal(pread(fd, bytes, (size_t)st.st_size, 0), st.st_size);
            const off_t lengths[] = {0, 1, 63, st.st_size / 2, st.st_size - 1, st.st_size + 1};
            for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
                struct err err = {0};
                assert_int_equal(ftruncate(fd, lengths[i]), 0);
                if (load_chain(&err) == 0)
                    fail_msg("%s of %lld bytes instead of %lld is not noticed",
                             snapshot_file_name((enum snapshot_file)file), (long long)lengths[i],
                             (long long)st.st_size);
                assert_names(&err, (enum snapshot_file)file);
            }
            assert_int_equal(ftruncate(fd, st.st_size), 0);
            assert_int_equal(pwrite(fd, bytes, (size_t)st.st_size, 0), st.st_size);
        }
    assert_int_equal(load_chain(NULL), 0);
}

static void a_missing_file_is_named(void **state)
{
    for (int file = 0; file < SNAPSHOT_FILES; file++) {
        char path[256], aside[256];
        struct err err = {0};
        snprintf(path, sizeof path, "%s/diff/%s", root, snapshot_file_name((enum snapshot_file)file));
        snprintf(aside, sizeof aside, "%s/aside", root);
        assert_int_equal(rename(path, aside), 0);
        assert_int_equal(load_chain(&err), -ENOENT);
        assert_names(&err, (enum snapshot_file)file);
        assert_int_equal(rename(aside, path), 0);
    }
}

static void files_of_another_snapshot_are_refused(void **state)
{
    for (int file = 0; file < SNAPSHOT_FILES; file++) {
        char one[256], two[256], aside[256];
        snprintf(one, sizeof one, "%s/whole/%s", root, snapshot_file_name((enum snapshot_file)file));
        snprintf(two, sizeof two, "%s/diff/%s", root, snapshot_file_name((enum snapshot_file)file));
        snprintf(aside, sizeof aside, "%s/aside", root);
        assert_int_equal(rename(one, aside) | rename(two, one) | rename(aside, two), 0);
        assert_true(load_chain(NULL) < 0);
        assert_true(load(tags, 1, template.base_path, NULL) < 0);
        assert_int_equal(rename(one, aside) | rename(two, one) | rename(aside, two), 0);
    }
    assert_int_equal(load_chain(NULL), 0);
}

static void a_diff_needs_its_own_parent(void **state)
{
    struct err err = {0};
    struct snapshot_meta meta;
    assert_int_equal(load(&tags[1], 1, template.base_path, &err), -EINVAL);
    assert_string_equal(err.text, "snapshot diff: it is a diff to whole, which did not come with it");
    assert_int_equal(load((const char *const[]){"whole", "whole"}, 2, template.base_path, &err), -EINVAL);
    assert_string_equal(err.text, "snapshot whole: it is whole, and no diff to whole");

    struct template other;
    template_init(&other, 2 << 20, 31, false);
    assert_int_equal(shop_save(&other, &(struct order){.root = root, .tag = "other"}, &meta, NULL), 0);
    assert_int_equal(load((const char *const[]){"other", "diff"}, 2, template.base_path, &err), -EINVAL);
    assert_non_null(strstr(err.text, "it is a diff to whole as it was when that had the content hash"));
    template_destroy(&other);
}

static void a_base_image_that_changed_is_refused(void **state)
{
    struct err err = {0};
    struct stat st;
    assert_int_equal(load(tags, 2, NULL, &err), -ENOENT);
    assert_non_null(strstr(err.text, template.base_path));

    /* Another time, and the same bytes: a copy. */
    assert_int_equal(utime(template.base_path, &(struct utimbuf){1, 1}), 0);
    assert_int_equal(load_chain(NULL), 0);

    own_fd int fd = open(template.base_path, O_RDWR | O_CLOEXEC);
    flip(fd, 12345, 3);
    assert_int_equal(load_chain(&err), -ESTALE);
    assert_non_null(strstr(err.text, template.base_path));
    assert_non_null(strstr(err.text, "was changed since the snapshot was made"));
    flip(fd, 12345, 3);
    assert_int_equal(load_chain(NULL), 0);

    assert_int_equal(fstat(fd, &st), 0);
    assert_int_equal(ftruncate(fd, st.st_size - 512), 0);
    assert_int_equal(load_chain(&err), -ESTALE);
    assert_non_null(strstr(err.text, template.base_path));
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(flipped_bits_in_descriptions_are_refused),
        cmocka_unit_test(flipped_bits_in_states_are_refused),
        cmocka_unit_test(flipped_bits_in_maps_are_refused),
        cmocka_unit_test(flipped_bits_in_memory_and_disk_are_refused),
        cmocka_unit_test(truncations_are_refused),
        cmocka_unit_test(a_missing_file_is_named),
        cmocka_unit_test(files_of_another_snapshot_are_refused),
        cmocka_unit_test(a_diff_needs_its_own_parent),
        cmocka_unit_test(a_base_image_that_changed_is_refused),
    };
    if (argc != 2)
        return 2;
    shop_program = argv[1];
    return cmocka_run_group_tests_name("damage", tests, make_chain, remove_chain);
}
