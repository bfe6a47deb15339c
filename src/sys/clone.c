/* clone.c: see clone.h.
 *
 * SECCOMP: clone3 - a template forks a sandbox; glibc makes threads
 * SECCOMP: clone - threads, and forks where a kernel has no clone3
 * SECCOMP: pipe2 - holds such a child back until it is in its cgroup
 * SECCOMP: prctl[a0 == PR_GET_TID_ADDRESS] - where glibc keeps the thread id of a forked child
 * SECCOMP: pidfd_open - the pidfd of a child forked without clone3
 * SECCOMP: wait4 - a child that could not enter its cgroup is collected */
#include "sys/clone.h"

#include "base/own.h"

#include <fcntl.h>
#include <linux/sched.h>
#include <signal.h>
#include <stdint.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>

_Static_assert(sizeof(struct clone_args) == CLONE_ARGS_SIZE_VER2, "the cgroup is a field of clone_args");

/* cgroup.procs moves the calling process for "0", so a path through the directory is all it takes. */
static int cgroup_enter(int cgroup_fd, pid_t pid, struct err *err)
{
    own_fd int fd = openat(cgroup_fd, "cgroup.procs", O_WRONLY | O_CLOEXEC);
    if (fd < 0)
        return err_set(err, errno, "open cgroup.procs");
    char text[16];
    int len = snprintf(text, sizeof text, "%d", pid);
    if (write(fd, text, (size_t)len) < 0)
        return err_set(err, errno, "move process %d into its cgroup", pid);
    return 0;
}

/* The child of fork() waits for one byte before it runs anything; the end of the pipe means: not at all. */
static void wait_for_leave(int gate)
{
    char go;
    ssize_t n;
    do
        n = read(gate, &go, 1);
    while (n < 0 && errno == EINTR);
    if (n != 1)
        _exit(127);
}

static void collect(pid_t pid)
{
    while (waitpid(pid, NULL, 0) < 0 && errno == EINTR)
        ;
}

static pid_t fork_slowly(const struct clone_spec *spec, int *pidfd, struct err *err)
{
    int gate[2];
    if (pipe2(gate, O_CLOEXEC) < 0)
        return err_set(err, errno, "pipe2");
    own_fd int gate_read = gate[0], gate_write = gate[1];
    pid_t pid = fork();
    if (pid < 0)
        return err_set(err, errno, "fork");
    if (pid == 0) {
        fd_close(&gate_write);
        wait_for_leave(gate_read);
        return 0;
    }

    own_fd int handle = -1;
    int rc = 0;
    if (spec->want_pidfd && (handle = (int)syscall(SYS_pidfd_open, pid, 0)) < 0)
        rc = err_set(err, errno, "pidfd_open");
    if (rc == 0 && spec->cgroup_fd >= 0)
        rc = cgroup_enter(spec->cgroup_fd, pid, err);
    if (rc == 0 && write(gate_write, "", 1) != 1)
        rc = err_set(err, errno, "let the child go");
    if (rc < 0) {
        fd_close(&gate_write);
        collect(pid);
        return rc;
    }
    if (pidfd)
        *pidfd = steal_fd(&handle);
    return pid;
}

pid_t clone_fork(const struct clone_spec *spec, int *pidfd, struct err *err)
{
    if (pidfd)
        *pidfd = -1;
    int *tid_address = NULL;
    if (prctl(PR_GET_TID_ADDRESS, &tid_address) < 0 || !tid_address)
        return fork_slowly(spec, pidfd, err);

    int handle = -1;
    struct clone_args args = {
        .flags = CLONE_CHILD_SETTID | CLONE_CHILD_CLEARTID,
        .child_tid = (uintptr_t)tid_address,
        .exit_signal = SIGCHLD,
    };
    if (spec->want_pidfd) {
        args.flags |= CLONE_PIDFD;
        args.pidfd = (uintptr_t)&handle;
    }
    if (spec->cgroup_fd >= 0) {
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = (uint64_t)spec->cgroup_fd;
    }
    pid_t pid = (pid_t)syscall(SYS_clone3, &args, sizeof args);
    /* E2BIG: a kernel whose clone3 does not know of cgroups yet (before 5.7). */
    if (pid < 0 && (errno == ENOSYS || errno == E2BIG))
        return fork_slowly(spec, pidfd, err);
    if (pid < 0)
        return err_set(err, errno, "clone3");
    if (pid > 0 && pidfd)
        *pidfd = handle;
    return pid;
}
