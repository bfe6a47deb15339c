/* branch_roles.c: the source and the templates of `vmbench branch`. */
#include "vmbench/branch_run.h"

#include "base/clock.h"
#include "base/fdpass.h"
#include "base/own.h"
#include "kvm/guests/dirty.h"
#include "snap/machine_state.h"

#include <signal.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>

static void say_failed(struct branch_run *run, const struct err *err)
{
    run->shared->failed = 1;
    memcpy(run->shared->text, err->text, sizeof run->shared->text);
}

/* --- the source --- */

struct source {
    struct branch_run *run;
    struct loop_source commands;
    struct dirty dirty;
    struct branch_source branch;
    uint8_t *state; /* room for the machine's, where this process packs it itself */
    size_t state_room;
};

/* The floor: everything of a branch's pause but pages, disk and the other process. */
static int measure_parks(struct source *s, struct err *err)
{
    struct machine *m = s->run->rig.m;
    for (int i = 0; i < PARKS; i++) {
        uint64_t began = clock_monotonic_ns();
        int rc = machine_park(m, true, err);
        int64_t len = rc < 0 ? rc : machine_state_write(m, s->state, s->state_room, err);
        if (len >= 0)
            rc = machine_resume(m, err);
        if (len < 0 || rc < 0)
            return -err->code;
        s->run->shared->park_us[i] = (double)(clock_monotonic_ns() - began) / NS_PER_US;
    }
    return 0;
}

/* What snapshots commonly are: parked, state, all memory to a file, on it goes. Returns the file. */
static int write_classic(struct source *s, struct err *err)
{
    struct branch_run *run = s->run;
    struct machine *m = run->rig.m;
    struct branch_report *r = &run->shared->report;
    *r = (struct branch_report){.pages_differing = -1, .pages_in_pause = gmem_pages(&m->gmem)};
    uint64_t began = clock_monotonic_ns();
    int rc = machine_park(m, true, err);
    uint64_t parked = clock_monotonic_ns();
    if (rc < 0)
        return rc;
    int64_t len = machine_state_write(m, s->state, s->state_room, err);
    uint64_t saved = clock_monotonic_ns();
    own_fd int file =
        len < 0 ? (int)len
                : writers_write_own(&run->writers, run->index, m->gmem.base, m->gmem.size, &run->shared->bytes, err);
    uint64_t written = clock_monotonic_ns();
    rc = machine_resume(m, file < 0 ? NULL : err);
    if (file < 0 || rc < 0)
        return -err->code;
    r->kick_ns = parked - began;
    r->save_ns = saved - parked;
    r->pages_ns = written - saved;
    r->resume_ns = clock_monotonic_ns() - written;
    run->index++;
    return steal_fd(&file);
}

__attribute__((noinline)) void branch_begins(void)
{
    __asm__ volatile("");
}

static void begin_gap(const struct machine *m)
{
    for (unsigned i = 0; i < m->config.vcpus; i++)
        ((struct dirty_stat *)(void *)(m->gmem.base + DIRTY_STAT + (size_t)i * GMEM_PAGE))->gap = 0;
}

static void on_command(struct loop_source *from, uint32_t events)
{
    struct source *s = list_entry(from, struct source, commands);
    struct machine *m = s->run->rig.m;
    struct err err = {0};
    char command;
    int fd = -1, rc = 0;
    own_fd int file = -1;
    size_t count = 1;
    if (fdpass_recv(from->fd, &command, 1, &fd, &count, &err) <= 0)
        _exit(0);
    if (command == COMMAND_BRANCH || command == COMMAND_CLASSIC)
        branch_begins();
    if (command == COMMAND_PARKS)
        rc = measure_parks(s, &err);
    else if (command == COMMAND_GAP)
        begin_gap(m);
    else if (command == COMMAND_CLASSIC)
        rc = file = write_classic(s, &err);
    else
        rc = branch_source_begin(&s->branch, m, &s->dirty, fd, -1, &err);
    if (rc < 0)
        say_failed(s->run, &err);
    fdpass_send(from->fd, &command, 1, &file, file >= 0, NULL);
}

static bool never(struct rig *rig)
{
    return false;
}

int branch_source_main(struct rig *rig, void *arg)
{
    static struct source s;
    struct err err = {0};
    s.run = arg;
    s.commands = (struct loop_source){.fd = -1, .fn = on_command};
    s.state_room = machine_state_bound(rig->m);
    s.state = calloc(1, s.state_room);
    branch_source_init(&s.branch);
    int rc = s.state ? rig_live(rig, -1, &err) : err_set(&err, ENOMEM, "pack a state");
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

/* What a writer needs to know of it goes along with the answer. */
static int answer(struct branch_run *run, const struct content *content, struct err *err)
{
    char byte = COMMAND_BRANCH;
    struct content_export e;
    run->shared->template_pid = getpid();
    if (!run->o->writes)
        return fdpass_send(run->templates[1], &byte, 1, NULL, 0, err);
    int rc = content_export(content, run->rig.m, &e, err);
    if (rc < 0)
        return rc;
    const int fds[TEMPLATE_FDS] = {[TEMPLATE_STATE] = e.state_fd, [TEMPLATE_PAGES] = e.pages_fd};
    run->shared->state_bytes = e.state_bytes;
    rc = fdpass_send(run->templates[1], &byte, 1, fds, TEMPLATE_FDS, err);
    content_export_close(&e);
    return rc;
}

static int become_branch(struct branch_run *run, struct content *content, int peer, struct err *err)
{
    unsigned how = (run->o->verify ? BRANCH_COMPARE : 0) | (run->o->engine == ENGINE_STOP ? BRANCH_STOP_AND_COPY : 0);
    int rc = branch_target_run(&run->rig.m, content, peer, run->source_memory, how, &run->shared->report, err);
    return rc < 0 ? rc : answer(run, content, err);
}

/* Each serves one request, of which its child becomes the next template; and stays, as a kept branch does. */
int branch_template_main(struct rig *rig, void *arg)
{
    struct branch_run *run = arg;
    struct content content;
    struct err err = {0};
    if (content_init(&content, rig->m, steal_fd(&rig->image_fd), &err) < 0)
        say_failed(run, &err);
    for (;;) {
        char command;
        int peer = -1;
        size_t count = 1;
        if (fdpass_recv(run->templates[1], &command, 1, &peer, &count, &err) <= 0)
            return 0;
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
        int rc = become_branch(run, &content, peer, &err);
        close(peer);
        if (rc < 0) {
            say_failed(run, &err);
            return 1;
        }
    }
}
