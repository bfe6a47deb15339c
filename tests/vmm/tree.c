/* tree.c: claims about forkd-vmm as its controller sees it: boot, template, spawn, adoption and ends, with a
 * bare-metal guest that runs on any /dev/kvm. Usage: tree FORKD_VMM GUEST. */
#include "fixture.h"

#include "base/io.h"
#include "base/own.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include <cmocka.h>

static struct image_fds image;

static int image_once(void **state)
{
    image = image_make(64, 1, 0);
    return 0;
}

static int image_end(void **state)
{
    image_close(&image);
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
        sandbox_ping(&s[i]);
    for (int i = 0; i < 4; i++)
        sandbox_quit(&s[i]);
    template_quit(&t);
}

static void a_template_of_two_cpus_forks(void **state)
{
    struct image_fds two = image_make(64, 2, 0);
    struct template t = template_load(&two);
    struct sandbox s = sandbox_spawn(&t, "two");
    sandbox_go(&s);
    sandbox_ping(&s);
    sandbox_quit(&s);
    template_quit(&t);
    image_close(&two);
}

/* With another's memory, the device that makes VMs, or a way to open files, a sandbox whose VMM a guest has taken
 * over could do more than be itself. */
static void a_running_sandbox_holds_its_own_descriptors_and_no_other(void **state)
{
    static const char *const others[] = {"/dev/kvm", "/proc", "forkd-memory", "forkd-state", "cgroup"};
    struct template t = template_load(&image);
    struct sandbox elder = sandbox_spawn(&t, "elder"), s = sandbox_spawn(&t, "holder");
    sandbox_go(&elder);
    sandbox_go(&s);
    sandbox_ping(&s);
    char path[64], target[256];
    unsigned seen = 0, own_memory = 0;
    for (int fd = 0; fd < 256; fd++) {
        snprintf(path, sizeof path, "/proc/%d/fd/%d", s.pid, fd);
        ssize_t n = readlink(path, target, sizeof target - 1);
        if (n < 0 && errno == EACCES)
            skip(); /* not dumpable: only root may look */
        if (n < 0)
            continue;
        target[n] = 0;
        seen++;
        const char *last = strrchr(target, '/');
        if (last && !strcmp(last, "/mem")) {
            own_memory++;
            continue;
        }
        for (size_t i = 0; i < sizeof others / sizeof *others; i++)
            if (strstr(target, others[i]))
                fail_msg("descriptor %d is %s", fd, target);
    }
    assert_true(seen > 3);
    assert_int_equal(own_memory, 1);
    sandbox_quit(&elder);
    sandbox_quit(&s);
    template_quit(&t);
}

/* How often `len` bytes of `byte` in a row, a secret of the fixture's, are in the writable memory of a process that is
 * neither the guest's RAM nor larger. */
static unsigned memory_count(pid_t pid, int memory_fd, int byte, size_t len)
{
    enum { LARGE = 16 << 20 };
    char path[32], line[512], perms[5];
    unsigned count = 0;
    snprintf(path, sizeof path, "/proc/%d/maps", pid);
    own_file FILE *maps = fopen(path, "re");
    for (unsigned long from, to; maps && fgets(line, sizeof line, maps);) {
        if (sscanf(line, "%lx-%lx %4s", &from, &to, perms) != 3 || perms[1] != 'w' || to - from >= LARGE)
            continue;
        own_free uint8_t *bytes = malloc(to - from);
        if (io_pread_all(memory_fd, bytes, to - from, from, NULL) < 0)
            continue;
        for (size_t i = 0, run = 0; i < to - from; i++) {
            run = bytes[i] == byte ? run + 1 : 0;
            count += run == len;
        }
    }
    return count;
}

static void a_sandbox_knows_its_own_secret_and_no_other(void **state)
{
    struct template t = template_load(&image);
    struct sandbox elder = sandbox_spawn(&t, "elder-with-a-longer-name"), s = sandbox_spawn(&t, "s");
    sandbox_go(&elder);
    sandbox_go(&s);
    sandbox_ping(&s);
    if (geteuid() != 0)
        skip(); /* its maps are root's */
    assert_int_equal(memory_count(s.pid, s.own_memory, 't', CTL_SECRET_LEN), 0);
    assert_true(memory_count(s.pid, s.own_memory, 's', CTL_SECRET_LEN) > 0);
    sandbox_quit(&elder);
    sandbox_quit(&s);
    template_quit(&t);
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
    sandbox_ping(&s);
    kill(t.vmm.pid, SIGKILL);
    assert_int_equal(vmm_exit_status(t.vmm.pid), 1000 + SIGKILL);
    close(s.ctl);
    sandbox_ping(&s);

    struct ctl_message m;
    /* The wrong secret is no reason to stop being there for the right one. */
    own_fd int stranger = fixture_connect(s.listen_fd, SOCK_SEQPACKET);
    ctl_message_init(&m, CTL_ADOPT, 3);
    assert_int_equal(ctl_send(stranger, &m, NULL), 0);
    fixture_expect_end(stranger);
    s.ctl = fixture_connect(s.listen_fd, SOCK_SEQPACKET);
    memset(m.adopt.secret, 's', CTL_SECRET_LEN);
    assert_int_equal(ctl_send(s.ctl, &m, NULL), 0);
    fixture_expect(s.ctl, &m, CTL_ADOPTED);
    assert_string_equal(m.adopted.id, "orphan");
    assert_int_equal(m.adopted.pid, s.pid);
    assert_int_equal(m.adopted.role, CTL_ROLE_SANDBOX);
    ctl_message_close(&m);
    sandbox_quit(&s);
    close(t.vmm.ctl);
    close(t.listen_fd);
}

static bool adopt_tells_handed(struct sandbox *s)
{
    struct ctl_message m;
    s->ctl = fixture_connect(s->listen_fd, SOCK_SEQPACKET);
    ctl_message_init(&m, CTL_ADOPT, 3);
    memset(m.adopt.secret, 's', CTL_SECRET_LEN);
    assert_int_equal(ctl_send(s->ctl, &m, NULL), 0);
    kill(s->pid, SIGCONT);
    fixture_expect(s->ctl, &m, CTL_ADOPTED);
    ctl_message_close(&m);
    return m.adopted.handed;
}

/* The last word of a controller that died and the first of the next, found together by a process that stood still. */
static void a_sandbox_knows_whether_it_was_handed_out(void **state)
{
    struct template t = template_load(&image);
    struct sandbox s = sandbox_spawn(&t, "handed");
    struct ctl_message m;
    sandbox_go(&s);
    sandbox_ping(&s);
    close(s.ctl);
    assert_false(adopt_tells_handed(&s));
    kill(s.pid, SIGSTOP);
    ctl_message_init(&m, CTL_HANDED, 0);
    assert_int_equal(ctl_send(s.ctl, &m, NULL), 0);
    close(s.ctl);
    assert_true(adopt_tells_handed(&s));
    sandbox_quit(&s);
    template_quit(&t);
}

static void a_template_is_adopted_and_still_forks(void **state)
{
    struct template t = template_load(&image);
    close(t.vmm.ctl);
    struct ctl_message m;
    t.vmm.ctl = fixture_connect(t.listen_fd, SOCK_SEQPACKET);
    ctl_message_init(&m, CTL_ADOPT, 3);
    memset(m.adopt.secret, 't', CTL_SECRET_LEN);
    assert_int_equal(ctl_send(t.vmm.ctl, &m, NULL), 0);
    fixture_expect(t.vmm.ctl, &m, CTL_ADOPTED);
    assert_int_equal(m.adopted.role, CTL_ROLE_TEMPLATE);
    ctl_message_close(&m);
    struct sandbox s = sandbox_spawn(&t, "after");
    sandbox_go(&s);
    sandbox_ping(&s);
    sandbox_quit(&s);
    template_quit(&t);
}

static void a_kernel_that_is_none_is_named_and_nothing_stays(void **state)
{
    own_fd int rubbish = fixture_file("rubbish");
    assert_int_equal(write(rubbish, "not a kernel", 12), 12);
    struct parent p = parent_boot(64, 1, rubbish);
    struct ctl_message m;
    fixture_expect(p.vmm.ctl, &m, CTL_FAILED);
    assert_non_null(strstr(m.failed.text, "kernel"));
    assert_int_equal(vmm_exit_status(p.vmm.pid), 1);
    parent_close(&p);
}

static void a_parent_ends_with_its_controller(void **state)
{
    own_fd int kernel = open(fixture_guest, O_RDONLY | O_CLOEXEC);
    struct parent p = parent_boot(64, 1, kernel);
    struct ctl_message m;
    fixture_expect(p.vmm.ctl, &m, CTL_STARTED);
    ctl_message_close(&m);
    shutdown(p.vmm.ctl, SHUT_RDWR);
    assert_int_equal(vmm_exit_status(p.vmm.pid), 1);
    parent_close(&p);
}

static void wrong_sizes_are_refused_in_words(void **state)
{
    own_fd int kernel = open(fixture_guest, O_RDONLY | O_CLOEXEC);
    const unsigned sizes[][2] = {{0, 1}, {64, 0}, {64, 17}, {1 << 20, 1}};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        struct parent p = parent_boot(sizes[i][0], sizes[i][1], kernel);
        struct ctl_message m;
        fixture_expect(p.vmm.ctl, &m, CTL_FAILED);
        assert_true(m.failed.text[0]);
        assert_int_equal(vmm_exit_status(p.vmm.pid), 1);
        parent_close(&p);
    }
}

static void a_damaged_state_is_refused(void **state)
{
    struct image_fds damaged = image;
    damaged.state = fixture_file("state");
    own_free uint8_t *bytes = malloc(image.image.state_bytes);
    assert_int_equal(io_pread_all(image.state, bytes, image.image.state_bytes, 0, NULL), 0);
    bytes[image.image.state_bytes / 2] ^= 1;
    assert_int_equal(io_pwrite_all(damaged.state, bytes, image.image.state_bytes, 0, NULL), 0);
    struct vmm vmm = vmm_start();
    own_fd int listen_fd = fixture_listen(SOCK_SEQPACKET, "damaged");
    struct ctl_message m;
    ctl_message_init(&m, CTL_LOAD, 1);
    strcpy(m.load.id, "damaged");
    m.load.jail.uid = m.load.jail.gid = FIXTURE_UID;
    m.load.image = damaged.image;
    m.fd[CTL_FD_MEMORY] = damaged.memory;
    m.fd[CTL_FD_STATE] = damaged.state;
    m.fd[CTL_FD_LISTEN] = listen_fd;
    assert_int_equal(ctl_send(vmm.ctl, &m, NULL), 0);
    fixture_expect(vmm.ctl, &m, CTL_FAILED);
    assert_non_null(strstr(m.failed.text, "damaged"));
    assert_int_equal(vmm_exit_status(vmm.pid), 1);
    close(vmm.ctl);
    close(damaged.state);
}

int main(int argc, char **argv)
{
    int status = fixture_begin(argc, argv);
    if (status)
        return status;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_parent_becomes_a_template_whose_forks_answer),
        cmocka_unit_test(a_template_of_two_cpus_forks),
        cmocka_unit_test(a_running_sandbox_holds_its_own_descriptors_and_no_other),
        cmocka_unit_test(a_sandbox_knows_its_own_secret_and_no_other),
        cmocka_unit_test(a_child_whose_socket_closes_before_go_ends),
        cmocka_unit_test(a_sandbox_outlives_its_controller_and_its_template),
        cmocka_unit_test(a_sandbox_knows_whether_it_was_handed_out),
        cmocka_unit_test(a_template_is_adopted_and_still_forks),
        cmocka_unit_test(a_kernel_that_is_none_is_named_and_nothing_stays),
        cmocka_unit_test(a_parent_ends_with_its_controller),
        cmocka_unit_test(wrong_sizes_are_refused_in_words),
        cmocka_unit_test(a_damaged_state_is_refused),
    };
    return cmocka_run_group_tests_name("tree", tests, image_once, image_end);
}
