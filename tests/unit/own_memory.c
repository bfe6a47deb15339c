/* own_memory.c: claims about src/sys/own_memory. */
#include "sys/own_memory.h"
#include "base/fdpass.h"
#include "base/own.h"

#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>

#include <cmocka.h>

enum { TREE_UID = 65532, READER_UID = 65531 };

static void become(uid_t uid)
{
    if (geteuid() == 0 && (setgid(uid) || setuid(uid)))
        _exit(90);
}

/* A process of its own uid that hands out its memory, then waits for the socket to close. */
static pid_t start_owner(int proc, int sock, int others, char *page)
{
    pid_t pid = fork();
    if (pid != 0)
        return pid;
    close(others);
    become(TREE_UID);
    strcpy(page, "owner");
    own_fd int mem = own_memory_open(proc, NULL);
    if (mem < 0 || prctl(PR_GET_DUMPABLE) != 0 || fdpass_send(sock, "x", 1, &mem, 1, NULL) < 0)
        _exit(91);
    char bye;
    size_t none = 0;
    fdpass_recv(sock, &bye, 1, NULL, &none, NULL);
    _exit(0);
}

static int read_as_another_uid(int mem, const char *page, char *into, size_t len)
{
    pid_t pid = fork();
    if (pid == 0) {
        become(READER_UID);
        char text[16] = {0};
        bool same = pread(mem, text, len, (off_t)(uintptr_t)page) == (ssize_t)len && !memcmp(text, into, len);
        _exit(same ? 0 : 92);
    }
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    return status;
}

static void another_uid_reads_memory_it_was_given(void **state)
{
    char *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    strcpy(page, "other");
    own_fd int proc = own_memory_proc_open(NULL);
    assert_true(proc >= 0);
    int pair[2];
    assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair), 0);
    pid_t owner = start_owner(proc, pair[1], pair[0], page);
    own_fd int ours = pair[0], theirs = pair[1], mem = -1;
    fd_close(&theirs);

    char byte;
    size_t count = 1;
    assert_int_equal(fdpass_recv(ours, &byte, 1, &mem, &count, NULL), 1);
    assert_int_equal(fcntl(mem, F_GETFL) & O_ACCMODE, O_RDONLY);
    assert_int_equal(read_as_another_uid(mem, page, "owner", 6), 0);

    fd_close(&ours);
    int status;
    assert_int_equal(waitpid(owner, &status, 0), owner);
    assert_int_equal(status, 0);
    assert_int_equal(pread(mem, &byte, 1, (off_t)(uintptr_t)page), 0); /* a dead owner is an end of file */
    munmap(page, 4096);
}

static void the_oom_score_can_be_raised_after_privileges_are_gone(void **state)
{
    own_fd int proc = own_memory_proc_open(NULL);
    pid_t pid = fork();
    if (pid == 0) {
        become(TREE_UID);
        if (own_memory_set_oom_score(proc, 900, NULL) < 0 || prctl(PR_GET_DUMPABLE) != 0)
            _exit(1);
        char text[16];
        own_fd int fd = openat(proc, "self/oom_score_adj", O_RDONLY | O_CLOEXEC);
        _exit(read(fd, text, sizeof text) != 4 || memcmp(text, "900\n", 4) != 0);
    }
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(another_uid_reads_memory_it_was_given),
        cmocka_unit_test(the_oom_score_can_be_raised_after_privileges_are_gone),
    };
    return cmocka_run_group_tests_name("own_memory", tests, NULL, NULL);
}
