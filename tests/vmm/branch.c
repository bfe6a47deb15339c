/* branch.c: claims about BRANCH as a controller sees it: a running sandbox becomes a template, of one instant, and
 * runs on. Usage: branch FORKD_VMM GUEST. */
#include "fixture.h"

#include "base/clock.h"
#include "base/io.h"
#include "base/own.h"
#include "snap/branch_wire.h"
#include "snap/machine_state.h"
#include "snap/state_file.h"
#include "snap/throttle.h"

#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/resource.h>
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

/* As a file of its state would name it. */
static struct machine_instant instant_of(const struct template *t)
{
    static uint8_t state[2 << 20];
    struct ctl_message m;
    struct state_reader reader;
    struct unpack u;
    ctl_message_init(&m, CTL_EXPORT, 41);
    assert_int_equal(ctl_send(t->vmm.ctl, &m, NULL), 0);
    fixture_expect(t->vmm.ctl, &m, CTL_EXPORTED);
    assert_true(m.export.state_bytes <= sizeof state);
    assert_int_equal(io_pread_all(m.fd[CTL_FD_STATE], state, m.export.state_bytes, 0, NULL), 0);
    assert_int_equal(state_reader_init(&reader, state, m.export.state_bytes, NULL), 0);
    assert_int_equal(state_reader_section(&reader, STATE_INSTANT, 0, MACHINE_PART_VERSION, &u, NULL), 0);
    ctl_message_close(&m);
    uint64_t source = unpack_u64(&u);
    return (struct machine_instant){source, unpack_u64(&u)};
}

/* A target of the test's own, of the instant of `last`: one end of the peers, known to the source. */
static int target_say_hello(const struct sandbox *source, const struct template *last)
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
    const struct machine_instant instant = instant_of(last);
    const struct branch_message hello = {.word = BRANCH_HELLO,
                                         .state_bytes = STATE_ROOM,
                                         .layers = 1,
                                         .instant_source = instant.source,
                                         .instant_number = instant.number};
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
        int peer = target_say_hello(&source, &t);
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
        int peer = target_say_hello(&source, &t);
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

/* Takes the sandbox the right to open anything, or gives it back. As its own user: of another's process that is
 * CAP_SYS_RESOURCE, which root in a container has not. */
static void open_no_more(const struct sandbox *s, bool none)
{
    pid_t pid = fork();
    if (pid == 0) {
        struct rlimit files;
        if (geteuid() == 0 && (setresgid(FIXTURE_UID, FIXTURE_UID, FIXTURE_UID) < 0 ||
                               setresuid(FIXTURE_UID, FIXTURE_UID, FIXTURE_UID) < 0))
            _exit(1);
        if (prlimit(s->pid, RLIMIT_NOFILE, NULL, &files) < 0)
            _exit(2);
        files.rlim_cur = none ? 0 : files.rlim_max;
        _exit(prlimit(s->pid, RLIMIT_NOFILE, &files, NULL) < 0 ? 3 : 0);
    }
    assert_int_equal(vmm_exit_status(pid), 0);
}

/* Where the timer of the slices cannot be had, the source refuses that branch in a word, and what it fetched for it is
 * in the next. */
static void a_source_that_cannot_be_held_back_makes_no_branch_and_loses_no_page(void **state)
{
    struct template t = template_load(&image);
    struct sandbox source = sandbox_run(&t, "source");
    sandbox_run_line(&source, "mem write 0x2000000 111");
    int peer = target_say_hello(&source, &t);
    struct branch_message m = {.word = BRANCH_FETCH};
    unsigned none = 0;
    assert_int_equal(branch_send(peer, &m, NULL, 0, NULL), 0);
    const uint64_t until = clock_monotonic_ns() + DEADLINE_SECONDS * NS_PER_SEC;
    assert_int_equal(branch_recv(peer, &m, NULL, &none, until, NULL), 1);
    assert_int_equal(m.word, BRANCH_FETCHED);
    assert_true(m.wanted > 0);

    open_no_more(&source, true);
    m = (struct branch_message){.word = BRANCH_FETCH, .hold = 1};
    assert_int_equal(branch_send(peer, &m, NULL, 0, NULL), 0);
    assert_int_equal(branch_recv(peer, &m, NULL, &none, until, NULL), 1);
    assert_int_equal(m.word, BRANCH_SORRY);
    assert_int_equal(m.code, EMFILE);
    open_no_more(&source, false);
    close(peer);

    sandbox_ping(&source);
    struct ctl_branched report;
    struct template branch = sandbox_branch(&source, &t, "branch", true, &report);
    assert_int_equal(report.pages_differing, 0);
    struct sandbox child = sandbox_run(&branch, "child");
    expect_word(&child, "mem read 0x2000000", "0x6f");
    sandbox_quit(&child);
    sandbox_quit(&source);
    template_quit(&branch);
    template_quit(&t);
}

static void a_target_that_reads_nothing_does_not_stop_the_source(void **state)
{
    struct template t = template_load(&image);
    struct sandbox source = sandbox_run(&t, "source");
    int peer = target_say_hello(&source, &t);
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

/* Its memory is the same, mapped wherever it came to lie, and its layers are other files. */
static void a_template_that_is_loaded_again_serves_for_the_one_that_was_killed(void **state)
{
    enum { PAGES_OF_4_MIB = 1024 };
    struct template t = template_load(&image);
    struct sandbox source = sandbox_run(&t, "source");
    struct template again = template_load_again(&image, &t);
    sandbox_run_line(&source, "mem fill 0x2000000 0x400000 7");
    sandbox_run_line(&source, "blk write 5 111");
    template_kill(&t);
    struct ctl_branched report;
    struct template branch = sandbox_branch(&source, &again, "branch", true, &report);
    assert_int_equal(report.pages_differing, 0);
    uint64_t read = report.pages_streamed + report.pages_in_pause;
    assert_in_range(read, PAGES_OF_4_MIB, 2 * PAGES_OF_4_MIB);
    template_quit(&again);
    /* The next is one of little, whether from that one or from a load that knows only the beginning. */
    sandbox_run_line(&source, "blk write 6 222");
    struct template next = sandbox_branch(&source, &branch, "next", true, &report);
    assert_int_equal(report.pages_differing, 0);
    assert_true(report.pages_streamed + report.pages_in_pause < PAGES_OF_4_MIB / 8);
    sandbox_run_line(&source, "blk write 5 333");

    struct sandbox child = sandbox_run(&next, "child");
    sandbox_run_line(&child, "mem check 0x2000000 0x400000 7");
    expect_word(&child, "blk read 5", "0x6f");
    expect_word(&child, "blk read 6", "0xde");
    struct sandbox elder = sandbox_run(&branch, "elder");
    sandbox_run_line(&elder, "mem check 0x2000000 0x400000 7");
    expect_word(&elder, "blk read 5", "0x6f");
    expect_word(&elder, "blk read 6", "0");
    expect_word(&source, "blk read 5", "0x14d");
    sandbox_quit(&elder);
    sandbox_quit(&child);
    sandbox_quit(&source);
    template_quit(&next);
    template_quit(&branch);
}

/* Each from its own, and from the other's. */
static void sandboxes_of_two_loads_are_branched_from_either(void **state)
{
    struct template t[2] = {template_load(&image)};
    t[1] = template_load_again(&image, &t[0]);
    struct sandbox source[2] = {sandbox_run(&t[0], "first"), sandbox_run(&t[1], "second")};
    for (int i = 0; i < 4; i++) {
        struct sandbox *one = &source[i & 1];
        char line[64], word[16];
        struct ctl_branched report;
        snprintf(line, sizeof line, "blk write 5 %d", 16 + i);
        sandbox_run_line(one, line);
        snprintf(line, sizeof line, "mem write 0x2000000 %d", 16 + i);
        sandbox_run_line(one, line);
        struct template branch = sandbox_branch(one, &t[i / 2], "branch", true, &report);
        assert_int_equal(report.pages_differing, 0);
        struct sandbox child = sandbox_run(&branch, "child");
        snprintf(word, sizeof word, "0x%x", 16 + i);
        expect_word(&child, "blk read 5", word);
        expect_word(&child, "mem read 0x2000000", word);
        sandbox_quit(&child);
        template_quit(&branch);
    }
    for (int i = 0; i < 2; i++) {
        sandbox_quit(&source[i]);
        template_quit(&t[i]);
    }
}

/* What a booted parent left has no name yet: two templates of it may not have the same memory, for all they know. */
static void a_template_of_an_instant_that_is_not_known_is_refused(void **state)
{
    struct template t = template_load(&image), strange = template_load(&image);
    struct sandbox source = sandbox_run(&t, "source");
    struct ctl_message m;
    struct template none = sandbox_branch_begin(&source, &strange, "none", false);
    fixture_expect(none.vmm.ctl, &m, CTL_FAILED);
    assert_int_equal(m.failed.code, EINVAL);
    fixture_expect_end(none.vmm.ctl);
    template_quit(&none);
    sandbox_ping(&source);
    sandbox_quit(&source);
    template_quit(&strange);
    template_quit(&t);
}

/* A source of the test's own, whose RAM is where there can be none. */
static void a_source_whose_memory_is_nowhere_is_given_up(void **state)
{
    static const uint64_t nowhere[] = {0, 0x7f0000000800, INT64_MAX - 4095, UINT64_MAX - 4095};
    struct template t = template_load(&image);
    for (unsigned i = 0; i < sizeof nowhere / sizeof *nowhere; i++) {
        struct ctl_message m;
        struct branch_message said;
        struct err err = {0};
        int peer, shared;
        unsigned count = 1;
        struct template none = sandbox_branch_served(&t, "none", &peer);
        assert_int_equal(branch_recv(peer, &said, &shared, &count, clock_monotonic_ns() + NS_PER_SEC, &err), 1);
        close(shared);
        const struct branch_message fetched = {.word = BRANCH_FETCHED, .wanted = 1 << 20, .ram = nowhere[i]};
        assert_int_equal(branch_send(peer, &fetched, NULL, 0, NULL), 0);
        fixture_expect(none.vmm.ctl, &m, CTL_FAILED);
        assert_int_equal(m.failed.code, EPROTO);
        fixture_expect_end(none.vmm.ctl);
        close(peer);
        template_quit(&none);
    }
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
    int status = fixture_begin(argc, argv);
    if (status)
        return status;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_branch_has_memory_and_disk_of_its_instant_and_the_source_goes_on),
        cmocka_unit_test(twenty_branches_in_a_row_under_disk_load_are_of_their_instant),
        cmocka_unit_test(a_line_of_branches_of_branches_works),
        cmocka_unit_test(a_branch_whose_target_dies_is_no_harm),
        cmocka_unit_test(a_branch_that_nobody_heard_of_is_missing_from_no_other),
        cmocka_unit_test(a_target_that_lies_about_being_done_costs_no_page),
        cmocka_unit_test(a_source_that_is_held_back_goes_on_in_slices),
        cmocka_unit_test(a_source_that_cannot_be_held_back_makes_no_branch_and_loses_no_page),
        cmocka_unit_test(a_target_that_reads_nothing_does_not_stop_the_source),
        cmocka_unit_test(a_sandbox_with_a_large_disk_branches),
        cmocka_unit_test(a_template_that_is_not_of_the_sandbox_is_refused_in_words),
        cmocka_unit_test(a_template_that_is_loaded_again_serves_for_the_one_that_was_killed),
        cmocka_unit_test(sandboxes_of_two_loads_are_branched_from_either),
        cmocka_unit_test(a_template_of_an_instant_that_is_not_known_is_refused),
        cmocka_unit_test(a_source_whose_memory_is_nowhere_is_given_up),
        cmocka_unit_test(source_and_branch_live_and_die_independently),
        cmocka_unit_test(a_sandbox_whose_disk_is_full_stays_stopped),
    };
    return cmocka_run_group_tests_name("branch", tests, image_once, image_end);
}
