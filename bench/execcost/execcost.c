/* execcost.c: what `exec true` in a Linux guest is made of, one part at a time, for exec_cost.py.
 *
 * In the guest it answers bytes over vsock, and starts a program as often as it is told, without anything around it.
 * On the host it asks for both, and for an exec through a controller. All that is printed are nanoseconds, one a line.
 * It is one static program, so that it runs in any guest. */
#include <errno.h>
#include <linux/vm_sockets.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static const char usage[] = "usage: execcost echo PORT            in the guest: sends every byte back\n"
                            "       execcost start N PROGRAM      in the guest: fork, exec, wait\n"
                            "       execcost ping SOCKET PORT N   a byte there and back, connected\n"
                            "       execcost call SOCKET PORT N   the same with a connection each\n"
                            "       execcost exec SOCKET ID N     POST /v1/sandboxes/ID/exec of true\n"
                            "       execcost pong SOCKET ID N     POST /v1/sandboxes/ID/ping\n";

static uint64_t now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

static int fail(const char *what)
{
    fprintf(stderr, "execcost: %s: %s\n", what, strerror(errno));
    exit(1);
}

/* --- in the guest --- */

static int echo(unsigned port)
{
    struct sockaddr_vm address = {.svm_family = AF_VSOCK, .svm_cid = VMADDR_CID_ANY, .svm_port = port};
    int listening = socket(AF_VSOCK, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (listening < 0 || bind(listening, (struct sockaddr *)&address, sizeof address) < 0 || listen(listening, 8) < 0)
        fail("listen at a vsock port");
    if (fork() > 0)
        return 0; /* whoever started it need not wait */
    close(STDIN_FILENO);
    close(STDOUT_FILENO);
    close(STDERR_FILENO);
    setsid();
    for (;;) {
        char byte;
        int fd = accept(listening, NULL, NULL);
        while (read(fd, &byte, 1) == 1 && write(fd, &byte, 1) == 1)
            ;
        close(fd);
    }
}

static int start(unsigned n, const char *program)
{
    for (unsigned i = 0; i < n; i++) {
        uint64_t from = now();
        pid_t pid = fork();
        if (pid == 0) {
            execl(program, program, (char *)NULL);
            _exit(127);
        }
        int status;
        if (pid < 0 || waitpid(pid, &status, 0) < 0 || status != 0)
            fail(program);
        printf("%llu\n", (unsigned long long)(now() - from));
    }
    return 0;
}

/* --- on the host --- */

static int dial(const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    snprintf(address.sun_path, sizeof address.sun_path, "%s", path);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof address) < 0)
        fail(path);
    return fd;
}

static void send_all(int fd, const char *text, size_t len)
{
    if (write(fd, text, len) != (ssize_t)len)
        fail("write");
}

static char receive_byte(int fd)
{
    char byte;
    if (read(fd, &byte, 1) != 1)
        fail("read");
    return byte;
}

static int call(const char *path, unsigned port)
{
    char line[32];
    int fd = dial(path);
    send_all(fd, line, (size_t)snprintf(line, sizeof line, "CONNECT %u\n", port));
    while (receive_byte(fd) != '\n')
        ;
    return fd;
}

static void ping(int fd)
{
    send_all(fd, "x", 1);
    receive_byte(fd);
}

static int pings(const char *path, unsigned port, unsigned n)
{
    int fd = call(path, port);
    ping(fd);
    for (unsigned i = 0; i < n; i++) {
        uint64_t from = now();
        ping(fd);
        printf("%llu\n", (unsigned long long)(now() - from));
    }
    return 0;
}

static int calls(const char *path, unsigned port, unsigned n)
{
    for (unsigned i = 0; i < n; i++) {
        uint64_t from = now();
        int fd = call(path, port);
        ping(fd);
        printf("%llu\n", (unsigned long long)(now() - from));
        close(fd);
    }
    return 0;
}

/* One request on a connection that is kept; the answer is short. */
static void request(int fd, const char *text, size_t len)
{
    char answer[4096];
    size_t have = 0;
    send_all(fd, text, len);
    for (;;) {
        ssize_t n = read(fd, answer + have, sizeof answer - 1 - have);
        if (n <= 0)
            fail("read an answer");
        have += (size_t)n;
        answer[have] = 0;
        const char *body = strstr(answer, "\r\n\r\n"), *length = strcasestr(answer, "\r\nContent-Length:");
        if (body && length && have >= (size_t)(body + 4 - answer) + strtoul(length + 17, NULL, 10))
            break;
    }
    if (strncmp(answer, "HTTP/1.1 200", 12) != 0) {
        fprintf(stderr, "execcost: %s\n", answer);
        exit(1);
    }
}

static int requests(const char *path, const char *id, const char *verb, const char *body, unsigned n)
{
    char text[512];
    size_t len = (size_t)snprintf(text, sizeof text,
                                  "POST /v1/sandboxes/%s/%s HTTP/1.1\r\nHost: c\r\nContent-Length: %zu\r\n\r\n%s", id,
                                  verb, strlen(body), body);
    int fd = dial(path);
    for (unsigned i = 0; i < n; i++) {
        uint64_t from = now();
        request(fd, text, len);
        printf("%llu\n", (unsigned long long)(now() - from));
    }
    return 0;
}

int main(int argc, char **argv)
{
    const char *verb = argc > 2 ? argv[1] : "";
    setvbuf(stdout, NULL, _IOFBF, 1 << 16);
    if (!strcmp(verb, "echo") && argc == 3)
        return echo((unsigned)atoi(argv[2]));
    if (!strcmp(verb, "start") && argc == 4)
        return start((unsigned)atoi(argv[2]), argv[3]);
    if (!strcmp(verb, "ping") && argc == 5)
        return pings(argv[2], (unsigned)atoi(argv[3]), (unsigned)atoi(argv[4]));
    if (!strcmp(verb, "call") && argc == 5)
        return calls(argv[2], (unsigned)atoi(argv[3]), (unsigned)atoi(argv[4]));
    if (!strcmp(verb, "exec") && argc == 5)
        return requests(argv[2], argv[3], "exec", "{\"args\":[\"/bin/true\"]}", (unsigned)atoi(argv[4]));
    if (!strcmp(verb, "pong") && argc == 5)
        return requests(argv[2], argv[3], "ping", "", (unsigned)atoi(argv[4]));
    fputs(usage, stderr);
    return 2;
}
