/* proto.c: claims about src/proto/agent: what is packed comes back, and what is no frame is refused. */
#include "proto/agent.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

static uint8_t wire[AGENT_FRAME_MAX + 4];

static struct agent_frame only_frame(const struct pack *p)
{
    struct agent_frame frame = {0};
    assert_false(p->full);
    assert_int_equal(agent_frame_parse(p->buf, p->len, &frame, NULL, NULL), p->len);
    return frame;
}

static void assert_text(struct agent_text text, const char *expected)
{
    assert_int_equal(text.len, strlen(expected));
    assert_memory_equal(text.at, expected, text.len);
}

static void exec_comes_back_as_it_was(void **state)
{
    const char *const argv[] = {"sh", "-c", "", NULL}, *const env[] = {"A=b", NULL};
    struct agent_exec sent = {.argv = {.strings = argv},
                              .env = {.strings = env},
                              .cwd = agent_text_of("/tmp"),
                              .timeout_ms = 30000,
                              .output_limit = 7,
                              .stdin_stream = true,
                              .stdin_ = agent_blob_of("a\0b", 3)};
    struct pack p = pack_into(wire, sizeof wire);
    agent_pack_exec(&p, &sent);
    struct agent_frame frame = only_frame(&p);
    struct agent_exec got;
    assert_int_equal(agent_unpack_exec(&frame, &got, NULL), 0);
    assert_int_equal(got.argv.count, 3);
    struct agent_text text;
    for (size_t i = 0; i < 3; i++) {
        assert_true(agent_list_next(&got.argv, &text));
        assert_text(text, argv[i]);
    }
    assert_false(agent_list_next(&got.argv, &text));
    assert_true(agent_list_next(&got.env, &text));
    assert_text(text, "A=b");
    assert_text(got.cwd, "/tmp");
    assert_int_equal(got.timeout_ms, 30000);
    assert_int_equal(got.output_limit, 7);
    assert_true(got.stdin_stream);
    assert_int_equal(got.stdin_.len, 3);
    assert_memory_equal(got.stdin_.at, "a\0b", 3);
}

static void every_answer_comes_back_as_it_was(void **state)
{
    struct agent_frame frame;
    struct pack p = pack_into(wire, sizeof wire);
    struct agent_pong pong = {.version = agent_text_of("1"),
                              .pid = 7,
                              .lang = agent_text_of("c"),
                              .warmup_ready = true,
                              .numpy_version = agent_text_of("2.0"),
                              .hostname = agent_text_of("h"),
                              .uptime_ns = UINT64_MAX},
                      pong2;
    agent_pack_pong(&p, &pong);
    frame = only_frame(&p);
    assert_int_equal(agent_unpack_pong(&frame, &pong2, NULL), 0);
    assert_text(pong2.hostname, "h");
    assert_true(pong2.uptime_ns == UINT64_MAX);

    p.len = 0;
    struct agent_exit exit = {.kind = AGENT_SIGNALLED,
                              .code = -9,
                              .reason = agent_text_of("r"),
                              .stderr_cut = true,
                              .stderr_total = 1},
                      exit2;
    agent_pack_exit(&p, &exit);
    frame = only_frame(&p);
    assert_int_equal(agent_unpack_exit(&frame, &exit2, NULL), 0);
    assert_int_equal(exit2.kind, AGENT_SIGNALLED);
    assert_int_equal(exit2.code, -9);
    assert_true(exit2.stderr_cut && !exit2.stdout_cut);

    p.len = 0;
    struct agent_outcome outcome = {.error = agent_text_of("why")}, outcome2;
    agent_pack_outcome(&p, AGENT_IDENTIFIED, &outcome);
    frame = only_frame(&p);
    assert_int_equal(agent_unpack_outcome(&frame, AGENT_IDENTIFIED, &outcome2, NULL), 0);
    assert_text(outcome2.error, "why");
    assert_int_equal(agent_unpack_outcome(&frame, AGENT_WARMED, &outcome2, NULL), -EPROTO);
}

static void evaluated_fits_with_four_full_texts(void **state)
{
    static char text[AGENT_EVAL_TEXT_MAX];
    memset(text, 'x', sizeof text);
    struct agent_text full = {text, sizeof text};
    struct agent_blob blob = agent_blob_of(text, sizeof text);
    struct agent_evaluated m = {.result = full, .error = full, .stdout_ = blob, .stderr_ = blob, .timed_out = true},
                           got;
    struct pack p = pack_into(wire, sizeof wire);
    agent_pack_evaluated(&p, &m);
    struct agent_frame frame = only_frame(&p);
    assert_int_equal(agent_unpack_evaluated(&frame, &got, NULL), 0);
    assert_true(got.timed_out);
    assert_int_equal(got.stderr_.len, sizeof text);
}

static void identity_outside_the_limits_is_refused(void **state)
{
    uint8_t entropy[AGENT_ENTROPY_MAX + 1] = {0};
    struct agent_identity m = {.entropy = agent_blob_of(entropy, AGENT_ENTROPY_MIN),
                               .hostname = agent_text_of("h"),
                               .id = agent_text_of("id")};
    const size_t wrong[] = {0, AGENT_ENTROPY_MIN - 1, AGENT_ENTROPY_MAX + 1};
    struct pack p = pack_into(wire, sizeof wire);
    agent_pack_identity(&p, &m);
    only_frame(&p);
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        p = pack_into(wire, sizeof wire);
        m.entropy.len = wrong[i];
        agent_pack_identity(&p, &m);
        assert_true(p.full);
    }
}

static void a_frame_is_asked_for_piece_by_piece(void **state)
{
    struct pack p = pack_into(wire, sizeof wire);
    agent_pack_data(&p, AGENT_STDIN, "hello", 5);
    struct agent_frame frame;
    size_t need;
    for (size_t len = 0; len < p.len; len++) {
        assert_int_equal(agent_frame_parse(wire, len, &frame, &need, NULL), 0);
        assert_int_equal(need, len < 4 ? AGENT_FRAME_HEAD : p.len);
    }
    assert_int_equal(agent_frame_parse(wire, p.len, &frame, &need, NULL), p.len);
    assert_memory_equal(frame.body, "hello", 5);
}

static void what_is_no_frame_is_refused_by_its_head(void **state)
{
    struct {
        uint8_t bytes[AGENT_FRAME_HEAD];
        size_t len;
    } bad[] = {
        {{1, 0, 0, 0}, 4},                    /* too short for version and type */
        {{1, 0, 16, 0}, 4},                   /* a byte more than a mebibyte */
        {{255, 255, 255, 255}, 4},            /* all there is */
        {{2, 0, 0, 0, AGENT_VERSION + 1}, 6}, /* another version */
        {{'G', 'E', 'T', ' ', '/', ' '}, 6},  /* another protocol */
    };
    struct agent_frame frame;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct err err = {0};
        assert_int_equal(agent_frame_parse(bad[i].bytes, bad[i].len, &frame, NULL, &err), -EPROTO);
        assert_true(err.text[0]);
    }
}

static void every_cut_of_a_message_is_malformed(void **state)
{
    const char *const argv[] = {"true", NULL};
    struct agent_exec m = {.argv = {.strings = argv}}, got;
    struct pack p = pack_into(wire, sizeof wire);
    agent_pack_exec(&p, &m);
    struct agent_frame whole = only_frame(&p);
    for (size_t len = 0; len < whole.len; len++) {
        struct agent_frame cut = whole;
        cut.len = len;
        assert_int_equal(agent_unpack_exec(&cut, &got, NULL), -EPROTO);
    }
    struct agent_frame longer = whole;
    longer.len++;
    assert_int_equal(agent_unpack_exec(&longer, &got, NULL), -EPROTO);
}

static void lists_that_lie_are_malformed(void **state)
{
    struct agent_exec got;
    uint8_t body[64] = {0};
    struct agent_frame frame = {AGENT_EXEC, body, sizeof body};
    const uint32_t counts[] = {0, 1u << 30, UINT32_MAX, AGENT_LIST_MAX + 1};
    for (size_t i = 0; i < sizeof counts / sizeof *counts; i++) {
        struct pack p = pack_into(body, sizeof body);
        pack_u32(&p, counts[i]);
        assert_int_equal(agent_unpack_exec(&frame, &got, NULL), -EPROTO);
    }
}

static void texts_with_a_zero_byte_are_refused_both_ways(void **state)
{
    struct agent_eval m = {.code = {"a\0b", 3}}, got;
    struct pack p = pack_into(wire, sizeof wire);
    agent_pack_eval(&p, &m);
    assert_true(p.full);
    const uint8_t body[] = {3, 0, 0, 0, 'a', 0, 'b', 0, 0, 0, 0};
    struct agent_frame frame = {AGENT_EVAL, body, sizeof body};
    assert_int_equal(agent_unpack_eval(&frame, &got, NULL), -EPROTO);
}

static void a_message_too_long_for_a_frame_is_not_packed(void **state)
{
    static uint8_t big[2 * AGENT_FRAME_MAX], into[3 * AGENT_FRAME_MAX];
    struct pack p = pack_into(into, sizeof into);
    agent_pack_data(&p, AGENT_STDIN, big, AGENT_FRAME_MAX - 2);
    assert_false(p.full);
    agent_pack_data(&p, AGENT_STDIN, big, AGENT_FRAME_MAX - 1);
    assert_true(p.full);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(exec_comes_back_as_it_was),
        cmocka_unit_test(every_answer_comes_back_as_it_was),
        cmocka_unit_test(evaluated_fits_with_four_full_texts),
        cmocka_unit_test(identity_outside_the_limits_is_refused),
        cmocka_unit_test(a_frame_is_asked_for_piece_by_piece),
        cmocka_unit_test(what_is_no_frame_is_refused_by_its_head),
        cmocka_unit_test(every_cut_of_a_message_is_malformed),
        cmocka_unit_test(lists_that_lie_are_malformed),
        cmocka_unit_test(texts_with_a_zero_byte_are_refused_both_ways),
        cmocka_unit_test(a_message_too_long_for_a_frame_is_not_packed),
    };
    return cmocka_run_group_tests_name("agent protocol", tests, NULL, NULL);
}
