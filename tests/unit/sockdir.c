/* sockdir.c: claims about src/sys/sockdir. */
#include "sys/sockdir.h"
#include "base/own.h"

#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include <cmocka.h>

enum { DEPTH = 8, WAIT_MS = 20 };

/* A directory whose path is far longer than a socket's may be. */
static int open_deep_directory(char *top)
{
    if (!mkdtemp(top))
        return -1;
    int dir = open(top, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    for (int i = 0; i < DEPTH && dir >= 0; i++) {
        const char *name = "a-directory-with-a-rather-long-name";
        mkdirat(dir, name, 0700);
        int next = openat(dir, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        close(dir);
        dir = next;
    }
    return dir;
}

static void remove_deep_directory(char *top)
{
    char path[512];
    for (int depth = DEPTH; depth >= 0; depth--) {
        size_t n = (size_t)snprintf(path, sizeof path, "%s", top);
        for (int i = 0; i < depth; i++)
            n += (size_t)snprintf(path + n, sizeof path - n, "/a-directory-with-a-rather-long-name");
        assert_int_equal(rmdir(path), 0);
    }
}

static void a_socket_works_however_deep_its_directory_lies(void **state)
{
    char top[] = "/tmp/forkd-sockdir-XXXXXX";
    own_fd int dir = open_deep_directory(top);
    assert_true(dir >= 0);
    char name[SOCKDIR_NAME_MAX + 1];
    memset(name, 'n', SOCKDIR_NAME_MAX);
    name[SOCKDIR_NAME_MAX] = 0;

    own_fd int listening = sockdir_listen(dir, name, SOCK_SEQPACKET, 1, NULL);
    assert_true(listening >= 0);
    struct stat st;
    assert_int_equal(fstatat(dir, name, &st, 0), 0);
    assert_int_equal(st.st_mode & 0077, 0);
    own_fd int client = sockdir_connect(dir, name, SOCK_SEQPACKET, WAIT_MS, NULL);
    own_fd int server = accept4(listening, NULL, NULL, SOCK_CLOEXEC);
    assert_int_equal(write(client, "hi", 2), 2);
    char buf[4];
    assert_int_equal(read(server, buf, sizeof buf), 2);

    assert_int_equal(sockdir_listen(dir, name, SOCK_SEQPACKET, 1, NULL), -EADDRINUSE);
    fd_close(&listening);
    struct err err = {0};
    assert_int_equal(sockdir_connect(dir, name, SOCK_SEQPACKET, WAIT_MS, &err), -ECONNREFUSED);
    assert_non_null(strstr(err.text, name));
    assert_int_equal(sockdir_unlink(dir, name, NULL), 0);
    assert_int_equal(sockdir_unlink(dir, name, NULL), 0);
    assert_int_equal(sockdir_connect(dir, name, SOCK_SEQPACKET, WAIT_MS, NULL), -ENOENT);
    remove_deep_directory(top);
}

static void names_that_leave_the_directory_are_refused(void **state)
{
    assert_int_equal(sockdir_listen(AT_FDCWD, "../x", SOCK_STREAM, 1, NULL), -EINVAL);
    assert_int_equal(sockdir_connect(AT_FDCWD, "", SOCK_STREAM, WAIT_MS, NULL), -EINVAL);
}

/* The kernel takes one connection more than the backlog says. */
static void a_full_backlog_is_an_error_in_time(void **state)
{
    char top[] = "/tmp/forkd-sockdir-XXXXXX";
    assert_non_null(mkdtemp(top));
    own_fd int dir = open(top, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    own_fd int listening = sockdir_listen(dir, "s", SOCK_SEQPACKET, 0, NULL);
    struct err err = {0};
    own_fd int first = sockdir_connect(dir, "s", SOCK_SEQPACKET, WAIT_MS, NULL);
    assert_true(first >= 0);
    assert_int_equal(sockdir_connect(dir, "s", SOCK_SEQPACKET, WAIT_MS, &err), -ETIMEDOUT);
    own_fd int server = accept4(listening, NULL, NULL, SOCK_CLOEXEC);
    own_fd int second = sockdir_connect(dir, "s", SOCK_SEQPACKET, WAIT_MS, NULL);
    assert_true(server >= 0 && second >= 0);
    assert_int_equal(sockdir_unlink(dir, "s", NULL), 0);
    assert_int_equal(rmdir(top), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_socket_works_however_deep_its_directory_lies),
        cmocka_unit_test(a_full_backlog_is_an_error_in_time),
        cmocka_unit_test(names_that_leave_the_directory_are_refused),
    };
    return cmocka_run_group_tests_name("sockdir", tests, NULL, NULL);
}
