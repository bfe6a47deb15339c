/* base.c: claims about src/base. */
#include "base/err.h"
#include "base/list.h"
#include "base/own.h"
#include "base/pack.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

static void err_names_the_cause_and_gains_context(void **state)
{
    struct err err = {0};
    assert_int_equal(err_set(&err, ENOENT, "open %s", "disk"), -ENOENT);
    assert_int_equal(err_wrap(&err, "boot"), -ENOENT);
    assert_string_equal(err.text, "boot: open disk: No such file or directory");
    assert_int_equal(err_say(NULL, EINVAL, "dropped"), -EINVAL);
    assert_true(err_set(&err, 0, "no cause") < 0);
}

static void err_cuts_a_sentence_that_is_too_long(void **state)
{
    char longer[ERR_TEXT_MAX * 2];
    memset(longer, 'x', sizeof longer - 1);
    longer[sizeof longer - 1] = 0;
    struct err err = {0};
    err_set(&err, EIO, "%s", longer);
    err_wrap(&err, "%s", longer);
    assert_int_equal(strlen(err.text), ERR_TEXT_MAX - 1);
}

static void pack_round_trips_every_width(void **state)
{
    uint8_t buf[128];
    struct pack p = pack_into(buf, sizeof buf);
    pack_u8(&p, 0xfe);
    pack_u16(&p, 0xfedc);
    pack_u32(&p, 0xfedcba98);
    pack_u64(&p, UINT64_C(0xfedcba9876543210));
    pack_str(&p, "name");
    assert_false(p.full);
    assert_int_equal(buf[1], 0xdc); /* little end first */

    struct unpack u = unpack_from(buf, p.len);
    char name[5];
    assert_int_equal(unpack_u8(&u), 0xfe);
    assert_int_equal(unpack_u16(&u), 0xfedc);
    assert_int_equal(unpack_u32(&u), 0xfedcba98);
    assert_true(unpack_u64(&u) == UINT64_C(0xfedcba9876543210));
    assert_true(unpack_str(&u, name, sizeof name));
    assert_string_equal(name, "name");
    assert_true(unpack_done(&u));
}

static void pack_refuses_what_does_not_fit(void **state)
{
    uint8_t buf[4];
    struct pack p = pack_into(buf, sizeof buf);
    pack_u16(&p, 1);
    pack_u32(&p, 2);
    assert_true(p.full);
    pack_u8(&p, 3);
    assert_int_equal(p.len, 2);
}

static void unpack_refuses_what_is_not_there(void **state)
{
    const uint8_t huge[] = {0xff, 0xff, 0xff, 0xff, 'a'};
    struct unpack u = unpack_from(huge, sizeof huge);
    size_t len = 7;
    assert_null(unpack_blob(&u, &len));
    assert_int_equal(len, 0);
    assert_true(u.bad);
    assert_int_equal(unpack_u8(&u), 0);
    assert_false(unpack_done(&u));
}

static void unpack_refuses_strings_that_lie(void **state)
{
    const uint8_t zero_inside[] = {3, 0, 0, 0, 'a', 0, 'b'};
    char into[8];
    struct unpack u = unpack_from(zero_inside, sizeof zero_inside);
    assert_false(unpack_str(&u, into, sizeof into));
    const uint8_t longer[] = {8, 0, 0, 0, 'a', 'a', 'a', 'a', 'a', 'a', 'a', 'a'};
    u = unpack_from(longer, sizeof longer);
    assert_false(unpack_str(&u, into, sizeof into));
    assert_true(u.bad);
}

static void steal_leaves_nothing_behind(void **state)
{
    int fd = 5;
    assert_int_equal(steal_fd(&fd), 5);
    assert_int_equal(fd, -1);
    char text[] = "kept";
    char *p = text;
    assert_ptr_equal(steal_ptr(p), text);
    assert_null(p);
}

static void list_keeps_order_and_allows_removal_while_walking(void **state)
{
    struct node {
        int v;
        struct list link;
    } a = {1, {0}}, b = {2, {0}}, c = {3, {0}};
    struct list head = LIST_INIT(head);
    list_append(&head, &a.link);
    list_append(&head, &b.link);
    list_append(&head, &c.link);
    int seen = 0;
    list_for_each_safe (n, &head) {
        struct node *e = list_entry(n, struct node, link);
        seen = seen * 10 + e->v;
        if (e->v == 2)
            list_remove(n);
    }
    assert_int_equal(seen, 123);
    list_remove(&b.link);
    seen = 0;
    list_for_each (n, &head)
        seen = seen * 10 + list_entry(n, struct node, link)->v;
    assert_int_equal(seen, 13);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(err_names_the_cause_and_gains_context),
        cmocka_unit_test(err_cuts_a_sentence_that_is_too_long),
        cmocka_unit_test(pack_round_trips_every_width),
        cmocka_unit_test(pack_refuses_what_does_not_fit),
        cmocka_unit_test(unpack_refuses_what_is_not_there),
        cmocka_unit_test(unpack_refuses_strings_that_lie),
        cmocka_unit_test(steal_leaves_nothing_behind),
        cmocka_unit_test(list_keeps_order_and_allows_removal_while_walking),
    };
    return cmocka_run_group_tests_name("base", tests, NULL, NULL);
}
