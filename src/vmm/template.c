/* template.c: a template holds a machine that has state and no host, and forks.
 *
 * It has one thread and no VM. It serves SPAWN one after the other: a fork into the cgroup that was made for the
 * child, whose pidfd goes to the controller. Everything else is the child's (sandbox.c). BRANCH forks, too: that
 * child reads a running sandbox's memory until it equals it (snap/branch.h), and is a template then. It must not touch
 * guest memory, which would make pages of its own that every fork copies the tables of.
 *
 * A fork leaves the loop it was made in before it becomes what it is for. So a line of branches, each a fork of the
 * last, does not pile up stacks, and no frame of its ancestors is alive in it. Secrets are wiped where they were
 * read: a fork knows its own and no other's. */
#include "base/log.h"
#include "base/own.h"
#include "snap/branch.h"
#include "sys/clone.h"
#include "sys/own_memory.h"
#include "vmm/roles.h"
#include "vmm/settling.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>

struct template
{
    const struct vmm_origin *origin;
    struct loop loop;
    struct control control;
    struct machine *machine;
    struct content content;
    struct settling settling;
    uint32_t settle_request;
    struct ctl_message task; /* in a fork: what it was made for; no type: nothing */
    int exit_status;
};

/* What of the template's own must not live on in a sandbox. The loop goes first: its epoll instance is shared with
 * the template, and what is removed from it is removed there. */
static void shed(struct template *t)
{
    loop_destroy(&t->loop);
    control_destroy(&t->control);
    settling_shed(&t->settling);
}

/* SPAWN and BRANCH: the fork takes the message and leaves the loop. */
static void fork_off(struct template *t, struct ctl_message *m)
{
    struct err err = {0};
    own_fd int pidfd = -1;
    struct clone_spec spec = {.cgroup_fd = m->fd[CTL_FD_CGROUP], .want_pidfd = true};
    pid_t pid = clone_fork(&spec, &pidfd, &err);
    if (pid == 0) {
        ctl_message_move(&t->task, m);
        loop_stop(&t->loop);
        return;
    }
    if (pid < 0) {
        control_send_failed(&t->control, m->request, &err);
        return;
    }
    struct ctl_message reply;
    ctl_message_init(&reply, CTL_SPAWNED, m->request);
    reply.pid.pid = (uint32_t)pid;
    reply.fd[CTL_FD_PIDFD] = pidfd;
    control_send(&t->control, &reply);
}

_Static_assert((int)DISK_LAYERS_MAX <= (int)CTL_EXTRA_MAX, "a message carries all layers of a disk");

/* Must not: keep what it opened; and not touch memory. */
static void export(struct template *t, uint32_t request)
{
    struct ctl_message m;
    struct err err = {0};
    struct content_export e;
    const struct disk *disk = &t->machine->disk;
    int rc = content_export(&t->content, t->machine, &e, &err);
    if (rc < 0) {
        control_send_failed(&t->control, request, &err);
        return;
    }
    ctl_message_init(&m, CTL_EXPORTED, request);
    m.export = (struct ctl_export){.ram = (uint64_t)(uintptr_t)t->machine->gmem.base,
                                   .mem_bytes = t->machine->gmem.size,
                                   .state_bytes = e.state_bytes,
                                   .birth_layers = t->content.birth_layers};
    m.fd[CTL_FD_MEMORY] = e.image_fd;
    m.fd[CTL_FD_STATE] = e.state_fd;
    m.fd[CTL_FD_PAGES] = e.pages_fd;
    m.fd[CTL_FD_DIFF] = e.diff_fd;
    if (t->machine->config.disk) {
        m.fd[CTL_FD_BASE] = disk->base_fd;
        m.extra_count = disk_frozen(disk);
        for (unsigned i = 0; i < m.extra_count; i++)
            m.extra[i] = disk_layer_fd(disk, i);
    }
    control_send(&t->control, &m);
    content_export_close(&e);
}

static void on_settled(struct settling *settling, uint64_t pages, const struct err *err)
{
    struct template *t = settling->owner;
    struct ctl_message m;
    if (err) {
        control_send_failed(&t->control, t->settle_request, err);
        return;
    }
    ctl_message_init(&m, CTL_SETTLED, t->settle_request);
    m.settled.pages = pages;
    control_send(&t->control, &m);
}

static void settle(struct template *t, uint32_t request)
{
    struct err err = {0};
    t->settling.owner = t;
    t->settling.done = on_settled;
    int rc = settling_begin(&t->settling, &t->loop, &t->content, &t->machine->gmem, &err);
    if (rc < 0)
        control_send_failed(&t->control, request, &err);
    else
        t->settle_request = request;
}

static void on_request(struct control *control, struct ctl_message *m);
static void on_lost(struct control *control);

/* Its own loop and control socket; from here on `sock` and `memory` are the control's. */
static int begin_control(struct template *t, const char *id, const uint8_t *secret, int sock, int listen_fd, int memory,
                         struct err *err)
{
    int rc = loop_init(&t->loop, err);
    t->control.owner = t;
    t->control.request = on_request;
    t->control.lost = on_lost;
    if (rc == 0)
        rc = control_init(&t->control, &t->loop, CTL_ROLE_TEMPLATE, id, secret, sock, listen_fd, memory, err);
    return rc;
}

static void send_branched(struct template *t, uint32_t request, const struct branch_report *report)
{
    struct ctl_message m;
    ctl_message_init(&m, CTL_BRANCHED, request);
    m.branched = (struct ctl_branched){.pid = (uint32_t)getpid(),
                                       .kick_ns = report->kick_ns,
                                       .save_ns = report->save_ns,
                                       .log_ns = report->log_ns,
                                       .pages_ns = report->pages_ns,
                                       .resume_ns = report->resume_ns,
                                       .rounds = report->rounds,
                                       .pages_streamed = report->pages_streamed,
                                       .pages_in_pause = report->pages_in_pause,
                                       .pages_differing = (uint64_t)report->pages_differing};
    m.fd[CTL_FD_OWN_MEMORY] = t->control.own_memory_fd;
    control_send(&t->control, &m);
}

/* In the fork: brings itself up to date with the source. */
static int become_branch(struct template *t, struct ctl_message *m)
{
    struct err err = {0};
    struct branch_report report;
    int sock = m->fd[CTL_FD_CTL];
    fd_close(&m->fd[CTL_FD_CGROUP]);
    int memory = own_memory_open(t->origin->proc_fd, &err);
    int rc = memory < 0 ? memory
                        : begin_control(t, m->branch.id, m->branch.secret, steal_fd(&m->fd[CTL_FD_CTL]),
                                        steal_fd(&m->fd[CTL_FD_LISTEN]), memory, &err);
    if (rc == 0)
        rc = branch_target_run(&t->machine, &t->content, m->fd[CTL_FD_PEER], m->fd[CTL_FD_OWN_MEMORY],
                               m->branch.compare, &report, &err);
    fd_close(&m->fd[CTL_FD_PEER]);
    fd_close(&m->fd[CTL_FD_OWN_MEMORY]);
    if (rc < 0) {
        ctl_send_failed(sock, m->request, &err, NULL);
        return rc;
    }
    send_branched(t, m->request, &report);
    return 0;
}

/* In the fork: becomes what it was made for. Returns in a branch alone, which is a template from then on. */
static int begin_task(struct template *t)
{
    struct vmm_origin origin = *t->origin;
    shed(t);
    if (t->task.type == CTL_SPAWN) {
        fd_close(&t->content.image_fd);
        sandbox_run(&origin, t->machine, &t->task);
    }
    struct ctl_message task;
    ctl_message_move(&task, &t->task);
    t->task.type = 0;
    int rc = become_branch(t, &task);
    explicit_bzero(&task.branch, sizeof task.branch);
    return rc;
}

/* Until it is told to quit. A fork is done with its ancestor's loop at once. */
static int serve(struct template *t)
{
    struct err err = {0};
    for (;;) {
        if (loop_run(&t->loop, &err) < 0) {
            log_error("%s: %s", t->control.id, err.text);
            return 1;
        }
        if (!t->task.type)
            return t->exit_status;
        if (begin_task(t) < 0)
            return 1;
    }
}

static void on_request(struct control *control, struct ctl_message *m)
{
    struct template *t = control->owner;
    struct err err = {0};
    switch (m->type) {
    case CTL_SPAWN:
    case CTL_BRANCH:
        fork_off(t, m);
        explicit_bzero(&m->spawn, sizeof m->spawn);
        explicit_bzero(&m->branch, sizeof m->branch);
        break;
    case CTL_EXPORT:
        export(t, m->request);
        break;
    case CTL_SETTLE:
        settle(t, m->request);
        break;
    case CTL_QUIT:
        t->exit_status = 0;
        loop_stop(&t->loop);
        break;
    default:
        err_say(&err, EINVAL, "a template cannot do %s", ctl_type_name(m->type));
        control_send_failed(control, m->request, &err);
    }
    ctl_message_close(m);
}

static void on_lost(struct control *control)
{
    log_info("%s: the controller went away; waiting for another", control->id);
}

static int open_disk(struct machine *m, struct ctl_message *load, struct err *err)
{
    if (!m->config.disk)
        return 0;
    if (load->fd[CTL_FD_BASE] < 0)
        return err_say(err, EINVAL, "the machine has a disk, and no base image came with it");
    int rc = disk_open_base(&m->disk, steal_fd(&load->fd[CTL_FD_BASE]), err);
    for (unsigned i = 0; rc == 0 && i < load->extra_count; i++)
        rc = disk_open_frozen(&m->disk, steal_fd(&load->extra[i]), err);
    return rc;
}

/* The frozen layers belong to the machine from here on, the other descriptors are done with. */
static int open_machine(struct template *t, struct ctl_message *load, struct err *err)
{
    const struct ctl_image *described = &load->load.image;
    struct image image = {
        .size = described->mem_bytes, .data_bytes = described->data_bytes, .zero_count = described->zero_count};
    if (image.zero_count > IMAGE_ZERO_MAX)
        return err_say(err, EINVAL, "the image has %u zero ranges instead of at most %d", image.zero_count,
                       IMAGE_ZERO_MAX);
    for (unsigned i = 0; i < image.zero_count; i++)
        image.zero[i] = (struct image_range){described->zero[i].offset, described->zero[i].len};
    int rc = template_open(load->fd[CTL_FD_MEMORY], &image, load->fd[CTL_FD_STATE], described->state_bytes, &t->machine,
                           err);
    if (rc == 0)
        rc = machine_check_host(t->machine, t->origin->kvm_fd, err);
    if (rc == 0)
        rc = open_disk(t->machine, load, err);
    if (rc == 0)
        rc = content_init(&t->content, t->machine, steal_fd(&load->fd[CTL_FD_MEMORY]), err);
    fd_close(&load->fd[CTL_FD_MEMORY]);
    fd_close(&load->fd[CTL_FD_STATE]);
    return rc;
}

int template_run(const struct vmm_origin *origin, int sock, struct ctl_message *load)
{
    struct template t = {.origin = origin, .content = {.image_fd = -1}};
    settling_init(&t.settling);
    struct err err = {0};
    /* Ended children need no one to wait for them: their end is told by pidfds. */
    signal(SIGCHLD, SIG_IGN);
    int keep[CTL_FDS + CTL_EXTRA_MAX + 1];
    memcpy(keep, load->fd, sizeof load->fd);
    memcpy(keep + CTL_FDS, load->extra, sizeof load->extra);
    unsigned kept = CTL_FDS + load->extra_count;
    keep[kept++] = sock;
    int rc = vmm_jail(origin, &load->load.jail, keep, kept, &err);
    int memory = rc == 0 ? own_memory_open(origin->proc_fd, &err) : -1;
    if (rc == 0 && memory < 0)
        rc = memory;
    if (rc == 0)
        rc = open_machine(&t, load, &err);
    if (rc == 0)
        rc =
            begin_control(&t, load->load.id, load->load.secret, sock, steal_fd(&load->fd[CTL_FD_LISTEN]), memory, &err);
    explicit_bzero(load->load.secret, sizeof load->load.secret);
    if (rc < 0) {
        ctl_send_failed(sock, load->request, &err, NULL);
        return 1;
    }
    control_send_birth(&t.control, CTL_LOADED, load->request);
    return serve(&t);
}
