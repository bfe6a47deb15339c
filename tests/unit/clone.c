/* clone.c: claims about src/sys/clone, on the fast path and on the one of older kernels. */
#include "sys/clone.h"
#include "base/own.h"

#include <poll.h>
#include <pthread.h>
#include <seccomp.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#include <cmocka.h>

static int exit_status(pid_t pid)
{
    int status;
    if (waitpid(pid, &status, 0) != pid)
        return 98;
    return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

static void *thread_body(void *arg)
{
    free(malloc(100));
    return arg;
}

/* What a sandbox does with glibc after it was forked: 0 when all of it works. */
static int exercise_glibc(void)
{
    pthread_mutexattr_t attributes;
    pthread_mutex_t mutex;
    pthread_mutexattr_init(&attributes);
    pthread_mutexattr_settype(&attributes, PTHREAD_MUTEX_ERRORCHECK);
    pthread_mutex_init(&mutex, &attributes);
    if (pthread_mutex_lock(&mutex) || mutex.__data.__owner != getpid() || pthread_mutex_unlock(&mutex))
        return 1;
    pthread_t thread;
    void *result = NULL;
    if (pthread_create(&thread, NULL, thread_body, &mutex) || pthread_join(thread, &result) || result != &mutex)
        return 2;
    pid_t grandchild = fork();
    if (grandchild == 0)
        _exit(0);
    return exit_status(grandchild) ? 3 : 0;
}

/* Forks a child that runs `body` and sees its end through its pidfd: 0 when all of it works. */
static int try_fork(int (*body)(void))
{
    struct clone_spec spec = {.cgroup_fd = -1, .want_pidfd = true};
    own_fd int pidfd = -1;
    pid_t pid = clone_fork(&spec, &pidfd, NULL);
    if (pid == 0)
        _exit(body());
    struct pollfd p = {.fd = pidfd, .events = POLLIN};
    if (pid < 0 || poll(&p, 1, 30000) != 1)
        return 10;
    return exit_status(pid);
}

static int exercise_nothing(void)
{
    return 0;
}

static void clone_fork_leaves_glibc_usable_in_the_child(void **state)
{
    assert_int_equal(try_fork(exercise_glibc), 0);
}

/* The same in a process to which the kernel refuses what `rule` names. */
static int try_fork_without(int code, int syscall_number, unsigned conditions, struct scmp_arg_cmp condition,
                            int (*body)(void))
{
    pid_t pid = fork();
    if (pid == 0) {
        scmp_filter_ctx filter = seccomp_init(SCMP_ACT_ALLOW);
        if (seccomp_rule_add_array(filter, SCMP_ACT_ERRNO((unsigned)code), syscall_number, conditions, &condition) ||
            seccomp_load(filter))
            _exit(99);
        seccomp_release(filter);
        _exit(try_fork(body));
    }
    return exit_status(pid);
}

static void clone_fork_works_where_there_is_no_clone3(void **state)
{
    struct scmp_arg_cmp none = {0};
    assert_int_equal(try_fork_without(ENOSYS, SCMP_SYS(clone3), 0, none, exercise_glibc), 0);
}

/* glibc itself takes no E2BIG for an answer, so its threads are left out. */
static void clone_fork_works_where_clone3_knows_no_cgroups(void **state)
{
    struct scmp_arg_cmp none = {0};
    assert_int_equal(try_fork_without(E2BIG, SCMP_SYS(clone3), 0, none, exercise_nothing), 0);
}

static void clone_fork_works_where_the_tid_address_is_unknown(void **state)
{
    struct scmp_arg_cmp tid_address = {.arg = 0, .op = SCMP_CMP_EQ, .datum_a = PR_GET_TID_ADDRESS};
    assert_int_equal(try_fork_without(EINVAL, SCMP_SYS(prctl), 1, tid_address, exercise_glibc), 0);
}

static void clone_fork_names_a_cgroup_that_is_none(void **state)
{
    struct clone_spec spec = {.cgroup_fd = STDERR_FILENO, .want_pidfd = true};
    struct err err = {0};
    int pidfd = 7;
    assert_true(clone_fork(&spec, &pidfd, &err) < 0);
    assert_int_equal(pidfd, -1);
    assert_non_null(strstr(err.text, "clone3"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(clone_fork_leaves_glibc_usable_in_the_child),
        cmocka_unit_test(clone_fork_works_where_there_is_no_clone3),
        cmocka_unit_test(clone_fork_works_where_clone3_knows_no_cgroups),
        cmocka_unit_test(clone_fork_works_where_the_tid_address_is_unknown),
        cmocka_unit_test(clone_fork_names_a_cgroup_that_is_none),
    };
    return cmocka_run_group_tests_name("clone", tests, NULL, NULL);
}
