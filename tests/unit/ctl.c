/* ctl.c: claims about src/proto/ctl: every message survives the way, and what is malformed is refused. */
#include "proto/ctl.h"
#include "base/own.h"

#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

static int pair[2];

static int setup(void **state)
{
    return socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, pair);
}

static int teardown(void **state)
{
    fd_close(&pair[0]);
    fd_close(&pair[1]);
    return 0;
}

static unsigned open_descriptors(void)
{
    unsigned n = 0;
    own_dir DIR *d = opendir("/proc/self/fd");
    while (d && readdir(d))
        n++;
    return n;
}

static void image_arrives_with_its_ranges_and_descriptors(void **state)
{
    struct ctl_message m, got;
    ctl_message_init(&m, CTL_IMAGE, 7);
    m.image = (struct ctl_image){.mem_bytes = 1 << 20, .state_bytes = 99, .data_bytes = 4096, .zero_count = 2};
    m.image.zero[0] = (struct ctl_zero_range){4096, 8192};
    m.image.zero[1] = (struct ctl_zero_range){65536, 4096};
    m.fd[CTL_FD_MEMORY] = pair[0];
    m.fd[CTL_FD_STATE] = pair[1];
    assert_int_equal(ctl_send(pair[0], &m, NULL), 0);
    assert_int_equal(ctl_recv(pair[1], &got, NULL), 1);
    assert_int_equal(got.type, CTL_IMAGE);
    assert_int_equal(got.request, 7);
    assert_int_equal(got.image.zero_count, 2);
    assert_int_equal(got.image.zero[1].offset, 65536);
    assert_true(got.fd[CTL_FD_MEMORY] >= 0 && got.fd[CTL_FD_STATE] >= 0);
    assert_int_equal(got.fd[CTL_FD_CGROUP], -1);
    ctl_message_close(&got);
}

static void a_message_without_its_descriptors_is_refused_and_leaks_none(void **state)
{
    struct ctl_message m, got;
    unsigned before = open_descriptors();
    ctl_message_init(&m, CTL_IMAGE, 1);
    m.image.mem_bytes = 4096;
    m.fd[CTL_FD_MEMORY] = pair[0]; /* no STATE */
    assert_int_equal(ctl_send(pair[0], &m, NULL), 0);
    struct err err = {0};
    assert_int_equal(ctl_recv(pair[1], &got, &err), -EPROTO);
    ctl_message_init(&m, CTL_GO, 1);
    m.fd[CTL_FD_KERNEL] = pair[0]; /* GO carries none */
    assert_int_equal(ctl_send(pair[0], &m, NULL), 0);
    assert_int_equal(ctl_recv(pair[1], &got, &err), -EPROTO);
    assert_int_equal(open_descriptors(), before);
}

static void layers_arrive_in_order_after_the_named_descriptors(void **state)
{
    struct ctl_message m, got;
    unsigned before = open_descriptors();
    ctl_message_init(&m, CTL_EXPORTED, 3);
    m.export = (struct ctl_export){.ram = 1 << 21, .mem_bytes = 1 << 20, .state_bytes = 5, .birth_layers = 2};
    m.fd[CTL_FD_MEMORY] = m.fd[CTL_FD_STATE] = m.fd[CTL_FD_PAGES] = pair[0];
    for (m.extra_count = 0; m.extra_count < CTL_EXTRA_MAX; m.extra_count++)
        m.extra[m.extra_count] = m.extra_count % 2 ? pair[1] : STDIN_FILENO;
    assert_int_equal(ctl_send(pair[0], &m, NULL), 0);
    assert_int_equal(ctl_recv(pair[1], &got, NULL), 1);
    assert_int_equal(got.export.ram, 1 << 21);
    assert_int_equal(got.export.birth_layers, 2);
    assert_int_equal(got.extra_count, CTL_EXTRA_MAX);
    struct stat sent, came;
    for (unsigned i = 0; i < got.extra_count; i++) {
        assert_int_equal(fstat(m.extra[i], &sent), 0);
        assert_int_equal(fstat(got.extra[i], &came), 0);
        assert_int_equal(sent.st_ino, came.st_ino);
    }
    ctl_message_close(&got);
    assert_int_equal(open_descriptors(), before);
}

static void layers_where_none_belong_are_refused(void **state)
{
    struct ctl_message m, got;
    unsigned before = open_descriptors();
    ctl_message_init(&m, CTL_GO, 1);
    m.extra[m.extra_count++] = pair[0];
    assert_int_equal(ctl_send(pair[0], &m, NULL), 0);
    struct err err = {0};
    assert_int_equal(ctl_recv(pair[1], &got, &err), -EPROTO);
    assert_int_equal(open_descriptors(), before);
}

static void zero_ranges_that_overlap_or_leave_memory_are_refused(void **state)
{
    const struct ctl_zero_range bad[][2] = {
        {{0, 8192}, {4096, 4096}},              /* overlap */
        {{8192, 4096}, {0, 4096}},              /* not sorted */
        {{0, 4096}, {8192, 1 << 30}},           /* past the end */
        {{0, 4096}, {8192, 100}},               /* not whole pages */
        {{0, 4096}, {UINT64_MAX - 4095, 4096}}, /* wraps */
        {{0, 0}, {8192, 4096}},                 /* empty */
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct ctl_message m, got;
        ctl_message_init(&m, CTL_IMAGE, 1);
        m.image = (struct ctl_image){.mem_bytes = 1 << 20, .zero_count = 2, .zero = {bad[i][0], bad[i][1]}};
        m.fd[CTL_FD_MEMORY] = pair[0];
        m.fd[CTL_FD_STATE] = pair[1];
        assert_int_equal(ctl_send(pair[0], &m, NULL), 0);
        assert_int_equal(ctl_recv(pair[1], &got, NULL), -EPROTO);
    }
}

static void an_order_to_save_arrives_whole(void **state)
{
    struct ctl_message m, got;
    ctl_message_init(&m, CTL_SAVE, 11);
    m.save = (struct ctl_save){
        .ram = 0x7f0000000000, .state_bytes = 12345, .birth_layers = 3, .engine = 1, .bytes_per_second = 99};
    memset(m.save.meta, 'x', sizeof m.save.meta - 1);
    m.fd[CTL_FD_DIR] = m.fd[CTL_FD_MEMORY] = m.fd[CTL_FD_STATE] = pair[0];
    m.extra[m.extra_count++] = pair[1];
    assert_int_equal(ctl_send(pair[0], &m, NULL), 0);
    assert_int_equal(ctl_recv(pair[1], &got, NULL), 1);
    assert_memory_equal(&got.save, &m.save, sizeof m.save);
    assert_true(got.fd[CTL_FD_DIR] >= 0 && got.fd[CTL_FD_DIFF] < 0);
    assert_int_equal(got.extra_count, 1);
    ctl_message_close(&got);
}

static void rubbish_and_cut_messages_are_refused(void **state)
{
    struct ctl_message m, got;
    ctl_message_init(&m, CTL_BOOT, 3);
    strcpy(m.boot.id, "id");
    strcpy(m.boot.cmdline, "quiet");
    m.fd[CTL_FD_KERNEL] = m.fd[CTL_FD_VSOCK] = m.fd[CTL_FD_LISTEN] = m.fd[CTL_FD_CONSOLE] = pair[0];
    assert_int_equal(ctl_send(pair[0], &m, NULL), 0);
    uint8_t whole[CTL_MESSAGE_MAX];
    ssize_t len = recv(pair[1], whole, sizeof whole, 0);
    assert_true(len > 20);
    for (ssize_t cut = 1; cut < len; cut++) {
        assert_int_equal(send(pair[0], whole, (size_t)cut, 0), cut);
        assert_int_equal(ctl_recv(pair[1], &got, NULL), -EPROTO);
    }
}

static void the_end_and_silence_are_told_apart(void **state)
{
    struct ctl_message got;
    struct err err = {0};
    assert_int_equal(ctl_recv(pair[1], &got, &err), -EAGAIN);
    assert_int_equal(ctl_recv_until(pair[1], &got, 0, &err), -ETIMEDOUT);
    fd_close(&pair[0]);
    assert_int_equal(ctl_recv(pair[1], &got, &err), 0);
}

static void a_failure_travels_with_code_and_sentence(void **state)
{
    struct err why = {0};
    err_say(&why, ENOSPC, "no space for the layer");
    assert_int_equal(ctl_send_failed(pair[0], 9, &why, NULL), 0);
    struct ctl_message got;
    assert_int_equal(ctl_recv(pair[1], &got, NULL), 1);
    assert_int_equal(got.failed.code, ENOSPC);
    assert_string_equal(got.failed.text, "no space for the layer");
}

static void a_socket_is_named_by_a_number_and_nothing_else(void **state)
{
    static const char *const wrong[] = {"", "-1", "3x", "x", "1048577", "99999999999999999999"};
    assert_int_equal(ctl_socket_parse("0"), 0);
    assert_int_equal(ctl_socket_parse("17"), 17);
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++)
        assert_int_equal(ctl_socket_parse(wrong[i]), -1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(image_arrives_with_its_ranges_and_descriptors, setup, teardown),
        cmocka_unit_test_setup_teardown(a_message_without_its_descriptors_is_refused_and_leaks_none, setup, teardown),
        cmocka_unit_test_setup_teardown(layers_arrive_in_order_after_the_named_descriptors, setup, teardown),
        cmocka_unit_test_setup_teardown(layers_where_none_belong_are_refused, setup, teardown),
        cmocka_unit_test_setup_teardown(zero_ranges_that_overlap_or_leave_memory_are_refused, setup, teardown),
        cmocka_unit_test_setup_teardown(an_order_to_save_arrives_whole, setup, teardown),
        cmocka_unit_test_setup_teardown(rubbish_and_cut_messages_are_refused, setup, teardown),
        cmocka_unit_test_setup_teardown(the_end_and_silence_are_told_apart, setup, teardown),
        cmocka_unit_test_setup_teardown(a_failure_travels_with_code_and_sentence, setup, teardown),
        cmocka_unit_test(a_socket_is_named_by_a_number_and_nothing_else),
    };
    return cmocka_run_group_tests_name("ctl", tests, NULL, NULL);
}
