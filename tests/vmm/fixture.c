/* fixture.c: see fixture.h. */
#include "fixture.h"

#include "base/clock.h"
#include "base/own.h"
#include "proto/agent.h"

#include <fcntl.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>

#include <cmocka.h>

const char *fixture_vmm, *fixture_guest;

static int born[256]; /* pidfds */
static unsigned born_count;

static bool pidfd_ended(int pidfd, int timeout_ms)
{
    struct pollfd p = {.fd = pidfd, .events = POLLIN};
    return poll(&p, 1, timeout_ms) == 1;
}

static void remember(int pidfd)
{
    for (unsigned i = 0; i < born_count; i++)
        while (i < born_count && pidfd_ended(born[i], 0)) {
            close(born[i]);
            born[i] = born[--born_count];
        }
    assert_true(born_count < sizeof born / sizeof *born);
    born[born_count++] = dup(pidfd);
}

static void fixture_end(void)
{
    for (unsigned i = 0; i < born_count; i++)
        syscall(SYS_pidfd_send_signal, born[i], SIGKILL, NULL, 0);
}

static void end_and_exit(int signal)
{
    fixture_end();
    _exit(128 + signal);
}

int fixture_begin(int argc, char **argv)
{
    if (argc != 3)
        return 2;
    if (access("/dev/kvm", R_OK | W_OK) < 0) {
        printf("SKIP: /dev/kvm cannot be used here: %s\n", strerror(errno));
        return 77;
    }
    fixture_vmm = argv[1];
    fixture_guest = argv[2];
    atexit(fixture_end);
    signal(SIGTERM, end_and_exit);
    signal(SIGINT, end_and_exit);
    return 0;
}

static uint64_t soon(void)
{
    return clock_monotonic_ns() + DEADLINE_SECONDS * NS_PER_SEC;
}

int fixture_listen(int type, const char *name)
{
    static unsigned serial;
    struct sockaddr_un at = {.sun_family = AF_UNIX};
    socklen_t len = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 +
                                (size_t)snprintf(at.sun_path + 1, sizeof at.sun_path - 1, "forkd-test-%d-%u-%s",
                                                 getpid(), serial++, name));
    int fd = socket(AF_UNIX, type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    assert_true(fd >= 0);
    assert_int_equal(bind(fd, (struct sockaddr *)&at, len), 0);
    assert_int_equal(listen(fd, 16), 0);
    return fd;
}

int fixture_connect(int listen_fd, int type)
{
    struct sockaddr_un at;
    socklen_t len = sizeof at;
    assert_int_equal(getsockname(listen_fd, (struct sockaddr *)&at, &len), 0);
    int fd = socket(AF_UNIX, type | SOCK_CLOEXEC, 0);
    assert_int_equal(connect(fd, (struct sockaddr *)&at, len), 0);
    return fd;
}

int fixture_file(const char *name)
{
    int fd = memfd_create(name, MFD_CLOEXEC);
    assert_true(fd >= 0);
    return fd;
}

struct vmm vmm_start(void)
{
    int pair[2];
    assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair), 0);
    struct vmm vmm = {.pid = fork(), .ctl = pair[0]};
    if (vmm.pid == 0) {
        char fd[16];
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        snprintf(fd, sizeof fd, "%d", dup(pair[1]));
        execl(fixture_vmm, fixture_vmm, "--ctl", fd, NULL);
        _exit(127);
    }
    close(pair[1]);
    return vmm;
}

void fixture_expect(int sock, struct ctl_message *m, enum ctl_type type)
{
    struct err err = {0};
    int rc = ctl_recv_until(sock, m, soon(), &err);
    if (rc <= 0)
        fail_msg("no %s came: %s", ctl_type_name(type), rc ? err.text : "end of file");
    if (m->type != type)
        fail_msg("%s instead of %s: %s", ctl_type_name(m->type), ctl_type_name(type),
                 m->type == CTL_FAILED  ? m->failed.text
                 : m->type == CTL_ENDED ? m->ended.text
                                        : "");
}

void fixture_expect_end(int sock)
{
    struct ctl_message m;
    struct err err = {0};
    assert_int_equal(ctl_recv_until(sock, &m, soon(), &err), 0);
}

int vmm_exit_status(pid_t pid)
{
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status);
}

static struct parent boot(unsigned mem_mib, unsigned vcpus, int kernel_fd, int base_fd, int layer_fd,
                          const char *cmdline)
{
    struct parent p = {
        .vmm = vmm_start(), .vsock = fixture_listen(SOCK_STREAM, "parent-vsock"), .console = fixture_file("console")};
    own_fd int listen_fd = fixture_listen(SOCK_SEQPACKET, "parent-listen");
    struct ctl_message m;
    ctl_message_init(&m, CTL_BOOT, 1);
    strcpy(m.boot.id, "parent");
    m.boot.jail.uid = m.boot.jail.gid = FIXTURE_UID;
    m.boot.mem_mib = mem_mib;
    m.boot.vcpus = vcpus;
    snprintf(m.boot.cmdline, sizeof m.boot.cmdline, "console=ttyS0 %s", cmdline);
    m.fd[CTL_FD_KERNEL] = kernel_fd;
    m.fd[CTL_FD_BASE] = base_fd;
    m.fd[CTL_FD_LAYER] = layer_fd;
    m.fd[CTL_FD_VSOCK] = p.vsock;
    m.fd[CTL_FD_LISTEN] = listen_fd;
    m.fd[CTL_FD_CONSOLE] = p.console;
    assert_int_equal(ctl_send(p.vmm.ctl, &m, NULL), 0);
    return p;
}

struct parent parent_boot(unsigned mem_mib, unsigned vcpus, int kernel_fd)
{
    return boot(mem_mib, vcpus, kernel_fd, -1, -1, "");
}

void parent_close(struct parent *p)
{
    close(p->vmm.ctl);
    close(p->vsock);
    close(p->console);
}

/* An image of zeros, open for reading only as a base image has to be. */
static int base_image(unsigned disk_mib)
{
    char path[64];
    own_fd int file = fixture_file("base");
    assert_int_equal(ftruncate(file, (off_t)disk_mib << 20), 0);
    snprintf(path, sizeof path, "/proc/self/fd/%d", file);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    assert_true(fd >= 0);
    return fd;
}

static struct image_fds make(unsigned mem_mib, unsigned vcpus, unsigned disk_mib, const char *cmdline)
{
    own_fd int kernel = open(fixture_guest, O_RDONLY | O_CLOEXEC);
    int base = disk_mib ? base_image(disk_mib) : -1, layer = disk_mib ? fixture_file("layer") : -1;
    struct parent p = boot(mem_mib, vcpus, kernel, base, layer, cmdline);
    struct ctl_message m;
    fixture_expect(p.vmm.ctl, &m, CTL_STARTED);
    assert_int_equal(m.pid.pid, p.vmm.pid);
    ctl_message_close(&m);
    fixture_expect(p.vmm.ctl, &m, CTL_DOORBELL);
    assert_int_equal(m.doorbell.port, AGENT_DOORBELL_PORT);
    ctl_message_init(&m, CTL_TEMPLATE, 2);
    assert_int_equal(ctl_send(p.vmm.ctl, &m, NULL), 0);
    fixture_expect(p.vmm.ctl, &m, CTL_IMAGE);
    struct image_fds image = {
        .memory = m.fd[CTL_FD_MEMORY], .state = m.fd[CTL_FD_STATE], .base = base, .layer = layer, .image = m.image};
    fixture_expect_end(p.vmm.ctl);
    assert_int_equal(vmm_exit_status(p.vmm.pid), 0);
    parent_close(&p);
    return image;
}

struct image_fds image_make(unsigned mem_mib, unsigned vcpus, unsigned disk_mib)
{
    return make(mem_mib, vcpus, disk_mib, "");
}

struct image_fds image_make_stormy(unsigned mem_mib, unsigned vcpus)
{
    char cmdline[32];
    snprintf(cmdline, sizeof cmdline, "storm=%u", vcpus);
    return make(mem_mib, vcpus, 0, cmdline);
}

void image_close(struct image_fds *image)
{
    fd_close(&image->memory);
    fd_close(&image->state);
    fd_close(&image->base);
    fd_close(&image->layer);
}

struct template template_load(const struct image_fds *image)
{
    struct template t = {.vmm = vmm_start(),
                         .listen_fd = fixture_listen(SOCK_SEQPACKET, "template-listen"),
                         .pidfd = -1,
                         .disk = image->base >= 0};
    struct ctl_message m;
    ctl_message_init(&m, CTL_LOAD, 1);
    strcpy(m.load.id, "template");
    memset(m.load.secret, 't', CTL_SECRET_LEN);
    m.load.jail.uid = m.load.jail.gid = FIXTURE_UID;
    m.load.image = image->image;
    m.fd[CTL_FD_MEMORY] = image->memory;
    m.fd[CTL_FD_STATE] = image->state;
    m.fd[CTL_FD_BASE] = image->base;
    m.extra[0] = image->layer;
    m.extra_count = image->layer >= 0;
    m.fd[CTL_FD_LISTEN] = t.listen_fd;
    assert_int_equal(ctl_send(t.vmm.ctl, &m, NULL), 0);
    fixture_expect(t.vmm.ctl, &m, CTL_LOADED);
    t.own_memory = steal_fd(&m.fd[CTL_FD_OWN_MEMORY]);
    ctl_message_close(&m);
    return t;
}

static void template_await(struct template *t, int status)
{
    if (t->pidfd >= 0)
        assert_true(pidfd_ended(t->pidfd, DEADLINE_SECONDS * 1000));
    else
        assert_int_equal(vmm_exit_status(t->vmm.pid), status);
    close(t->vmm.ctl);
    close(t->listen_fd);
    fd_close(&t->own_memory);
    fd_close(&t->pidfd);
}

void template_quit(struct template *t)
{
    struct ctl_message m;
    ctl_message_init(&m, CTL_QUIT, 9);
    ctl_send(t->vmm.ctl, &m, NULL);
    template_await(t, 0);
}

struct template template_load_again(const struct image_fds *image, const struct template *t)
{
    struct image_fds again = *image;
    struct ctl_message m;
    ctl_message_init(&m, CTL_EXPORT, 31);
    assert_int_equal(ctl_send(t->vmm.ctl, &m, NULL), 0);
    fixture_expect(t->vmm.ctl, &m, CTL_EXPORTED);
    again.state = m.fd[CTL_FD_STATE];
    again.image.state_bytes = m.export.state_bytes;
    struct template loaded = template_load(&again);
    ctl_message_close(&m);
    return loaded;
}

void template_kill(struct template *t)
{
    kill(t->vmm.pid, SIGKILL);
    template_await(t, 1000 + SIGKILL);
}

struct sandbox sandbox_spawn(struct template *t, const char *name)
{
    own_fd int layer = t->disk ? fixture_file("layer") : -1;
    return sandbox_spawn_on(t, name, layer);
}

struct sandbox sandbox_spawn_on(struct template *t, const char *name, int layer)
{
    char vsock[32], listen_name[32];
    snprintf(vsock, sizeof vsock, "%s-vsock", name);
    snprintf(listen_name, sizeof listen_name, "%s-listen", name);
    int pair[2];
    assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair), 0);
    struct sandbox s = {.ctl = pair[0],
                        .vsock = fixture_listen(SOCK_STREAM, vsock),
                        .listen_fd = fixture_listen(SOCK_SEQPACKET, listen_name),
                        .console = fixture_file("console"),
                        .disk = t->disk};
    struct ctl_message m;
    s.at.len = sizeof s.at.sun;
    assert_int_equal(getsockname(s.vsock, (struct sockaddr *)&s.at.sun, &s.at.len), 0);
    ctl_message_init(&m, CTL_SPAWN, 5);
    snprintf(m.spawn.id, sizeof m.spawn.id, "%s", name);
    memset(m.spawn.secret, 's', CTL_SECRET_LEN);
    m.fd[CTL_FD_CTL] = pair[1];
    m.fd[CTL_FD_VSOCK] = s.vsock;
    m.fd[CTL_FD_LISTEN] = s.listen_fd;
    m.fd[CTL_FD_CONSOLE] = s.console;
    m.fd[CTL_FD_LAYER] = layer;
    assert_int_equal(ctl_send(t->vmm.ctl, &m, NULL), 0);
    close(pair[1]);
    fixture_expect(t->vmm.ctl, &m, CTL_SPAWNED);
    s.pidfd = m.fd[CTL_FD_PIDFD];
    s.pid = (pid_t)m.pid.pid;
    remember(s.pidfd);
    fixture_expect(s.ctl, &m, CTL_BORN);
    assert_int_equal(m.pid.pid, s.pid);
    s.own_memory = steal_fd(&m.fd[CTL_FD_OWN_MEMORY]);
    ctl_message_close(&m);
    return s;
}

void sandbox_go(struct sandbox *s)
{
    struct ctl_message m;
    ctl_message_init(&m, CTL_GO, 6);
    assert_int_equal(ctl_send(s->ctl, &m, NULL), 0);
}

bool sandbox_ended(const struct sandbox *s)
{
    return pidfd_ended(s->pidfd, DEADLINE_SECONDS * 1000);
}

void sandbox_quit(struct sandbox *s)
{
    struct ctl_message m;
    ctl_message_init(&m, CTL_QUIT, 7);
    ctl_send(s->ctl, &m, NULL);
    assert_true(sandbox_ended(s));
    close(s->ctl);
    close(s->vsock);
    close(s->listen_fd);
    close(s->console);
    close(s->pidfd);
    close(s->own_memory);
}

void sandbox_ping(const struct sandbox *s)
{
    struct err err = {0};
    if (client_ping(&s->at, &err) < 0)
        fail_msg("ping: %s", err.text);
}

struct sandbox sandbox_run(struct template *t, const char *name)
{
    struct sandbox s = sandbox_spawn(t, name);
    sandbox_go(&s);
    sandbox_ping(&s);
    return s;
}

const char *sandbox_run_line(const struct sandbox *s, const char *line)
{
    static struct client_result result;
    struct err err = {0};
    if (client_exec(&s->at, line, &result, &err) < 0)
        fail_msg("%s: %s", line, err.text);
    if (result.code != 0)
        fail_msg("%s ended with %d: %s", line, result.code, result.output);
    return result.output;
}

/* A fork of `last` that is to become what `source` is, which is asked by the caller: *served is that one's end. */
static struct template branch_fork(struct template *last, const char *name, int source_memory, bool disk, bool compare,
                                   int *served)
{
    int pair[2], peer[2];
    assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair), 0);
    assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, peer), 0);
    struct template t = {
        .vmm = {.ctl = pair[0]}, .listen_fd = fixture_listen(SOCK_SEQPACKET, name), .own_memory = -1, .disk = disk};
    struct ctl_message m;
    ctl_message_init(&m, CTL_BRANCH, 11);
    snprintf(m.branch.id, sizeof m.branch.id, "%s", name);
    memset(m.branch.secret, 'b', CTL_SECRET_LEN);
    m.branch.compare = compare;
    m.fd[CTL_FD_CTL] = pair[1];
    m.fd[CTL_FD_LISTEN] = t.listen_fd;
    m.fd[CTL_FD_PEER] = peer[1];
    m.fd[CTL_FD_OWN_MEMORY] = source_memory;
    assert_int_equal(ctl_send(last->vmm.ctl, &m, NULL), 0);
    fixture_expect(last->vmm.ctl, &m, CTL_SPAWNED);
    t.pidfd = m.fd[CTL_FD_PIDFD];
    t.vmm.pid = (pid_t)m.pid.pid;
    remember(t.pidfd);
    close(pair[1]);
    close(peer[1]);
    *served = peer[0];
    return t;
}

struct template sandbox_branch_begin(struct sandbox *s, struct template *last, const char *name, bool compare)
{
    own_fd int served = -1;
    struct template t = branch_fork(last, name, s->own_memory, s->disk, compare, &served);
    own_fd int layer = s->disk ? fixture_file("layer") : -1;
    struct ctl_message m;
    ctl_message_init(&m, CTL_STREAM, 12);
    m.fd[CTL_FD_PEER] = served;
    m.fd[CTL_FD_LAYER] = layer;
    assert_int_equal(ctl_send(s->ctl, &m, NULL), 0);
    return t;
}

struct template sandbox_branch_served(struct template *last, const char *name, int *source)
{
    own_fd int memory = fixture_file("memory");
    return branch_fork(last, name, memory, last->disk, false, source);
}

struct template sandbox_branch(struct sandbox *s, struct template *last, const char *name, bool compare,
                               struct ctl_branched *report)
{
    struct template t = sandbox_branch_begin(s, last, name, compare);
    struct ctl_message m;
    fixture_expect(t.vmm.ctl, &m, CTL_BRANCHED);
    *report = m.branched;
    t.own_memory = steal_fd(&m.fd[CTL_FD_OWN_MEMORY]);
    ctl_message_close(&m);
    return t;
}
