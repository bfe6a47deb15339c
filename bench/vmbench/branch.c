/* branch.c: see branch.h. This process gives the orders; branch_roles.c are the others. */
#include "vmbench/branch_run.h"

#include "base/clock.h"
#include "base/fdpass.h"
#include "base/io.h"
#include "base/own.h"
#include "kvm/guests/dirty.h"

#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>

enum { COPY_PAGES = 4096, PATIENCE_SECONDS = 120, SECOND_MS = 1000 };

static int tell(int sock, enum branch_command command, int fd, struct err *err)
{
    char byte = (char)command;
    return fdpass_send(sock, &byte, 1, &fd, fd >= 0, err);
}

/* Waits for the answer; descriptors that come along are the caller's. */
static int hear(struct branch_run *run, int sock, int *fds, size_t count, struct err *err)
{
    char answer;
    ssize_t n =
        fdpass_recv_by(sock, &answer, 1, fds, &count, clock_monotonic_ns() + PATIENCE_SECONDS * NS_PER_SEC, err);
    if (n == 0 || run->shared->failed)
        return err_say(err, EIO, "%s", run->shared->failed ? run->shared->text : "a process of the run ended");
    return n < 0 ? (int)n : 0;
}

static int order(struct branch_run *run, enum branch_command command, struct err *err)
{
    int rc = tell(run->source[0], command, -1, err);
    return rc < 0 ? rc : hear(run, run->source[0], NULL, 0, err);
}

static void wait_ms(int ms)
{
    poll(NULL, 0, ms);
}

/* --- the guest's own view --- */

struct view {
    uint64_t writes, turns, at_ns;
    uint64_t turns_of[BOARD_VCPUS_MAX];
    double gap_us; /* of the CPU that had the longest */
};

static int look(const struct branch_run *run, struct view *view, struct err *err)
{
    uint64_t at = (uint64_t)(uintptr_t)run->rig.m->gmem.base + DIRTY_STAT, ticks_s = 0;
    *view = (struct view){.at_ns = clock_monotonic_ns()};
    for (unsigned i = 0; i < run->o->vcpus; i++) {
        struct dirty_stat stat;
        int rc = io_pread_all(run->source_memory, &stat, sizeof stat, at + (uint64_t)i * GMEM_PAGE, err);
        if (rc < 0)
            return rc;
        ticks_s = i ? ticks_s : stat.ticks_s;
        double gap_us = ticks_s ? (double)stat.gap * 1e6 / (double)ticks_s : 0;
        view->gap_us = gap_us > view->gap_us ? gap_us : view->gap_us;
        view->writes += stat.writes;
        view->turns += view->turns_of[i] = stat.turns;
    }
    return 0;
}

/* When each CPU has gone on: one that has not measured the pause yet does not know how long it was. */
static int look_after(const struct branch_run *run, struct view *view, struct err *err)
{
    struct view before = {0};
    uint64_t until = clock_monotonic_ns() + PATIENCE_SECONDS * NS_PER_SEC;
    int rc = look(run, &before, err);
    while (rc == 0 && (rc = look(run, view, err)) == 0) {
        unsigned gone_on = 0;
        for (unsigned i = 0; i < run->o->vcpus; i++)
            gone_on += view->turns_of[i] > before.turns_of[i] + 1;
        if (gone_on == run->o->vcpus)
            return 0;
        if (clock_monotonic_ns() > until)
            return err_say(err, ETIMEDOUT, "the guest did not go on after the branch");
        wait_ms(1);
    }
    return rc;
}

/* What it got done in a second over some time: pages written, or turns of its loop where it writes none. */
static int pace(const struct branch_run *run, unsigned ms, double *per_s, struct err *err)
{
    struct view a, b;
    int rc = look(run, &a, err);
    wait_ms((int)ms);
    if (rc == 0)
        rc = look(run, &b, err);
    if (rc < 0)
        return rc;
    uint64_t done = run->o->hot_mib ? b.writes - a.writes : b.turns - a.turns;
    *per_s = (double)done * NS_PER_SEC / (double)(b.at_ns - a.at_ns);
    return 0;
}

/* The hot set is written once, so that what follows is a guest at its normal pace. */
static int warm_up(const struct branch_run *run, struct err *err)
{
    struct view view = {0};
    uint64_t until = clock_monotonic_ns() + PATIENCE_SECONDS * NS_PER_SEC;
    do {
        wait_ms(10);
        int rc = look(run, &view, err);
        if (rc < 0)
            return rc;
        if (clock_monotonic_ns() > until)
            return err_say(err, ETIMEDOUT, "the guest did not write its hot pages in %d s", PATIENCE_SECONDS);
    } while (view.writes < (uint64_t)run->o->hot_mib * 256);
    return 0;
}

/* --- one branch --- */

/* By `stream` and `stop`: the newest template's child becomes the next one. */
static int branch_to_template(struct branch_run *run, int fds[TEMPLATE_FDS], struct err *err)
{
    int peer[2];
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, peer) < 0)
        return err_set(err, errno, "socketpair");
    int rc = tell(run->source[0], COMMAND_BRANCH, peer[0], err);
    if (rc == 0)
        rc = tell(run->templates[0], COMMAND_BRANCH, peer[1], err);
    close(peer[0]);
    close(peer[1]);
    if (rc == 0)
        rc = hear(run, run->source[0], NULL, 0, err);
    return rc < 0 ? rc : hear(run, run->templates[0], fds, TEMPLATE_FDS, err);
}

static int save_template(struct branch_run *run, unsigned i, const int fds[TEMPLATE_FDS], struct err *err)
{
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/mem", run->shared->template_pid);
    own_fd int memory = open(path, O_RDONLY | O_CLOEXEC);
    if (memory < 0)
        return err_set(err, errno, "open the new template's memory");
    const struct content_export e = {.image_fd = run->rig.image_fd,
                                     .state_fd = fds[TEMPLATE_STATE],
                                     .pages_fd = fds[TEMPLATE_PAGES],
                                     .diff_fd = -1,
                                     .state_bytes = run->shared->state_bytes};
    const struct machine *m = run->rig.m;
    return writers_save(&run->writers, i, &m->config, &e, memory, (uint64_t)(uintptr_t)m->gmem.base, err);
}

/* The new template is there when this returns, or with `classic` the guest runs on; its writer has begun. */
static int branch(struct branch_run *run, unsigned i, struct branch_sample *sample, struct err *err)
{
    int fds[TEMPLATE_FDS] = {-1, -1};
    bool classic = run->o->engine == ENGINE_CLASSIC;
    sample->began_ns = clock_monotonic_ns();
    int rc = classic ? tell(run->source[0], COMMAND_CLASSIC, -1, err) : branch_to_template(run, fds, err);
    if (rc == 0 && classic)
        rc = hear(run, run->source[0], fds, 1, err);
    sample->ready_ms = (double)(clock_monotonic_ns() - sample->began_ns) / NS_PER_MS;
    sample->report = run->shared->report;
    if (rc == 0 && classic)
        rc = writers_sync(&run->writers, i, fds[0], run->shared->bytes, err);
    else if (rc == 0 && run->o->writes)
        rc = save_template(run, i, fds, err);
    for (unsigned f = 0; f < TEMPLATE_FDS; f++)
        fd_close(&fds[f]);
    return rc;
}

static int one_branch(struct branch_run *run, unsigned i, double normal, struct branch_sample *sample, struct err *err)
{
    struct view view = {0};
    double after = 0;
    int rc = order(run, COMMAND_GAP, err);
    if (rc == 0)
        rc = branch(run, i, sample, err);
    if (rc == 0)
        rc = look_after(run, &view, err);
    sample->guest_gap_us = view.gap_us;
    if (rc == 0)
        rc = pace(run, run->o->interval_ms, &after, err);
    sample->lost_ms = normal > 0 ? run->o->interval_ms * (1 - after / normal) : 0;
    return rc;
}

/* --- the run --- */

static int order_of(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Another process's pages into memory that was never touched. */
static int copy_floor(const struct branch_run *run, double *us_per_page, struct err *err)
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

static int boot(struct branch_run *run, struct err *err)
{
    const struct branch_options *o = run->o;
    char cmdline[160];
    snprintf(cmdline, sizeof cmdline, "hot=%um cold=%um spin=%u cpus=%u rate=%u", o->hot_mib, o->cold_mib, o->spin,
             o->vcpus, o->dirty_mib_s * 256);
    return rig_ready(
        &run->rig, &(struct rig_config){.guest = "dirty", .mem_mib = o->mem_mib, .vcpus = o->vcpus, .cmdline = cmdline},
        err);
}

static int start(struct branch_run *run, struct err *err)
{
    char path[64];
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, run->source) < 0 ||
        socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, run->templates) < 0)
        return err_set(err, errno, "socketpair");
    pid_t source = rig_fork(&run->rig, branch_source_main, run);
    snprintf(path, sizeof path, "/proc/%d/mem", source);
    run->source_memory = open(path, O_RDONLY | O_CLOEXEC);
    if (source < 0 || run->source_memory < 0)
        return err_set(err, errno, "open the source's memory");
    return rig_fork(&run->rig, branch_template_main, run) < 0 ? err_set(err, errno, "fork") : 0;
}

static int measure_floors(struct branch_run *run, struct branch_result *result, struct err *err)
{
    int rc = order(run, COMMAND_PARKS, err);
    if (rc < 0)
        return rc;
    qsort(run->shared->park_us, PARKS, sizeof(double), order_of);
    result->park_floor_us = run->shared->park_us[PARKS / 2];
    return copy_floor(run, &result->copy_floor_us_per_page, err);
}

static int wait_for_writers(struct branch_run *run, struct branch_result *result, struct err *err)
{
    for (unsigned i = 0; i < result->done; i++) {
        struct branch_sample *s = &result->sample[i];
        struct written written;
        int rc = writers_wait(&run->writers, i, &written, err);
        if (rc < 0)
            return rc;
        s->durable_ms = (double)(written.durable_ns - s->began_ns) / NS_PER_MS;
        s->bytes = written.bytes;
        s->disk_bytes = written.disk_bytes;
    }
    return 0;
}

static int measure(struct branch_run *run, struct branch_result *result, struct err *err)
{
    double normal = 0;
    int rc = boot(run, err);
    if (rc == 0)
        rc = start(run, err);
    if (rc == 0)
        rc = warm_up(run, err);
    if (rc == 0)
        rc = measure_floors(run, result, err);
    if (rc == 0)
        rc = pace(run, SECOND_MS, &normal, err);
    result->page_writes_per_s = run->o->hot_mib ? normal : 0;
    for (unsigned i = 0; rc == 0 && i < run->o->n; i++, result->done++)
        rc = one_branch(run, i, normal, &result->sample[i], err);
    return rc == 0 && run->o->writes ? wait_for_writers(run, result, err) : rc;
}

int branch_measure(const struct branch_options *o, struct branch_result *result, struct err *err)
{
    static struct branch_run run;
    run.o = o;
    run.shared = mmap(NULL, sizeof *run.shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    int rc = o->writes ? writers_open(&run.writers, o->root, o->writer, o->n, err) : 0;
    if (rc == 0)
        rc = measure(&run, result, err);
    if (o->writes)
        writers_close(&run.writers);
    return rc;
}
