/* branch.c: claims about BRANCH as a controller sees it: a running sandbox becomes a template, of one instant, and
 * runs on. Usage: branch FORKD_VMM GUEST. */
#include "fixture.h"

#include "base/clock.h"
#include "base/own.h"
#include "snap/branch_wire.h"
#include "snap/throttle.h"

#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/socket.h>

#include <cmocka.h>

enum { MEM_MIB = 64, DISK_MIB = 16 };

static struct image_fds image;

static int image_once(void **state)
{
    image = image_make(MEM_MIB, 1, DISK_MIB);
    return 0;
}

static int image_end(void **state)
{
    image_close(&image);
    return 0;
}

static void expect_word(const struct sandbox *s, const char *line, const char *word)
{
    const char *said = sandbox_run_line(s, line);
    if (!strstr(said, word))
        fail_msg("%s said '%s' instead of '%s'", line, said, word);
}

static void a_branch_has_memory_and_disk_of_its_instant_and_the_source_goes_on(void **state)
{
    struct template t = template_load(&image);
    struct sandbox source = sandbox_run(&t, "source");
    sandbox_run_line(&source, "mem write 0x2000000 111");
    sandbox_run_line(&source, "blk write 5 111");
    struct ctl_branched report;
    struct template branch = sandbox_branch(&source, &t, "branch", true, &report);
    assert_int_equal(report.pages_differing, 0);
    sandbox_run_line(&source, "mem write 0x2000000 222");
    sandbox_run_line(&source, "blk write 5 222");

    struct sandbox child = sandbox_run(&branch, "child");
    expect_word(&child, "mem read 0x2000000", "0x6f");
    expect_word(&child, "blk read 5", "0x6f");
    sandbox_run_line(&child, "blk write 5 333");
    sandbox_run_line(&child, "mem write 0x2000000 333");
    expect_word(&source, "mem read 0x2000000", "0xde");
    expect_word(&source, "blk read 5", "0xde");
    struct sandbox sibling = sandbox_run(&branch, "sibling");
    expect_word(&sibling, "mem read 0x2000000", "0x6f");
    expect_word(&sibling, "blk read 5", "0x6f");
    struct sandbox cousin = sandbox_run(&t, "cousin");
    expect_word(&cousin, "blk read 5", "0");
    sandbox_quit(&child);
    sandbox_quit(&sibling);
    sandbox_quit(&cousin);
    sandbox_quit(&source);
    template_quit(&branch);
    template_quit(&t);
}

/* Each on the last; the disk works meanwhile. Only what requests in flight are answered into may differ at the
 * instant, their buffers and the page of their status bytes: the worker may still write there, and the branch does
 * those requests again. */
static void twenty_branches_in_a_row_under_disk_load_are_of_their_instant(void **state)
{
    enum { BRANCHES = 20, IN_FLIGHT = 4, STATUS_PAGES = 1 };
    struct template t[BRANCHES + 1] = {template_load(&image)};
    struct sandbox source = sandbox_run(&t[0], "source");
    sandbox_run_line(&source, "load 4");
    for (int i = 0; i < BRANCHES; i++) {
        char name[16], line[64];
        struct ctl_branched report;
        snprintf(line, sizeof line, "mem fill 0x2000000 0x100000 %d", i + 1);
        sandbox_run_line(&source, line);
        snprintf(name, sizeof name, "b%d", i);
        t[i + 1] = sandbox_branch(&source, &t[i], name, true, &report);
        assert_true(report.pages_differing <= IN_FLIGHT + STATUS_PAGES);
    }
    for (int i = 0; i < BRANCHES; i += 6) {
        char line[64];
        struct sandbox child = sandbox_run(&t[i + 1], "child");
        snprintf(line, sizeof line, "mem check 0x2000000 0x100000 %d", i + 1);
        sandbox_run_line(&child, line);
        sandbox_run_line(&child, "load");
        sandbox_quit(&child);
    }
    sandbox_ping(&source);
    sandbox_quit(&source);
    for (int i = BRANCHES; i >= 0; i--)
        template_quit(&t[i]);
}

static unsigned stack_kib(pid_t pid)
{
    char path[32], line[128];
    unsigned kib = 0;
    snprintf(path, sizeof path, "/proc/%d/status", pid);
    own_file FILE *status = fopen(path, "re");
    while (status && fgets(line, sizeof line, status))
        sscanf(line, "VmStk: %u", &kib);
    return kib;
}

/* Each is a fork of the last, and must not carry on its stack. */
static void a_line_of_branches_of_branches_works(void **state)
{
    enum { DEPTH = 32 };
    struct template t[DEPTH + 1] = {template_load(&image)};
    for (int i = 0; i < DEPTH; i++) {
        struct ctl_branched report;
        char line[64];
        struct sandbox s = sandbox_run(&t[i], "link");
        if (i) {
            snprintf(line, sizeof line, "0x%x", (unsigned)i - 1);
            expect_word(&s, "blk read 7", line);
            expect_word(&s, "mem read 0x2100000", line);
        }
        snprintf(line, sizeof line, "blk write 7 %d", i);
        sandbox_run_line(&s, line);
        snprintf(line, sizeof line, "mem write 0x2100000 %d", i);
        sandbox_run_line(&s, line);
        t[i + 1] = sandbox_branch(&s, &t[i], "next", true, &report);
        assert_int_equal(report.pages_differing, 0);
        sandbox_quit(&s);
    }
    assert_int_equal(stack_kib(t[DEPTH].vmm.pid), stack_kib(t[1].vmm.pid));
    for (int i = DEPTH; i >= 0; i--)
        template_quit(&t[i]);
}

/* The target ends before it said a word, or after its HELLO would have come: the source serves the next branch. */
static void a_branch_whose_target_dies_is_no_harm(void **state)
{
    struct template t = template_load(&image);
    struct sandbox source = sandbox_run(&t, "source");
    sandbox_run_line(&source, "mem write 0x2000000 7");
    int peer[2];
    assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, peer), 0);
    own_fd int layer = fixture_file("layer");
    struct ctl_message m;
    ctl_message_init(&m, CTL_STREAM, 3);
    m.fd[CTL_FD_PEER] = peer[0];
    m.fd[CTL_FD_LAYER] = layer;
    assert_int_equal(ctl_send(source.ctl, &m, NULL), 0);
    assert_int_equal(send(peer[1], "rubbish", 7, 0), 7);
    close(peer[0]);
    char byte;
    while (recv(peer[1], &byte, 1, 0) > 0) /* the source's word, then its end */
        ;
    close(peer[1]);
    struct ctl_branched report;
    struct template branch = sandbox_branch(&source, &t, "branch", true, &report);
    assert_int_equal(report.pages_differing, 0);
    struct sandbox child = sandbox_run(&branch, "child");
    expect_word(&child, "mem read 0x2000000", "0x7");
    sandbox_quit(&child);
    sandbox_quit(&source);
    template_quit(&branch);
    template_quit(&t);
}

/* The target was complete and died before its controller heard of it: that one goes on with the template it has. */
static void a_branch_that_nobody_heard_of_is_missing_from_no_other(void **state)
{
    struct template t = template_load(&image);
    struct sandbox source = sandbox_run(&t, "source");
    struct ctl_branched report;
    sandbox_run_line(&source, "mem write 0x2000000 111");
    struct template lost = sandbox_branch(&source, &t, "lost", false, &report);
    template_quit(&lost);
    struct template branch = sandbox_branch(&source, &t, "branch", true, &report);
    assert_int_equal(report.pages_differing, 0);
    /* And the one after that is a branch of little again. */
    sandbox_run_line(&source, "mem write 0x2200000 222");
    struct template next = sandbox_branch(&source, &branch, "next", true, &report);
    assert_int_equal(report.pages_differing, 0);
    struct sandbox child = sandbox_run(&next, "child");
    expect_word(&child, "mem read 0x2000000", "0x6f");
    expect_word(&child, "mem read 0x2200000", "0xde");
    sandbox_quit(&child);
    sandbox_quit(&source);
    template_quit(&next);
    template_quit(&branch);
    template_quit(&t);
}

/* A target of the test's own: one end of the peers, known to the source. */
static int target_say_hello(const struct sandbox *source)
{
    enum { STATE_ROOM = 2 << 20 };
    int peer[2];
    assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, peer), 0);
    own_fd int layer = fixture_file("layer");
    struct ctl_message m;
    ctl_message_init(&m, CTL_STREAM, 3);
    m.fd[CTL_FD_PEER] = peer[0];
    m.fd[CTL_FD_LAYER] = layer;
    assert_int_equal(ctl_send(source->ctl, &m, NULL), 0);
    close(peer[0]);
    struct branch_shared shared;
    own_fd int fd = -1;
    assert_int_equal(branch_shared_make(&shared, (uint64_t)MEM_MIB << 8, STATE_ROOM, &fd, NULL), 0);
    branch_shared_unmap(&shared);
    const struct branch_message hello = {.word = BRANCH_HELLO, .state_bytes = STATE_ROOM, .layers = 1};
    assert_int_equal(branch_send(peer[1], &hello, &fd, 1, NULL), 0);
    return peer[1];
}

static enum branch_word target_ask(int peer, enum branch_word word)
{
    struct branch_message m = {.word = word, .hold = 1};
    int fds[BRANCH_FDS_MAX];
    unsigned count = BRANCH_FDS_MAX;
    assert_int_equal(branch_send(peer, &m, NULL, 0, NULL), 0);
    assert_int_equal(branch_recv(peer, &m, fds, &count, clock_monotonic_ns() + DEADLINE_SECONDS * NS_PER_SEC, NULL), 1);
    for (unsigned i = 0; i < count; i++)
        close(fds[i]);
    return m.word;
}

/* DONE is for a target that has every page: one that says so without having asked for them, or after it had the
 * source fetch more, makes the next branch lack nothing. */
static void a_target_that_lies_about_being_done_costs_no_page(void **state)
{
    struct template t = template_load(&image);
    struct sandbox source = sandbox_run(&t, "source");
    struct ctl_branched report;
    for (int paused = 0; paused < 2; paused++) {
        sandbox_run_line(&source, "mem write 0x2000000 111");
        int peer = target_say_hello(&source);
        if (paused) {
            assert_int_equal(target_ask(peer, BRANCH_PARK), BRANCH_PARKED);
            assert_int_equal(target_ask(peer, BRANCH_RESUME), BRANCH_RESUMED);
            sandbox_run_line(&source, "mem write 0x2200000 222");
        }
        assert_int_equal(target_ask(peer, BRANCH_FETCH), paused ? BRANCH_SORRY : BRANCH_FETCHED);
        if (!paused)
            assert_int_equal(target_ask(peer, BRANCH_DONE), BRANCH_SORRY);
        close(peer);
        struct template branch = sandbox_branch(&source, &t, "branch", true, &report);
        assert_int_equal(report.pages_differing, 0);
        template_quit(&branch);
    }
    sandbox_quit(&source);
    template_quit(&t);
}

/* The guest answers while it is held back, and is let go with the target. */
static void a_source_that_is_held_back_goes_on_in_slices(void **state)
{
    enum { HELD_MOST = THROTTLE_LEVELS - 1, PINGS = 20 };
    struct template t = template_load(&image);
    struct sandbox source = sandbox_run(&t, "source");
    for (unsigned hold = 1; hold <= HELD_MOST + 1; hold++) {
        int peer = target_say_hello(&source);
        struct branch_message m = {.word = BRANCH_FETCH, .hold = hold};
        unsigned none = 0;
        assert_int_equal(branch_send(peer, &m, NULL, 0, NULL), 0);
        assert_int_equal(branch_recv(peer, &m, NULL, &none, clock_monotonic_ns() + DEADLINE_SECONDS * NS_PER_SEC, NULL),
                         1);
        assert_int_equal(m.word, hold <= HELD_MOST ? BRANCH_FETCHED : BRANCH_SORRY);
        for (int i = 0; i < PINGS; i++)
            sandbox_ping(&source);
        if (hold == 2) /* in the midst of it */
            assert_int_equal(target_ask(peer, BRANCH_PARK), BRANCH_PARKED);
        close(peer);
        sandbox_ping(&source);
        struct ctl_branched report;
        struct template branch = sandbox_branch(&source, &t, "branch", true, &report);
        assert_int_equal(report.pages_differing, 0);
        template_quit(&branch);
    }
    sandbox_quit(&source);
    template_quit(&t);
}

static void a_target_that_reads_nothing_does_not_stop_the_source(void **state)
{
    struct template t = template_load(&image);
    struct sandbox source = sandbox_run(&t, "source");
    int peer = target_say_hello(&source);
    const struct branch_message fetch = {.word = BRANCH_FETCH};
    struct err err = {0};
    /* Until the source, whose answers nobody reads, has given it up. */
    for (int rc = 0; rc == 0 || rc == -ETIMEDOUT; sandbox_ping(&source))
        for (int i = 0; i < 64 && (rc = branch_send(peer, &fetch, NULL, 0, &err)) == 0; i++)
            ;
    assert_true(err.code == EPIPE || err.code == ECONNRESET);
    close(peer);
    struct ctl_branched report;
    struct template branch = sandbox_branch(&source, &t, "branch", true, &report);
    assert_int_equal(report.pages_differing, 0);
    sandbox_quit(&source);
    template_quit(&branch);
    template_quit(&t);
}

/* The index of a large disk could be longer than a state file may get, and hardly ever is. */
static void a_sandbox_with_a_large_disk_branches(void **state)
{
    struct image_fds large = image_make(MEM_MIB, 1, 64 << 10);
    struct template t = template_load(&large);
    struct sandbox source = sandbox_run(&t, "source");
    sandbox_run_line(&source, "blk write 5 111");
    struct ctl_branched report;
    struct template branch = sandbox_branch(&source, &t, "branch", true, &report);
    assert_int_equal(report.pages_differing, 0);
    struct sandbox child = sandbox_run(&branch, "child");
    expect_word(&child, "blk read 5", "0x6f");
    sandbox_quit(&child);
    sandbox_quit(&source);
    template_quit(&branch);
    template_quit(&t);
    image_close(&large);
}

/* Of another sandbox's branch: what that one wrote is not known here. */
static void a_template_that_is_not_of_the_sandbox_is_refused_in_words(void **state)
{
    struct template t = template_load(&image);
    struct sandbox source = sandbox_run(&t, "source"), other = sandbox_run(&t, "other");
    struct ctl_branched report;
    struct template strange = sandbox_branch(&other, &t, "strange", false, &report);
    struct ctl_message m;
    struct template none = sandbox_branch_begin(&source, &strange, "none", false);
    fixture_expect(none.vmm.ctl, &m, CTL_FAILED);
    assert_non_null(strstr(m.failed.text, "Invalid argument"));
    fixture_expect_end(none.vmm.ctl);
    template_quit(&none);
    sandbox_ping(&source);
    sandbox_quit(&source);
    sandbox_quit(&other);
    template_quit(&strange);
    template_quit(&t);
}

/* A snapshot that is loaded again has the same memory, mapped wherever it came to lie. */
static void a_template_of_another_load_is_refused_or_right(void **state)
{
    struct template t = template_load(&image), again = template_load(&image);
    struct sandbox source = sandbox_run(&t, "source");
    sandbox_run_line(&source, "mem fill 0x2000000 0x400000 7");
    struct ctl_message m;
    struct template branch = sandbox_branch_begin(&source, &again, "branch", true);
    if (ctl_recv_until(branch.vmm.ctl, &m, clock_monotonic_ns() + DEADLINE_SECONDS * NS_PER_SEC, NULL) != 1)
        fail_msg("the branch said nothing");
    if (m.type == CTL_BRANCHED)
        assert_int_equal(m.branched.pages_differing, 0);
    else
        assert_non_null(strstr(m.failed.text, "another load"));
    assert_true(m.type == CTL_BRANCHED || m.failed.code == EINVAL);
    ctl_message_close(&m);
    template_quit(&branch);
    sandbox_ping(&source);
    sandbox_quit(&source);
    template_quit(&again);
    template_quit(&t);
}

static void source_and_branch_live_and_die_independently(void **state)
{
    struct template t = template_load(&image);
    struct sandbox source = sandbox_run(&t, "source");
    struct ctl_branched report;
    struct template branch = sandbox_branch(&source, &t, "branch", false, &report);
    assert_int_equal(report.pages_differing, UINT64_MAX);
    sandbox_quit(&source);
    kill(t.vmm.pid, SIGKILL);
    assert_int_equal(vmm_exit_status(t.vmm.pid), 1000 + SIGKILL);
    struct sandbox child = sandbox_run(&branch, "child");
    sandbox_quit(&child);
    template_quit(&branch);
    close(t.vmm.ctl);
    close(t.listen_fd);
}

/* A file on a filesystem of two blocks, mounted nowhere; -1 where this user or kernel cannot make one. */
static int file_without_room(void)
{
    own_fd int fs = fsopen("tmpfs", FSOPEN_CLOEXEC);
    if (fs < 0 || fsconfig(fs, FSCONFIG_SET_STRING, "size", "8k", 0) < 0 ||
        fsconfig(fs, FSCONFIG_CMD_CREATE, NULL, NULL, 0) < 0)
        return -1;
    own_fd int mount = fsmount(fs, FSMOUNT_CLOEXEC, 0);
    return mount < 0 ? -1 : openat(mount, ".", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
}

/* It runs on when it is told to, not because somebody made a branch of it. */
static void a_sandbox_whose_disk_is_full_stays_stopped(void **state)
{
    own_fd int full = file_without_room();
    if (full < 0)
        skip();
    struct template t = template_load(&image);
    struct sandbox source = sandbox_spawn_on(&t, "source", full);
    sandbox_go(&source);
    struct err err = {0};
    struct ctl_message m;
    own_fd int unanswered = client_exec_begin(&source.at, "load 4", &err); /* four blocks */
    assert_true(unanswered >= 0);
    fixture_expect(source.ctl, &m, CTL_STALLED);

    struct ctl_branched first, second;
    struct template one = sandbox_branch(&source, &t, "one", true, &first);
    assert_int_equal(first.pages_differing, 0);
    struct template two = sandbox_branch(&source, &one, "two", true, &second);
    assert_int_equal(second.pages_streamed + second.pages_in_pause, 0);
    ctl_message_init(&m, CTL_RESUME, 21);
    assert_int_equal(ctl_send(source.ctl, &m, NULL), 0);
    fixture_expect(source.ctl, &m, CTL_RESUMED); /* into the room of its new layer */
    sandbox_ping(&source);
    struct sandbox child = sandbox_run(&two, "child");
    sandbox_quit(&child);
    sandbox_quit(&source);
    template_quit(&two);
    template_quit(&one);
    template_quit(&t);
}

int main(int argc, char **argv)
{
    if (argc != 3)
        return 2;
    fixture_begin(argv[1], argv[2]);
    if (access("/dev/kvm", R_OK | W_OK) < 0) {
        printf("SKIP: /dev/kvm cannot be used here: %s\n", strerror(errno));
        return 77;
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_branch_has_memory_and_disk_of_its_instant_and_the_source_goes_on),
        cmocka_unit_test(twenty_branches_in_a_row_under_disk_load_are_of_their_instant),
        cmocka_unit_test(a_line_of_branches_of_branches_works),
        cmocka_unit_test(a_branch_whose_target_dies_is_no_harm),
        cmocka_unit_test(a_branch_that_nobody_heard_of_is_missing_from_no_other),
        cmocka_unit_test(a_target_that_lies_about_being_done_costs_no_page),
        cmocka_unit_test(a_source_that_is_held_back_goes_on_in_slices),
        cmocka_unit_test(a_target_that_reads_nothing_does_not_stop_the_source),
        cmocka_unit_test(a_sandbox_with_a_large_disk_branches),
        cmocka_unit_test(a_template_that_is_not_of_the_sandbox_is_refused_in_words),
        cmocka_unit_test(a_template_of_another_load_is_refused_or_right),
        cmocka_unit_test(source_and_branch_live_and_die_independently),
        cmocka_unit_test(a_sandbox_whose_disk_is_full_stays_stopped),
    };
    return cmocka_run_group_tests_name("branch", tests, image_once, image_end);
}
