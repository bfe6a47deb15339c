/* snapshot_meta.c: claims about snapshot.json: what was described is read, and nothing else. */
#include "proto/snapshot_meta.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

static struct snapshot_meta meta;
static char text[SNAPSHOT_META_MAX];

static int describe(void **state)
{
    meta =
        (struct snapshot_meta){.tag = "py-1",
                               .created_at_unix = 1700000000,
                               .branched_from = "sb-abc",
                               .parent_tag = "py",
                               .parent_hash = "00000001-00000002-00000003",
                               .mem_bytes = 512 << 20,
                               .vcpus = 2,
                               .base = {.path = "/images/python \"3\".ext4", .bytes = 12345, .mtime_ns = -5, .crc = 9},
                               .details = "{\"pause_us\":270}",
                               .written = true,
                               .engine = "direct",
                               .warning = "the filesystem cannot reserve space",
                               .logical_bytes = 4096,
                               .physical_bytes = 8192,
                               .shared_bytes = 1024,
                               .write_ms = 3,
                               .part = {{100, 0xdeadbeef}, {200, 1}, {300, 2}}};
    return 0;
}

/* As the format has it: padding between fields may differ. */
static void assert_same(const struct snapshot_meta *a, const struct snapshot_meta *b)
{
    char one[SNAPSHOT_META_MAX], other[SNAPSHOT_META_MAX];
    int len = snapshot_meta_encode(a, one, sizeof one, NULL);
    assert_true(len > 0);
    assert_int_equal(snapshot_meta_encode(b, other, sizeof other, NULL), len);
    assert_string_equal(one, other);
}

static void what_was_written_is_read(void **state)
{
    struct snapshot_meta got;
    struct err err = {0};
    int len = snapshot_meta_encode(&meta, text, sizeof text, &err);
    assert_true(len > 0);
    if (snapshot_meta_decode(&got, text, (size_t)len, &err) < 0)
        fail_msg("%s", err.text);
    assert_same(&got, &meta);
    assert_int_equal(got.base.mtime_ns, -5);
    assert_int_equal(got.shared_bytes, 1024);
    assert_string_equal(got.details, meta.details);
    char hash[SNAPSHOT_HASH_MAX];
    snapshot_meta_hash(&got, hash);
    assert_string_equal(hash, "deadbeef-00000001-00000002");
}

static void an_order_says_nothing_of_files(void **state)
{
    struct snapshot_meta got;
    struct snapshot_meta order = {.tag = "t"};
    int len = snapshot_meta_encode(&order, text, sizeof text, NULL);
    assert_null(strstr(text, "content_hash"));
    assert_int_equal(snapshot_meta_decode(&got, text, (size_t)len, NULL), 0);
    assert_false(got.written);
    assert_same(&got, &order);
}

static void every_flipped_bit_and_every_cut_is_noticed(void **state)
{
    struct snapshot_meta got;
    int len = snapshot_meta_encode(&meta, text, sizeof text, NULL);
    for (int at = 0; at < len * 8; at++) {
        text[at / 8] ^= (char)(1 << at % 8);
        assert_int_equal(snapshot_meta_decode(&got, text, (size_t)len, NULL), -EINVAL);
        text[at / 8] ^= (char)(1 << at % 8);
    }
    for (int cut = 0; cut < len; cut++)
        assert_int_equal(snapshot_meta_decode(&got, text, (size_t)cut, NULL), -EINVAL);
}

static void assert_refused(const struct snapshot_meta *bad, const char *why)
{
    struct snapshot_meta got;
    struct err err = {0};
    int len = snapshot_meta_encode(bad, text, sizeof text, NULL);
    assert_true(len > 0);
    assert_int_equal(snapshot_meta_decode(&got, text, (size_t)len, &err), -EINVAL);
    if (!strstr(err.text, why))
        fail_msg("'%s' does not say '%s'", err.text, why);
}

static void what_cannot_be_is_refused_though_its_sum_is_right(void **state)
{
    struct snapshot_meta bad = meta;
    strcpy(bad.tag, "../up");
    assert_refused(&bad, "tag");
    bad = meta;
    bad.mem_bytes = 4097;
    assert_refused(&bad, "memory");
    bad = meta;
    bad.vcpus = 0;
    assert_refused(&bad, "CPUs");
    bad = meta;
    bad.parent_hash[0] = 0;
    assert_refused(&bad, "parent");
}

static void what_is_too_long_is_refused_by_its_writer(void **state)
{
    struct err err = {0};
    memset(meta.base.path, 1, sizeof meta.base.path - 1); /* six characters each, in JSON */
    assert_true(snapshot_meta_encode(&meta, text, sizeof text, NULL) > 0 ||
                snapshot_meta_encode(&meta, text, sizeof text, &err) == -EMSGSIZE);
    assert_int_equal(snapshot_meta_encode(&meta, text, 600, &err), -EMSGSIZE);
    strcpy(meta.base.path, "/\xff");
    assert_int_equal(snapshot_meta_encode(&meta, text, sizeof text, &err), -EINVAL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(what_was_written_is_read, describe),
        cmocka_unit_test_setup(an_order_says_nothing_of_files, describe),
        cmocka_unit_test_setup(every_flipped_bit_and_every_cut_is_noticed, describe),
        cmocka_unit_test_setup(what_cannot_be_is_refused_though_its_sum_is_right, describe),
        cmocka_unit_test_setup(what_is_too_long_is_refused_by_its_writer, describe),
    };
    return cmocka_run_group_tests_name("snapshot_meta", tests, NULL, NULL);
}
