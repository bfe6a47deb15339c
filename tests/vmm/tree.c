/* tree.c: claims about forkd-vmm as its controller sees it: boot, template, spawn, adoption and ends, with a
 * bare-metal guest that runs on any /dev/kvm. Usage: tree FORKD_VMM GUEST. */
#include "base/clock.h"
#include "base/io.h"
#include "base/own.h"
#include "proto/agent.h"
#include "proto/ctl.h"

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

static const char *vmm_path, *guest_path;
enum { DEADLINE_SECONDS = 30 };

/* Every sandbox that was made, so that a failed test leaves none: templates and parents die with this process. */
static int born[64];
static unsigned born_count;

static void end_all(void)
{
    for (unsigned i = 0; i < born_count; i++)
        syscall(SYS_pidfd_send_signal, born[i], SIGKILL, NULL, 0);
}

static uint64_t soon(void)
{
    return clock_monotonic_ns() + DEADLINE_SECONDS * NS_PER_SEC;
}

/* A listening socket with a name in the abstract namespace, and a connection to it. */
static int listener(int type, const char *name)
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

static int connect_to(int listen_fd, int type)
{
    struct sockaddr_un at;
    socklen_t len = sizeof at;
    assert_int_equal(getsockname(listen_fd, (struct sockaddr *)&at, &len), 0);
    int fd = socket(AF_UNIX, type | SOCK_CLOEXEC, 0);
    assert_int_equal(connect(fd, (struct sockaddr *)&at, len), 0);
    return fd;
}

static int memory_file(const char *name)
{
    int fd = memfd_create(name, MFD_CLOEXEC);
    assert_true(fd >= 0);
    return fd;
}

struct vmm {
    pid_t pid;
    int ctl;
};

static struct vmm vmm_start(void)
{
    int pair[2];
    assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair), 0);
    struct vmm vmm = {.pid = fork(), .ctl = pair[0]};
    if (vmm.pid == 0) {
        char fd[16];
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        snprintf(fd, sizeof fd, "%d", dup(pair[1]));
        execl(vmm_path, vmm_path, "--ctl", fd, NULL);
        _exit(127);
    }
    close(pair[1]);
    return vmm;
}

/* What came is of that type; a failure is printed. */
static void expect(int sock, struct ctl_message *m, enum ctl_type type)
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

static void expect_end(int sock)
{
    struct ctl_message m;
    struct err err = {0};
    assert_int_equal(ctl_recv_until(sock, &m, soon(), &err), 0);
}

static int exit_status(pid_t pid)
{
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status);
}

struct image_fds {
    int memory, state;
    struct ctl_image image;
};

struct parent {
    struct vmm vmm;
    int vsock, console;
};

static struct parent parent_boot(unsigned mem_mib, unsigned vcpus, int kernel_fd)
{
    struct parent p = {
        .vmm = vmm_start(), .vsock = listener(SOCK_STREAM, "parent-vsock"), .console = memory_file("console")};
    own_fd int listen_fd = listener(SOCK_SEQPACKET, "parent-listen");
    struct ctl_message m;
    ctl_message_init(&m, CTL_BOOT, 1);
    strcpy(m.boot.id, "parent");
    m.boot.jail.uid = m.boot.jail.gid = 65533;
    m.boot.mem_mib = mem_mib;
    m.boot.vcpus = vcpus;
    strcpy(m.boot.cmdline, "console=ttyS0");
    m.fd[CTL_FD_KERNEL] = kernel_fd;
    m.fd[CTL_FD_VSOCK] = p.vsock;
    m.fd[CTL_FD_LISTEN] = listen_fd;
    m.fd[CTL_FD_CONSOLE] = p.console;
    assert_int_equal(ctl_send(p.vmm.ctl, &m, NULL), 0);
    return p;
}

static void parent_close(struct parent *p)
{
    close(p->vmm.ctl);
    close(p->vsock);
    close(p->console);
}

/* Boots the guest, and lets its template consume it. */
static struct image_fds make_image(unsigned mem_mib, unsigned vcpus)
{
    own_fd int kernel = open(guest_path, O_RDONLY | O_CLOEXEC);
    struct parent p = parent_boot(mem_mib, vcpus, kernel);
    struct ctl_message m;
    expect(p.vmm.ctl, &m, CTL_STARTED);
    assert_int_equal(m.pid.pid, p.vmm.pid);
    ctl_message_close(&m);
    expect(p.vmm.ctl, &m, CTL_DOORBELL);
    assert_int_equal(m.doorbell.port, AGENT_DOORBELL_PORT);
    ctl_message_init(&m, CTL_TEMPLATE, 2);
    assert_int_equal(ctl_send(p.vmm.ctl, &m, NULL), 0);
    expect(p.vmm.ctl, &m, CTL_IMAGE);
    struct image_fds image = {m.fd[CTL_FD_MEMORY], m.fd[CTL_FD_STATE], m.image};
    expect_end(p.vmm.ctl);
    assert_int_equal(exit_status(p.vmm.pid), 0);
    parent_close(&p);
    return image;
}

struct template
{
    struct vmm vmm;
    int listen_fd;
};

static struct template template_load(const struct image_fds *image)
{
    struct template t = {.vmm = vmm_start(), .listen_fd = listener(SOCK_SEQPACKET, "template-listen")};
    struct ctl_message m;
    ctl_message_init(&m, CTL_LOAD, 1);
    strcpy(m.load.id, "template");
    memset(m.load.secret, 't', CTL_SECRET_LEN);
    m.load.jail.uid = m.load.jail.gid = 65533;
    m.load.image = image->image;
    m.fd[CTL_FD_MEMORY] = image->memory;
    m.fd[CTL_FD_STATE] = image->state;
    m.fd[CTL_FD_LISTEN] = t.listen_fd;
    assert_int_equal(ctl_send(t.vmm.ctl, &m, NULL), 0);
    expect(t.vmm.ctl, &m, CTL_LOADED);
    ctl_message_close(&m);
    return t;
}

static void template_quit(struct template *t)
{
    struct ctl_message m;
    ctl_message_init(&m, CTL_QUIT, 9);
    ctl_send(t->vmm.ctl, &m, NULL);
    assert_int_equal(exit_status(t->vmm.pid), 0);
    close(t->vmm.ctl);
    close(t->listen_fd);
}

struct sandbox {
    int ctl, vsock, listen_fd, console, pidfd;
    pid_t pid;
};

/* Up to BORN. */
static struct sandbox sandbox_spawn(struct template *t, const char *name)
{
    char vsock[32], listen_name[32];
    snprintf(vsock, sizeof vsock, "%s-vsock", name);
    snprintf(listen_name, sizeof listen_name, "%s-listen", name);
    int pair[2];
    assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair), 0);
    struct sandbox s = {.ctl = pair[0],
                        .vsock = listener(SOCK_STREAM, vsock),
                        .listen_fd = listener(SOCK_SEQPACKET, listen_name),
                        .console = memory_file("console")};
    struct ctl_message m;
    ctl_message_init(&m, CTL_SPAWN, 5);
    snprintf(m.spawn.id, sizeof m.spawn.id, "%s", name);
    memset(m.spawn.secret, 's', CTL_SECRET_LEN);
    m.fd[CTL_FD_CTL] = pair[1];
    m.fd[CTL_FD_VSOCK] = s.vsock;
    m.fd[CTL_FD_LISTEN] = s.listen_fd;
    m.fd[CTL_FD_CONSOLE] = s.console;
    assert_int_equal(ctl_send(t->vmm.ctl, &m, NULL), 0);
    close(pair[1]);
    expect(t->vmm.ctl, &m, CTL_SPAWNED);
    s.pidfd = m.fd[CTL_FD_PIDFD];
    s.pid = (pid_t)m.pid.pid;
    assert_true(born_count < sizeof born / sizeof *born);
    born[born_count++] = dup(s.pidfd);
    expect(s.ctl, &m, CTL_BORN);
    assert_int_equal(m.pid.pid, s.pid);
    ctl_message_close(&m);
    return s;
}

static void sandbox_go(struct sandbox *s)
{
    struct ctl_message m;
    ctl_message_init(&m, CTL_GO, 6);
    assert_int_equal(ctl_send(s->ctl, &m, NULL), 0);
}

static bool ended(const struct sandbox *s)
{
    struct pollfd p = {.fd = s->pidfd, .events = POLLIN};
    return poll(&p, 1, DEADLINE_SECONDS * 1000) == 1;
}

static void sandbox_quit(struct sandbox *s)
{
    struct ctl_message m;
    ctl_message_init(&m, CTL_QUIT, 7);
    ctl_send(s->ctl, &m, NULL);
    assert_true(ended(s));
    close(s->ctl);
    close(s->vsock);
    close(s->listen_fd);
    close(s->console);
    close(s->pidfd);
}

/* The guest's answer to a PING over its vsock. */
static void ping(int vsock_listener)
{
    own_fd int fd = connect_to(vsock_listener, SOCK_STREAM);
    struct timeval patience = {.tv_sec = DEADLINE_SECONDS};
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    struct err err = {0};
    char line[32];
    size_t len = 0;
    assert_int_equal(io_write_all(fd, "CONNECT 52\n", 11, &err), 0);
    while (len < sizeof line - 1 && io_read_all(fd, line + len, 1, &err) == 0 && line[len++] != '\n')
        ;
    line[len] = 0;
    if (strncmp(line, "OK ", 3))
        fail_msg("the guest did not accept: '%s' %s", line, err.text);
    uint8_t frame[64];
    struct pack p = pack_into(frame, sizeof frame);
    pack_u32(&p, 2);
    pack_u8(&p, AGENT_VERSION);
    pack_u8(&p, AGENT_PING);
    assert_int_equal(io_write_all(fd, frame, p.len, &err), 0);
    assert_int_equal(io_read_all(fd, frame, 6, &err), 0);
    assert_int_equal(frame[4], AGENT_VERSION);
    assert_int_equal(frame[5], AGENT_PONG);
}

static struct image_fds image;

static int image_once(void **state)
{
    image = make_image(64, 1);
    return 0;
}

static int image_end(void **state)
{
    close(image.memory);
    close(image.state);
    return 0;
}

static void a_parent_becomes_a_template_whose_forks_answer(void **state)
{
    struct template t = template_load(&image);
    struct sandbox s[4];
    for (int i = 0; i < 4; i++) {
        char name[8];
        snprintf(name, sizeof name, "s%d", i);
        s[i] = sandbox_spawn(&t, name);
        sandbox_go(&s[i]);
    }
    for (int i = 0; i < 4; i++)
        ping(s[i].vsock);
    for (int i = 0; i < 4; i++)
        sandbox_quit(&s[i]);
    template_quit(&t);
}

static void a_template_of_two_cpus_forks(void **state)
{
    struct image_fds two = make_image(64, 2);
    struct template t = template_load(&two);
    struct sandbox s = sandbox_spawn(&t, "two");
    sandbox_go(&s);
    ping(s.vsock);
    sandbox_quit(&s);
    template_quit(&t);
    close(two.memory);
    close(two.state);
}

static void a_child_whose_socket_closes_before_go_ends(void **state)
{
    struct template t = template_load(&image);
    struct sandbox s = sandbox_spawn(&t, "unborn");
    shutdown(s.ctl, SHUT_RDWR);
    sandbox_quit(&s);
    template_quit(&t);
}

static void a_sandbox_outlives_its_controller_and_its_template(void **state)
{
    struct template t = template_load(&image);
    struct sandbox s = sandbox_spawn(&t, "orphan");
    sandbox_go(&s);
    ping(s.vsock);
    kill(t.vmm.pid, SIGKILL);
    assert_int_equal(exit_status(t.vmm.pid), 1000 + SIGKILL);
    close(s.ctl);
    ping(s.vsock);

    struct ctl_message m;
    /* The wrong secret is no reason to stop being there for the right one. */
    own_fd int stranger = connect_to(s.listen_fd, SOCK_SEQPACKET);
    ctl_message_init(&m, CTL_ADOPT, 3);
    assert_int_equal(ctl_send(stranger, &m, NULL), 0);
    expect_end(stranger);
    s.ctl = connect_to(s.listen_fd, SOCK_SEQPACKET);
    memset(m.adopt.secret, 's', CTL_SECRET_LEN);
    assert_int_equal(ctl_send(s.ctl, &m, NULL), 0);
    expect(s.ctl, &m, CTL_ADOPTED);
    assert_string_equal(m.adopted.id, "orphan");
    assert_int_equal(m.adopted.pid, s.pid);
    assert_int_equal(m.adopted.role, CTL_ROLE_SANDBOX);
    ctl_message_close(&m);
    sandbox_quit(&s);
    close(t.vmm.ctl);
    close(t.listen_fd);
}

static void a_template_is_adopted_and_still_forks(void **state)
{
    struct template t = template_load(&image);
    close(t.vmm.ctl);
    struct ctl_message m;
    t.vmm.ctl = connect_to(t.listen_fd, SOCK_SEQPACKET);
    ctl_message_init(&m, CTL_ADOPT, 3);
    memset(m.adopt.secret, 't', CTL_SECRET_LEN);
    assert_int_equal(ctl_send(t.vmm.ctl, &m, NULL), 0);
    expect(t.vmm.ctl, &m, CTL_ADOPTED);
    assert_int_equal(m.adopted.role, CTL_ROLE_TEMPLATE);
    ctl_message_close(&m);
    struct sandbox s = sandbox_spawn(&t, "after");
    sandbox_go(&s);
    ping(s.vsock);
    sandbox_quit(&s);
    template_quit(&t);
}

static void a_kernel_that_is_none_is_named_and_nothing_stays(void **state)
{
    own_fd int rubbish = memory_file("rubbish");
    assert_int_equal(write(rubbish, "not a kernel", 12), 12);
    struct parent p = parent_boot(64, 1, rubbish);
    struct ctl_message m;
    expect(p.vmm.ctl, &m, CTL_FAILED);
    assert_non_null(strstr(m.failed.text, "kernel"));
    assert_int_equal(exit_status(p.vmm.pid), 1);
    parent_close(&p);
}

static void a_parent_ends_with_its_controller(void **state)
{
    own_fd int kernel = open(guest_path, O_RDONLY | O_CLOEXEC);
    struct parent p = parent_boot(64, 1, kernel);
    struct ctl_message m;
    expect(p.vmm.ctl, &m, CTL_STARTED);
    ctl_message_close(&m);
    shutdown(p.vmm.ctl, SHUT_RDWR);
    assert_int_equal(exit_status(p.vmm.pid), 1);
    parent_close(&p);
}

static void wrong_sizes_are_refused_in_words(void **state)
{
    own_fd int kernel = open(guest_path, O_RDONLY | O_CLOEXEC);
    const unsigned sizes[][2] = {{0, 1}, {64, 0}, {64, 17}, {1 << 20, 1}};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        struct parent p = parent_boot(sizes[i][0], sizes[i][1], kernel);
        struct ctl_message m;
        expect(p.vmm.ctl, &m, CTL_FAILED);
        assert_true(m.failed.text[0]);
        assert_int_equal(exit_status(p.vmm.pid), 1);
        parent_close(&p);
    }
}

static void a_damaged_state_is_refused(void **state)
{
    struct image_fds damaged = image;
    damaged.state = memory_file("state");
    own_free uint8_t *bytes = malloc(image.image.state_bytes);
    assert_int_equal(io_pread_all(image.state, bytes, image.image.state_bytes, 0, NULL), 0);
    bytes[image.image.state_bytes / 2] ^= 1;
    assert_int_equal(io_pwrite_all(damaged.state, bytes, image.image.state_bytes, 0, NULL), 0);
    struct vmm vmm = vmm_start();
    own_fd int listen_fd = listener(SOCK_SEQPACKET, "damaged");
    struct ctl_message m;
    ctl_message_init(&m, CTL_LOAD, 1);
    strcpy(m.load.id, "damaged");
    m.load.jail.uid = m.load.jail.gid = 65533;
    m.load.image = damaged.image;
    m.fd[CTL_FD_MEMORY] = damaged.memory;
    m.fd[CTL_FD_STATE] = damaged.state;
    m.fd[CTL_FD_LISTEN] = listen_fd;
    assert_int_equal(ctl_send(vmm.ctl, &m, NULL), 0);
    expect(vmm.ctl, &m, CTL_FAILED);
    assert_non_null(strstr(m.failed.text, "damaged"));
    assert_int_equal(exit_status(vmm.pid), 1);
    close(vmm.ctl);
    close(damaged.state);
}

int main(int argc, char **argv)
{
    if (argc != 3)
        return 2;
    atexit(end_all);
    vmm_path = argv[1];
    guest_path = argv[2];
    if (access("/dev/kvm", R_OK | W_OK) < 0) {
        printf("SKIP: /dev/kvm cannot be used here: %s\n", strerror(errno));
        return 77;
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_parent_becomes_a_template_whose_forks_answer),
        cmocka_unit_test(a_template_of_two_cpus_forks),
        cmocka_unit_test(a_child_whose_socket_closes_before_go_ends),
        cmocka_unit_test(a_sandbox_outlives_its_controller_and_its_template),
        cmocka_unit_test(a_template_is_adopted_and_still_forks),
        cmocka_unit_test(a_kernel_that_is_none_is_named_and_nothing_stays),
        cmocka_unit_test(a_parent_ends_with_its_controller),
        cmocka_unit_test(wrong_sizes_are_refused_in_words),
        cmocka_unit_test(a_damaged_state_is_refused),
    };
    return cmocka_run_group_tests_name("tree", tests, image_once, image_end);
}
