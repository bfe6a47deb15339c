/* pidfd.c: pidfds for programs under a valgrind that knows neither pidfd_open nor pidfd_send_signal (3.19 does not).
 *
 * Preloaded by `under`, which also starts a process outside of valgrind that does both on request: it listens on the
 * abstract socket UNDER_HELPER. A pidfd is a descriptor like any other once it is there. */
#include <dlfcn.h>
#include <errno.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

static int ask(const char *request, int with_fd, int *got_fd)
{
    struct sockaddr_un helper = {.sun_family = AF_UNIX};
    const char *name = getenv("UNDER_HELPER");
    int sock = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0), answer = EIO;
    snprintf(helper.sun_path + 1, sizeof helper.sun_path - 1, "%s", name ? name : "");
    socklen_t len = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + strlen(helper.sun_path + 1));
    char room[CMSG_SPACE(sizeof(int))] __attribute__((aligned(8))) = {0};
    struct iovec out = {.iov_base = (void *)request, .iov_len = strlen(request)};
    struct msghdr m = {.msg_iov = &out, .msg_iovlen = 1};
    if (with_fd >= 0) {
        m.msg_control = room;
        m.msg_controllen = sizeof room;
        struct cmsghdr *c = CMSG_FIRSTHDR(&m);
        *c = (struct cmsghdr){.cmsg_len = CMSG_LEN(sizeof(int)), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS};
        memcpy(CMSG_DATA(c), &with_fd, sizeof with_fd);
    }
    if (connect(sock, (struct sockaddr *)&helper, len) == 0 && sendmsg(sock, &m, MSG_NOSIGNAL) > 0) {
        struct iovec in = {.iov_base = &answer, .iov_len = sizeof answer};
        m = (struct msghdr){.msg_iov = &in, .msg_iovlen = 1, .msg_control = room, .msg_controllen = sizeof room};
        if (recvmsg(sock, &m, MSG_CMSG_CLOEXEC) != sizeof answer)
            answer = EIO;
        struct cmsghdr *c = CMSG_FIRSTHDR(&m);
        if (c && got_fd)
            memcpy(got_fd, CMSG_DATA(c), sizeof *got_fd);
    }
    close(sock);
    errno = answer;
    return answer ? -1 : 0;
}

int pidfd_open(pid_t pid, unsigned flags)
{
    char request[32];
    int fd = -1;
    snprintf(request, sizeof request, "open %d", (int)pid);
    return ask(request, -1, &fd) < 0 ? -1 : fd;
}

int pidfd_send_signal(int pidfd, int sig, siginfo_t *info, unsigned flags)
{
    char request[32];
    snprintf(request, sizeof request, "signal %d", sig);
    return ask(request, pidfd, NULL);
}

/* The C library's, for all others. */
long syscall(long number, ...)
{
    static long (*real)(long, ...);
    long a[6];
    va_list args;
    va_start(args, number);
    for (int i = 0; i < 6; i++)
        a[i] = va_arg(args, long);
    va_end(args);
    if (number == SYS_pidfd_open)
        return pidfd_open((pid_t)a[0], (unsigned)a[1]);
    if (number == SYS_pidfd_send_signal)
        return pidfd_send_signal((int)a[0], (int)a[1], NULL, 0);
    if (!real)
        *(void **)&real = dlsym(RTLD_NEXT, "syscall");
    return real(number, a[0], a[1], a[2], a[3], a[4], a[5]);
}
