/* state_file.c: claims about the state file: what was written is read, and damage anywhere is named. */
#include "snap/state_file.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

static uint8_t file[16384];
static size_t file_len;

static int write_file(void **state)
{
    struct state_writer w;
    state_writer_init(&w, file, sizeof file);
    pack_u64(state_writer_begin(&w, STATE_MACHINE, 0, 1), 512);
    state_writer_end(&w);
    for (uint32_t i = 0; i < 2; i++) {
        struct pack *p = state_writer_begin(&w, STATE_VCPU, i, 3);
        pack_u32(p, 100 + i);
        pack_str(p, "registers");
        state_writer_end(&w);
    }
    int64_t len = state_writer_finish(&w, NULL);
    file_len = (size_t)len;
    return len > 0 ? 0 : -1;
}

static void sections_come_back(void **state)
{
    struct state_reader r;
    struct unpack u;
    struct err err = {0};
    assert_int_equal(state_reader_init(&r, file, file_len, &err), 0);
    assert_int_equal(state_reader_section(&r, STATE_VCPU, 1, 3, &u, &err), 0);
    char text[16];
    assert_int_equal(unpack_u32(&u), 101);
    assert_true(unpack_str(&u, text, sizeof text));
    assert_true(unpack_done(&u));
    assert_int_equal(state_reader_section(&r, STATE_VCPU, 2, 3, &u, &err), -ENOENT);
    assert_string_equal(err.text, "the state file has no section vcpu 2");
    assert_int_equal(state_reader_section(&r, STATE_VCPU, 1, 4, &u, &err), -EINVAL);
}

static void every_flipped_bit_is_noticed(void **state)
{
    for (size_t at = 0; at < file_len; at++) {
        struct state_reader r;
        struct err err = {0};
        file[at] ^= 1u << (at % 8);
        assert_int_equal(state_reader_init(&r, file, file_len, &err), -EINVAL);
        assert_true(err.text[0]);
        file[at] ^= 1u << (at % 8);
    }
}

static void every_truncation_is_noticed(void **state)
{
    for (size_t len = 0; len < file_len; len++) {
        struct state_reader r;
        assert_int_equal(state_reader_init(&r, file, len, NULL), -EINVAL);
    }
}

static void a_buffer_too_small_is_an_error(void **state)
{
    struct state_writer w;
    static uint8_t small[2700];
    state_writer_init(&w, small, sizeof small);
    struct pack *p = state_writer_begin(&w, STATE_MACHINE, 0, 1);
    for (int i = 0; i < 100; i++)
        pack_u64(p, 1);
    state_writer_end(&w);
    assert_int_equal(state_writer_finish(&w, NULL), -ENOSPC);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(sections_come_back, write_file),
        cmocka_unit_test_setup(every_flipped_bit_is_noticed, write_file),
        cmocka_unit_test_setup(every_truncation_is_noticed, write_file),
        cmocka_unit_test(a_buffer_too_small_is_an_error),
    };
    return cmocka_run_group_tests_name("state_file", tests, NULL, NULL);
}
