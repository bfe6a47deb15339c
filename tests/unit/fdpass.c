/* fdpass.c: claims about src/base/fdpass. */
#include "base/fdpass.h"
#include "base/clock.h"
#include "base/own.h"

#include <dirent.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <sys/socket.h>

#include <cmocka.h>

struct pair {
    int a, b;
};

static int make_pair(void **state)
{
    static struct pair pair;
    int fds[2];
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, fds) < 0)
        return -1;
    pair = (struct pair){fds[0], fds[1]};
    *state = &pair;
    return 0;
}

static int close_pair(void **state)
{
    struct pair *p = *state;
    fd_close(&p->a);
    fd_close(&p->b);
    return 0;
}

static int descriptors_open(void)
{
    own_dir DIR *dir = opendir("/proc/self/fd");
    int n = 0;
    while (dir && readdir(dir))
        n++;
    return n;
}

static void fdpass_delivers_bytes_and_descriptors(void **state)
{
    struct pair *p = *state;
    int sent[FDPASS_MAX], got[FDPASS_MAX];
    for (int i = 0; i < FDPASS_MAX; i++)
        sent[i] = STDERR_FILENO;
    assert_int_equal(fdpass_send(p->a, "hello", 5, sent, FDPASS_MAX, NULL), 0);
    char buf[16];
    size_t count = FDPASS_MAX;
    assert_int_equal(fdpass_recv(p->b, buf, sizeof buf, got, &count, NULL), 5);
    assert_memory_equal(buf, "hello", 5);
    assert_int_equal(count, FDPASS_MAX);
    for (size_t i = 0; i < count; i++) {
        assert_true(fcntl(got[i], F_GETFD) & FD_CLOEXEC);
        close(got[i]);
    }
}

static void fdpass_closes_what_came_with_a_message_too_long(void **state)
{
    struct pair *p = *state;
    int before = descriptors_open(), fd = STDERR_FILENO, got[1];
    assert_int_equal(fdpass_send(p->a, "longer", 6, &fd, 1, NULL), 0);
    char buf[3];
    size_t count = 1;
    assert_int_equal(fdpass_recv(p->b, buf, sizeof buf, got, &count, NULL), -EMSGSIZE);
    assert_int_equal(count, 0);
    assert_int_equal(descriptors_open(), before);
}

static void fdpass_closes_descriptors_nobody_asked_for(void **state)
{
    struct pair *p = *state;
    int before = descriptors_open(), fds[2] = {STDERR_FILENO, STDERR_FILENO}, got[2];
    assert_int_equal(fdpass_send(p->a, "x", 1, fds, 2, NULL), 0);
    char buf[3];
    size_t count = 1;
    assert_int_equal(fdpass_recv(p->b, buf, sizeof buf, got, &count, NULL), -EPROTO);
    assert_int_equal(descriptors_open(), before);
}

static void fdpass_closes_a_flood_of_descriptors(void **state)
{
    struct pair *p = *state;
    int sent[FDPASS_MAX], got[FDPASS_MAX];
    for (int i = 0; i < FDPASS_MAX; i++)
        sent[i] = STDERR_FILENO;
    assert_int_equal(fdpass_send(p->a, "x", 1, sent, FDPASS_MAX, NULL), 0);

    int before = descriptors_open();
    char buf[3];
    size_t count = FDPASS_MAX - 1;
    assert_int_equal(fdpass_recv(p->b, buf, sizeof buf, got, &count, NULL), -EPROTO);
    assert_int_equal(count, 0);
    assert_int_equal(descriptors_open(), before);
}

static void fdpass_tells_a_closed_peer_from_silence(void **state)
{
    struct pair *p = *state;
    char buf[3];
    size_t count = 0;
    uint64_t now = clock_monotonic_ns();
    assert_int_equal(fdpass_recv_by(p->b, buf, sizeof buf, NULL, &count, now, NULL), -ETIMEDOUT);
    fd_close(&p->a);
    assert_int_equal(fdpass_recv(p->b, buf, sizeof buf, NULL, &count, NULL), 0);
    assert_int_equal(fdpass_send(p->b, "x", 1, NULL, 0, NULL), -EPIPE);
    assert_int_equal(fdpass_send(p->b, "", 0, NULL, 0, NULL), -EINVAL);
}

static void fdpass_gives_up_on_a_peer_that_never_reads(void **state)
{
    struct pair *p = *state;
    char buf[512] = {0};
    uint64_t now = clock_monotonic_ns();
    int rc;
    do
        rc = fdpass_send_by(p->a, buf, sizeof buf, NULL, 0, now, NULL);
    while (rc == 0);
    assert_int_equal(rc, -ETIMEDOUT);
}

int main(void)
{
#define test(claim) cmocka_unit_test_setup_teardown(claim, make_pair, close_pair)
    const struct CMUnitTest tests[] = {
        test(fdpass_delivers_bytes_and_descriptors),      test(fdpass_closes_what_came_with_a_message_too_long),
        test(fdpass_closes_descriptors_nobody_asked_for), test(fdpass_closes_a_flood_of_descriptors),
        test(fdpass_tells_a_closed_peer_from_silence),    test(fdpass_gives_up_on_a_peer_that_never_reads),
    };
    return cmocka_run_group_tests_name("fdpass", tests, NULL, NULL);
}
