/* seccomp.c: claims about src/sys/seccomp. Each runs in a process of its own. */
#include "sys/seccomp.h"
#include "base/fdpass.h"
#include "base/own.h"
#include "sys/clone.h"
#include "sys/loop.h"

#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include <cmocka.h>

/* How a filtered child ends: an exit status, or the negative of a signal. */
static int run_filtered(enum seccomp_mode mode, int err_fd, int (*body)(void))
{
    pid_t pid = fork();
    if (pid == 0) {
        if (err_fd >= 0)
            dup2(err_fd, STDERR_FILENO);
        struct err err = {0};
        if (seccomp_install(SECCOMP_VMM, mode, &err) < 0) {
            dprintf(STDERR_FILENO, "%s\n", err.text);
            _exit(99);
        }
        _exit(body());
    }
    int status = -1;
    waitpid(pid, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

static void *use_memory(void *arg)
{
    for (size_t size = 16; size < (size_t)8 << 20; size *= 4) {
        char *p = malloc(size);
        memset(p, 1, size);
        p = realloc(p, size * 2);
        free(p);
    }
    return arg;
}

struct ticking {
    struct loop loop;
    struct loop_timer timer;
};

static void stop_loop(struct loop_timer *timer)
{
    loop_stop(&list_entry(timer, struct ticking, timer)->loop);
}

static int live_as_a_sandbox_does(void)
{
    pthread_t thread;
    void *result = NULL;
    if (pthread_create(&thread, NULL, use_memory, stop_loop) || pthread_join(thread, &result) || result != stop_loop)
        return 1;
    struct ticking t = {.timer = {.fn = stop_loop}};
    if (loop_init(&t.loop, NULL) < 0)
        return 2;
    loop_timer_set(&t.loop, &t.timer, 1);
    if (loop_run(&t.loop, NULL) < 0)
        return 3;
    struct clone_spec spec = {.cgroup_fd = -1, .want_pidfd = true};
    int pidfd;
    pid_t pid = clone_fork(&spec, &pidfd, NULL);
    if (pid == 0)
        _exit(0);
    int status = -1;
    waitpid(pid, &status, 0);
    return status;
}

static void what_a_sandbox_does_is_allowed(void **state)
{
    assert_int_equal(run_filtered(SECCOMP_KILL, -1, live_as_a_sandbox_does), 0);
}

static int make_kill(void)
{
    return kill(getpid(), 0);
}
static int make_ptrace(void)
{
    return (int)syscall(SYS_ptrace, 0, 0, 0, 0);
}
static int make_vm_read(void)
{
    return (int)syscall(SYS_process_vm_readv, getpid(), NULL, 0, NULL, 0, 0);
}
static int make_uring(void)
{
    return (int)syscall(SYS_io_uring_setup, 1, NULL);
}
static int make_execve(void)
{
    return execl("/bin/true", "true", NULL);
}
static int make_inet_socket(void)
{
    return socket(AF_INET, SOCK_STREAM, 0);
}
static int make_code(void)
{
    return mmap(NULL, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) == MAP_FAILED;
}
static int make_code_of_data(void)
{
    static _Alignas(4096) char page[4096];
    return mprotect(page, sizeof page, PROT_READ | PROT_EXEC);
}
static int make_end_of_thread(void)
{
    return (int)syscall(SYS_tgkill, getpid(), gettid(), SIGKILL);
}
static int make_old_system_call(void)
{
    int result = 20; /* getpid, by the 32-bit gate: another architecture's numbers */
    __asm__ volatile("int $0x80" : "+a"(result)::"memory");
    return 0;
}

static void what_no_tag_names_ends_the_process(void **state)
{
    int (*const bodies[])(void) = {make_kill,          make_ptrace,         make_vm_read, make_uring,
                                   make_execve,        make_inet_socket,    make_code,    make_code_of_data,
                                   make_end_of_thread, make_old_system_call};
    for (size_t i = 0; i < sizeof bodies / sizeof *bodies; i++) {
        if (run_filtered(SECCOMP_KILL, -1, bodies[i]) != -SIGSYS)
            fail_msg("call %zu is allowed", i);
    }
}

static void a_developer_is_told_the_name_of_the_call(void **state)
{
    int pipe_fds[2];
    assert_int_equal(pipe2(pipe_fds, O_CLOEXEC), 0);
    own_fd int from = pipe_fds[0], to = pipe_fds[1];
    assert_int_equal(run_filtered(SECCOMP_EXPLAIN, to, make_execve), 128 + SIGSYS);
    char text[256] = {0};
    assert_true(read(from, text, sizeof text - 1) > 0);
    assert_non_null(strstr(text, "(execve)"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_a_sandbox_does_is_allowed),
        cmocka_unit_test(what_no_tag_names_ends_the_process),
        cmocka_unit_test(a_developer_is_told_the_name_of_the_call),
    };
    return cmocka_run_group_tests_name("seccomp", tests, NULL, NULL);
}
