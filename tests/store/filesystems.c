/* filesystems.c: claims about forkd-store on filesystems that cannot do everything, or are full. Each is a loop image
 * or a tmpfs of the test's own.
 *
 *   filesystems FORKD-STORE */
#include "base/own.h"
#include "shop.h"
#include "skip.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/wait.h>

static char place[] = "/tmp/store-fs-XXXXXX"; /* mount point below, image beside it */
static char mount_point[64], image_path[64];

static int make_place(void **state)
{
    if (!mkdtemp(place))
        return -1;
    snprintf(mount_point, sizeof mount_point, "%s/mnt", place);
    snprintf(image_path, sizeof image_path, "%s/image", place);
    return mkdir(mount_point, 0700);
}

static int remove_place(void **state)
{
    umount2(mount_point, MNT_DETACH);
    unlink(image_path);
    rmdir(mount_point);
    rmdir(place);
    strcpy(place + strlen(place) - 6, "XXXXXX");
    return 0;
}

static int run(const char *command)
{
    int status = system(command);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static int run_in(const char *what, const char *tag)
{
    char command[128];
    snprintf(command, sizeof command, "%s %s/%s", what, mount_point, tag);
    return run(command);
}

static void mount_image(const char *mkfs, const char *type, unsigned mib)
{
    char command[256];
    if (geteuid() != 0)
        skip_because("mounting %s needs root", type);
    snprintf(command, sizeof command, "command -v mkfs.%s >/dev/null", type);
    if (run(command) != 0)
        skip_because("there is no mkfs.%s here", type);
    own_fd int fd = open(image_path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    assert_int_equal(ftruncate(fd, (off_t)mib << 20), 0);
    snprintf(command, sizeof command, "%s %s >/dev/null 2>&1", mkfs, image_path);
    assert_int_equal(run(command), 0);
    snprintf(command, sizeof command, "mount -t %s -o loop %s %s 2>/dev/null", type, image_path, mount_point);
    if (run(command) != 0)
        skip_because("%s cannot be mounted here", type);
}

static void mount_tmpfs(const char *options)
{
    if (geteuid() != 0)
        skip_because("mounting a tmpfs needs root");
    assert_int_equal(mount("test", mount_point, "tmpfs", 0, options), 0);
}

static void save_and_restore(enum writer_engine engine, struct snapshot_meta *meta)
{
    struct template t;
    struct err err = {0};
    struct ctl_message image;
    template_init(&t, 8 << 20, 700, true);
    template_touch(&t, 5, 55);
    template_write_block(&t, 77, 5);
    template_discard(&t, 100, 60);
    const char *tag = writer_engine_name(engine);
    if (shop_save(&t, &(struct order){.root = mount_point, .tag = tag, .engine = engine}, meta, &err) < 0 ||
        shop_restore(mount_point, (const char *const[]){tag, NULL}, t.base_path, &image, &err) < 0)
        fail_msg("%s", err.text);
    assert_image_equal(&t, &image);
    template_destroy(&t);
}

static void ext3_cannot_reserve_and_is_written_all_the_same(void **state)
{
    struct snapshot_meta meta;
    mount_image("mkfs.ext3", "ext3", 64);
    save_and_restore(WRITER_DIRECT, &meta);
    assert_string_equal(meta.engine, "direct");
    assert_string_equal(meta.warning, "the filesystem cannot reserve space");
    save_and_restore(WRITER_FALLOCATE, &meta);
    assert_string_equal(meta.engine, "buffered");
    assert_string_equal(meta.warning, "the filesystem cannot reserve space");
    save_and_restore(WRITER_BUFFERED, &meta);
    assert_string_equal(meta.warning, "");
}

static void all_engines_work_on_xfs(void **state)
{
    struct snapshot_meta meta;
    mount_image("mkfs.xfs", "xfs", 320);
    for (int engine = 0; engine < WRITER_ENGINES; engine++) {
        save_and_restore((enum writer_engine)engine, &meta);
        assert_string_equal(meta.engine, writer_engine_name((enum writer_engine)engine));
        assert_string_equal(meta.warning, "");
    }
}

/* Mounted anew: XFS keeps room around blocks that were copied on a write until their file is done with. */
static uint64_t bytes_used(void)
{
    struct statfs fs;
    char command[256];
    snprintf(command, sizeof command, "umount %s && mount -o loop %s %s", mount_point, image_path, mount_point);
    assert_int_equal(run(command), 0);
    assert_int_equal(statfs(mount_point, &fs), 0);
    return (fs.f_blocks - fs.f_bfree) * (uint64_t)fs.f_bsize;
}

/* Pages and blocks are changed, zeroed, discarded: the branch, written whole, takes what differs, and is whole. */
static void a_whole_branch_shares_with_its_origin(const char *without, bool shares)
{
    struct template t;
    struct snapshot_meta meta;
    struct err err = {0};
    struct ctl_message image;
    template_init(&t, 64 << 20, 16384, true);
    for (uint64_t i = 0; i < 300; i++)
        template_write_block(&t, i, (uint32_t)i + 1);
    assert_int_equal(shop_save(&t, &(struct order){.root = mount_point, .tag = "origin"}, &meta, &err), 0);
    uint64_t before = bytes_used();
    template_branch(&t, &meta);
    t.is_diff = false;
    for (uint64_t i = 0; i < 100; i++)
        template_touch(&t, i * 160, 4000 + (uint32_t)i);
    template_touch(&t, 77, 0);
    for (uint64_t i = 0; i < 256; i++)
        template_touch(&t, 8192 + i, 0); /* a chunk of zeros */
    template_write_block(&t, 5, 0);
    template_write_block(&t, 299, 3);
    template_write_block(&t, 900, 3);
    template_discard(&t, 20, 30);
    const struct order order = {.root = mount_point, .tag = "branch", .origin = "origin", .without = without};
    if (shop_save(&t, &order, &meta, &err) < 0)
        fail_msg("%s", err.text);
    assert_string_equal(meta.parent_tag, "");
    assert_string_equal(meta.engine, "direct");
    if (shares) {
        assert_in_range(bytes_used() - before, 1, 2 << 20);
        assert_int_equal(meta.logical_bytes - meta.shared_bytes, (99 + 2) * BLOCK_BYTES);
    } else {
        assert_in_range(bytes_used() - before, 62 << 20, 70 << 20);
        assert_int_equal(meta.shared_bytes, 0);
    }
    /* It stands alone. */
    assert_int_equal(run_in("rm -r", "origin"), 0);
    if (shop_restore(mount_point, (const char *const[]){"branch", NULL}, t.base_path, &image, &err) < 0)
        fail_msg("%s", err.text);
    assert_image_equal(&t, &image);
    template_destroy(&t);
}

static void on_xfs_a_whole_branch_shares_with_its_origin(void **state)
{
    mount_image("mkfs.xfs", "xfs", 320);
    a_whole_branch_shares_with_its_origin(NULL, true);
}

static void without_reflinks_a_whole_branch_is_written_whole(void **state)
{
    mount_image("mkfs.xfs", "xfs", 320);
    a_whole_branch_shares_with_its_origin("reflink", false);
}

static void on_ext4_a_whole_branch_is_written_whole(void **state)
{
    mount_image("mkfs.ext4", "ext4", 320);
    a_whole_branch_shares_with_its_origin(NULL, false);
}

/* Whether a tmpfs knows O_DIRECT depends on the kernel. */
static void all_engines_work_on_tmpfs(void **state)
{
    struct snapshot_meta meta;
    mount_tmpfs("size=64m");
    save_and_restore(WRITER_FALLOCATE, &meta);
    assert_string_equal(meta.engine, "fallocate");
    save_and_restore(WRITER_BUFFERED, &meta);
    save_and_restore(WRITER_DIRECT, &meta);
    if (strcmp(meta.engine, "direct"))
        assert_non_null(strstr(meta.warning, "cannot do direct I/O"));
}

static void expect_no_space(enum writer_engine engine)
{
    struct template t;
    struct snapshot_meta meta;
    struct err err = {0};
    struct ctl_message image;
    const char *tag = writer_engine_name(engine);
    template_init(&t, 16 << 20, 4096, false);
    assert_int_equal(shop_save(&t, &(struct order){.root = mount_point, .tag = tag, .engine = engine}, &meta, &err),
                     -ENOSPC);
    assert_non_null(strstr(err.text, "the disk of the snapshot is full"));
    assert_non_null(strstr(err.text, "memory.bin"));
    assert_true(shop_restore(mount_point, (const char *const[]){tag, NULL}, NULL, &image, &err) < 0);
    assert_non_null(strstr(err.text, "snapshot.json"));
    assert_int_equal(run_in("rm -r", tag), 0);
    template_destroy(&t);
}

static void a_full_tmpfs_is_named_and_leaves_nothing_that_loads(void **state)
{
    mount_tmpfs("size=4m");
    for (int engine = 0; engine < WRITER_ENGINES; engine++)
        expect_no_space((enum writer_engine)engine);
}

static void a_full_ext4_is_named_and_leaves_nothing_that_loads(void **state)
{
    mount_image("mkfs.ext4", "ext4", 12);
    for (int engine = 0; engine < WRITER_ENGINES; engine++)
        expect_no_space((enum writer_engine)engine);
}

/* Where nothing can be reserved the end comes in the middle of the writing. */
static void a_full_ext3_is_named_and_leaves_nothing_that_loads(void **state)
{
    mount_image("mkfs.ext3", "ext3", 12);
    for (int engine = 0; engine < WRITER_ENGINES; engine++)
        expect_no_space((enum writer_engine)engine);
}

static void a_read_only_root_is_named(void **state)
{
    struct template t;
    struct snapshot_meta meta;
    struct err err = {0};
    char path[80];
    mount_tmpfs("size=4m");
    template_init(&t, 1 << 20, 10, false);
    snprintf(path, sizeof path, "%s/made", mount_point);
    assert_int_equal(mkdir(path, 0700), 0);
    assert_int_equal(mount(NULL, mount_point, NULL, MS_REMOUNT | MS_RDONLY, "size=4m"), 0);
    assert_int_equal(shop_save(&t, &(struct order){.root = mount_point, .tag = "made"}, &meta, &err), -EROFS);
    assert_string_equal(err.text, "create memory.bin: Read-only file system");
    template_destroy(&t);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
#define TEST(name) cmocka_unit_test_setup_teardown(name, make_place, remove_place)
        TEST(ext3_cannot_reserve_and_is_written_all_the_same),
        TEST(all_engines_work_on_xfs),
        TEST(on_xfs_a_whole_branch_shares_with_its_origin),
        TEST(without_reflinks_a_whole_branch_is_written_whole),
        TEST(on_ext4_a_whole_branch_is_written_whole),
        TEST(all_engines_work_on_tmpfs),
        TEST(a_full_tmpfs_is_named_and_leaves_nothing_that_loads),
        TEST(a_full_ext4_is_named_and_leaves_nothing_that_loads),
        TEST(a_full_ext3_is_named_and_leaves_nothing_that_loads),
        TEST(a_read_only_root_is_named),
    };
    if (argc != 2)
        return 2;
    shop_program = argv[1];
    return cmocka_run_group_tests_name("filesystems", tests, NULL, NULL);
}
