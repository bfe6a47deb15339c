/* branch.c: see branch.h. */
#include "vmbench/branch.h"

#include "base/clock.h"
#include "base/fdpass.h"
#include "base/io.h"
#include "base/own.h"
#include "kvm/guests/dirty.h"
#include "kvm/rig.h"
#include "snap/machine_state.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>

enum { PARKS = 50, COPY_PAGES = 4096, PATIENCE_SECONDS = 120, SECOND_MS = 1000 };

/* What all processes of a run share. */
struct shared {
    double park_us[PARKS];
    struct branch_report report;
    int failed;
    char text[ERR_TEXT_MAX];
};

struct run {
    const struct branch_options *o;
    struct rig rig;
    struct shared *shared;
    int source[2], templates[2]; /* socket pairs; [0] is ours */
    int source_memory;
    uint64_t stat; /* address of the guest's dirty_stat in the source */
    pid_t source_pid;
};

static void say_failed(struct run *run, const struct err *err)
{
    run->shared->failed = 1;
    memcpy(run->shared->text, err->text, sizeof run->shared->text);
}

/* --- the source --- */

struct source {
    struct run *run;
    struct loop_source commands;
    struct dirty dirty;
    struct branch_source branch;
};

/* The floor: everything of a branch's pause but pages, disk and the other process. */
static int measure_parks(struct run *run, struct err *err)
{
    struct machine *m = run->rig.m;
    size_t bound = machine_state_bound(m);
    own_free void *state = malloc(bound);
    for (int i = 0; i < PARKS; i++) {
        uint64_t began = clock_monotonic_ns();
        int rc = machine_park(m, true, err);
        int64_t len = rc < 0 ? rc : machine_state_write(m, state, bound, err);
        if (len >= 0)
            rc = machine_resume(m, err);
        if (len < 0 || rc < 0)
            return -err->code;
        run->shared->park_us[i] = (double)(clock_monotonic_ns() - began) / NS_PER_US;
    }
    return 0;
}

/* 'P': park floors; 'G': the gap begins anew; 'B': serve a branch on the socket that comes along. Answered by a byte.
 */
static void on_command(struct loop_source *from, uint32_t events)
{
    struct source *s = list_entry(from, struct source, commands);
    struct machine *m = s->run->rig.m;
    struct err err = {0};
    char command;
    int fd = -1, rc = 0;
    size_t count = 1;
    if (fdpass_recv(from->fd, &command, 1, &fd, &count, &err) <= 0)
        _exit(0);
    if (command == 'P')
        rc = measure_parks(s->run, &err);
    else if (command == 'G')
        ((struct dirty_stat *)(void *)(m->gmem.base + DIRTY_STAT))->gap = 0;
    else
        rc = branch_source_begin(&s->branch, m, &s->dirty, fd, -1, &err);
    if (rc < 0)
        say_failed(s->run, &err);
    fdpass_send(from->fd, &command, 1, NULL, 0, NULL);
}

static bool never(struct rig *rig)
{
    return false;
}

static int source_main(struct rig *rig, void *arg)
{
    static struct source s;
    struct err err = {0};
    s.run = arg;
    s.commands = (struct loop_source){.fd = -1, .fn = on_command};
    branch_source_init(&s.branch);
    int rc = rig_live(rig, -1, &err);
    if (rc == 0)
        rc = dirty_init(&s.dirty, rig->m, &err);
    if (rc == 0)
        rc = loop_add(&rig->loop, &s.commands, s.run->source[1], EPOLLIN, &err);
    while (rc == 0 || rc == -ETIMEDOUT)
        rc = rig_run(rig, never, &err);
    say_failed(s.run, &err);
    return 1;
}

/* --- templates --- */

/* Each serves one request, of which its child becomes the next template; and stays, as a kept branch does. */
static _Noreturn void template_main(struct run *run)
{
    for (;;) {
        struct err err = {0};
        char command;
        int peer = -1;
        size_t count = 1;
        if (fdpass_recv(run->templates[1], &command, 1, &peer, &count, &err) <= 0)
            _exit(0);
        pid_t parent = getpid(), pid = fork();
        if (pid) {
            close(peer);
            /* The next request is the child's: this one only keeps its pages. */
            for (;;)
                pause();
        }
        /* Each is a child of the last: when the first one goes with the run, all go. */
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (getppid() != parent)
            _exit(1);
        int rc =
            branch_target_run(&run->rig.m, NULL, peer, run->source_memory, run->o->verify, &run->shared->report, &err);
        if (rc < 0)
            say_failed(run, &err);
        close(peer);
        fdpass_send(run->templates[1], "b", 1, NULL, 0, NULL);
    }
}

static int template_first(struct rig *rig, void *arg)
{
    template_main(arg);
}

/* --- the run --- */

static int tell(struct run *run, int sock, char command, int fd, struct err *err)
{
    return fdpass_send(sock, &command, 1, &fd, fd >= 0, err);
}

static int hear(struct run *run, int sock, struct err *err)
{
    char answer;
    size_t none = 0;
    ssize_t n =
        fdpass_recv_by(sock, &answer, 1, NULL, &none, clock_monotonic_ns() + PATIENCE_SECONDS * NS_PER_SEC, err);
    if (n == 0 || run->shared->failed)
        return err_say(err, EIO, "%s", run->shared->failed ? run->shared->text : "a process of the run ended");
    return n < 0 ? (int)n : 0;
}

static int stat_read(const struct run *run, struct dirty_stat *stat, struct err *err)
{
    return io_pread_all(run->source_memory, stat, sizeof *stat, run->stat, err);
}

static void wait_ms(int ms)
{
    poll(NULL, 0, ms);
}

/* Page writes per second of the guest, over some time. */
static int rate(const struct run *run, int ms, double *per_s, struct err *err)
{
    struct dirty_stat a = {0}, b = {0};
    uint64_t began = clock_monotonic_ns();
    int rc = stat_read(run, &a, err);
    wait_ms(ms);
    if (rc == 0)
        rc = stat_read(run, &b, err);
    *per_s = (double)(b.writes - a.writes) * NS_PER_SEC / (double)(clock_monotonic_ns() - began);
    return rc;
}

static int one_branch(struct run *run, double normal, struct branch_sample *sample, struct err *err)
{
    int peer[2];
    struct dirty_stat stat = {0};
    double after = 0;
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, peer) < 0)
        return err_set(err, errno, "socketpair");
    int rc = tell(run, run->source[0], 'G', -1, err);
    if (rc == 0)
        rc = hear(run, run->source[0], err);
    uint64_t began = clock_monotonic_ns();
    if (rc == 0)
        rc = tell(run, run->source[0], 'B', peer[0], err);
    if (rc == 0)
        rc = tell(run, run->templates[0], 'B', peer[1], err);
    close(peer[0]);
    close(peer[1]);
    if (rc == 0)
        rc = hear(run, run->source[0], err);
    if (rc == 0)
        rc = hear(run, run->templates[0], err);
    if (rc < 0)
        return rc;
    sample->ready_ms = (double)(clock_monotonic_ns() - began) / NS_PER_MS;
    sample->report = run->shared->report;
    rc = stat_read(run, &stat, err);
    sample->guest_gap_us = stat.ticks_s ? (double)stat.gap * 1e6 / (double)stat.ticks_s : 0;
    if (rc == 0)
        rc = rate(run, SECOND_MS, &after, err);
    sample->lost_ms = normal > 0 ? SECOND_MS * (1 - after / normal) : 0;
    return rc;
}

static int order(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Another process's pages into memory that was never touched. */
static int copy_floor(const struct run *run, double *us_per_page, struct err *err)
{
    size_t bytes = (size_t)COPY_PAGES * GMEM_PAGE;
    uint8_t *into = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (into == MAP_FAILED)
        return err_set(err, errno, "mmap");
    madvise(into, bytes, MADV_NOHUGEPAGE);
    uint64_t began = clock_monotonic_ns();
    int rc = io_pread_all(run->source_memory, into, bytes, (uint64_t)(uintptr_t)run->rig.m->gmem.base + DIRTY_HOT, err);
    *us_per_page = (double)(clock_monotonic_ns() - began) / NS_PER_US / COPY_PAGES;
    munmap(into, bytes);
    return rc;
}

static int start(struct run *run, struct err *err)
{
    char cmdline[96], path[64];
    snprintf(cmdline, sizeof cmdline, "hot=%um cold=%um spin=%u", run->o->hot_mib, run->o->cold_mib, run->o->spin);
    int rc = rig_ready(
        &run->rig,
        &(struct rig_config){.guest = "dirty", .mem_mib = run->o->mem_mib, .vcpus = run->o->vcpus, .cmdline = cmdline},
        err);
    if (rc < 0)
        return rc;
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, run->source) < 0 ||
        socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, run->templates) < 0)
        return err_set(err, errno, "socketpair");
    run->source_pid = rig_fork(&run->rig, source_main, run);
    snprintf(path, sizeof path, "/proc/%d/mem", run->source_pid);
    run->source_memory = open(path, O_RDONLY | O_CLOEXEC);
    if (run->source_pid < 0 || run->source_memory < 0)
        return err_set(err, errno, "open the source's memory");
    run->stat = (uint64_t)(uintptr_t)run->rig.m->gmem.base + DIRTY_STAT;
    return rig_fork(&run->rig, template_first, run) < 0 ? err_set(err, errno, "fork") : 0;
}

/* The hot set is written once, so that what follows is a guest at its normal pace. */
static int warm_up(const struct run *run, struct err *err)
{
    struct dirty_stat stat = {0};
    uint64_t until = clock_monotonic_ns() + PATIENCE_SECONDS * NS_PER_SEC;
    while (stat.writes < 2 * (uint64_t)run->o->hot_mib * 256) {
        int rc = stat_read(run, &stat, err);
        if (rc < 0)
            return rc;
        if (clock_monotonic_ns() > until)
            return err_say(err, ETIMEDOUT, "the guest did not write its hot pages in %d s", PATIENCE_SECONDS);
        wait_ms(10);
    }
    return 0;
}

int branch_measure(const struct branch_options *o, struct branch_result *result, struct err *err)
{
    static struct run run;
    run.o = o;
    run.shared = mmap(NULL, sizeof *run.shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    int rc = start(&run, err);
    if (rc == 0)
        rc = warm_up(&run, err);
    if (rc == 0)
        rc = tell(&run, run.source[0], 'P', -1, err);
    if (rc == 0)
        rc = hear(&run, run.source[0], err);
    if (rc == 0)
        rc = copy_floor(&run, &result->copy_floor_us_per_page, err);
    if (rc == 0)
        rc = rate(&run, SECOND_MS, &result->page_writes_per_s, err);
    if (rc < 0)
        return rc;
    qsort(run.shared->park_us, PARKS, sizeof(double), order);
    result->park_floor_us = run.shared->park_us[PARKS / 2];
    for (unsigned i = 0; rc == 0 && i < o->n; i++, result->done++)
        rc = one_branch(&run, result->page_writes_per_s, &result->sample[i], err);
    return rc;
}
