/* traffic.c: forks in the middle of things: requests to the disk, streams to the host, a driver that lies. */
#include "kvm/check.h"

#include "base/clock.h"
#include "base/own.h"
#include "kvm/child.h"

#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

enum { DISK = 16 << 20, SLOTS = 4 };

/* --- disk and vsock at once --- */

/* What a parent's traffic is made by: a process that, told to go, starts a load on the disk and reads a stream
 * without end; it tells when both flow. Made before the machine, so that it holds nothing of it. */
static struct talker {
    pid_t pid;
    int go_fd, flows_fd;
    struct rig *rig;
    struct loop_source source;
    bool flows;
} talker;

static void talk(const struct client_address *at, int go_fd, int flows_fd)
{
    static uint8_t buf[64 << 10];
    struct err err = {0};
    struct client_result result;
    uint64_t got = 0;
    bool told = false;
    if (read(go_fd, buf, 1) != 1 || client_exec(at, "load 4", &result, &err) < 0)
        _exit(1);
    int fd = client_exec_begin(at, "spew 64g", &err);
    for (ssize_t n; fd >= 0 && (n = read(fd, buf, sizeof buf)) > 0; got += (uint64_t)n)
        if (got > 256 << 10 && !told)
            told = write(flows_fd, "f", 1) == 1;
    _exit(0);
}

static void talker_start(const struct client_address *at)
{
    int go[2], flows[2];
    assert_int_equal(pipe2(go, O_CLOEXEC), 0);
    assert_int_equal(pipe2(flows, O_CLOEXEC), 0);
    talker.flows = false;
    talker.pid = fork();
    assert_true(talker.pid >= 0);
    if (talker.pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        close(go[1]);
        close(flows[0]);
        talk(at, go[0], flows[1]);
    }
    close(go[0]);
    close(flows[1]);
    talker.go_fd = go[1];
    talker.flows_fd = flows[0];
}

static void on_flows(struct loop_source *source, uint32_t events)
{
    talker.flows = true;
    loop_remove(&talker.rig->loop, source);
    rig_stir(talker.rig);
}

static void talker_go(struct rig *rig)
{
    struct err err = {0};
    talker.rig = rig;
    talker.source = (struct loop_source){.fd = -1, .fn = on_flows};
    must(loop_add(&rig->loop, &talker.source, talker.flows_fd, EPOLLIN, &err));
    assert_int_equal(write(talker.go_fd, "g", 1), 1);
}

static void talker_end(void)
{
    kill(talker.pid, SIGKILL);
    rig_wait(talker.pid);
    fd_close(&talker.go_fd);
    fd_close(&talker.flows_fd);
}

static bool traffic_flows(struct rig *rig)
{
    return talker.flows;
}

struct load {
    unsigned slots;
    unsigned long slowest, total, errors;
};

static void load_read(const struct child *c, struct load *load)
{
    struct err err = {0};
    struct client_result result;
    must(client_exec(&c->at, "load", &result, &err));
    assert_int_equal(sscanf(result.output, "slots %u slowest %lu total %lu errors %lu", &load->slots, &load->slowest,
                            &load->total, &load->errors),
                     4);
    assert_int_equal(load->slots, SLOTS);
    assert_int_equal(load->errors, 0);
}

/* Every request that was under way completes, since each slot goes round, with the right data each time. */
static void goes_on(const struct child *c)
{
    struct err err = {0};
    struct load first, now;
    must(client_ping(&c->at, &err));
    load_read(c, &first);
    uint64_t limit = clock_monotonic_ns() + 30 * NS_PER_SEC;
    do
        load_read(c, &now);
    while (now.slowest < first.slowest + 3 && clock_monotonic_ns() < limit);
    assert_true(now.slowest >= first.slowest + 3);
}

/* A parent parks while requests and packets are under way; each fork of it, and a fork of each, goes on. */
static void forks_of_busy_parent(unsigned forks)
{
    struct rig rig;
    struct err err = {0};
    struct image image;
    struct client_address at;
    own_fd int listen_fd = client_listen(&at, &err);
    assert_true(listen_fd >= 0);
    talker_start(&at);
    must(rig_boot(&rig,
                  &(struct rig_config){.guest = "agent", .disk_bytes = DISK, .disk_slow = true, .vsock_fd = listen_fd},
                  &err));
    must(rig_run(&rig, rig_rang, &err));
    talker_go(&rig);
    must(rig_run(&rig, traffic_flows, &err));
    must(rig_template(&rig, &image, &err));
    for (unsigned i = 0; i < forks; i += 2) {
        struct child line[2];
        must(child_prepare(line, 2, &err));
        must(child_start(&line[0], &rig, &err));
        goes_on(&line[0]);
        must(child_branch(&line[0], &err));
        goes_on(&line[1]);
        goes_on(&line[0]);
        must(child_end(&line[1], &err));
        must(child_end(&line[0], &err));
    }
    talker_end();
    rig_close(&rig);
}

static void test_forks_in_the_middle_of_traffic_go_on(void **state)
{
    enum { PER_PARENT = 20 };
    /* An emulated CPU takes a second for each. */
    unsigned otherwise = getenv("FORKD_IN_LAB") ? 200 : 1000;
    for (unsigned left = check_forks(otherwise), n; left; left -= n) {
        n = left < PER_PARENT ? left : PER_PARENT;
        forks_of_busy_parent(n);
    }
}

/* --- disks --- */

static void test_nobody_sees_anothers_disk(void **state)
{
    struct rig rig;
    struct err err = {0};
    struct child a[1], b[2];
    must(rig_ready(&rig, &(struct rig_config){.guest = "agent", .disk_bytes = DISK}, &err));
    must(child_prepare(a, 1, &err));
    must(child_prepare(b, 2, &err));
    must(child_start(a, &rig, &err));
    must(child_start(b, &rig, &err));
    must(child_says(a, "blk write 5 0xaaaa", "", &err));
    must(child_says(b, "blk read 5", "0x0\n", &err));
    must(child_says(b, "blk write 5 0xbbbb", "", &err));
    must(child_says(a, "blk read 5", "0xaaaa\n", &err));
    must(child_says(a, "blk flush", "", &err));
    must(child_end(a, &err));
    must(child_end(b, &err));
    rig_close(&rig);
}

/* --- a driver that lies --- */

static void test_lie_breaks_its_device_only(void **state)
{
    for (unsigned lie = 1; lie <= 5; lie++) {
        struct rig rig;
        struct err err = {0};
        char cmdline[16];
        snprintf(cmdline, sizeof cmdline, "lie=%u", lie);
        must(rig_boot(&rig, &(struct rig_config){.guest = "hostile", .cmdline = cmdline, .disk_bytes = DISK}, &err));
        must(rig_run(&rig, rig_answered, &err));
        assert_int_equal(rig.answer, 1);
        assert_false(rig.ended);
        rig_close(&rig);
    }
}

int main(void)
{
    check_kvm();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_forks_in_the_middle_of_traffic_go_on),
        cmocka_unit_test(test_nobody_sees_anothers_disk),
        cmocka_unit_test(test_lie_breaks_its_device_only),
    };
    return cmocka_run_group_tests_name("forks in the middle of traffic", tests, NULL, NULL);
}
