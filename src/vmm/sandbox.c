/* sandbox.c: a fork of a template becomes a running virtual machine.
 *
 *   unborn    a fork that has yet to say so.
 *   born      BORN was sent with the descriptor of its own memory: the controller has all it needs to kill,
 *             branch or adopt it, and answers while the machine is attached to a KVM VM and its state restored;
 *             what fails there is FAILED, after BORN. Then it waits for GO; no guest code has run. It ends when
 *             its socket closes.
 *   running   the guest runs. It outlives its controller. */
#include "base/log.h"
#include "base/own.h"
#include "snap/branch.h"
#include "sys/own_memory.h"
#include "vmm/roles.h"
#include "vmm/runner.h"

#include <stdlib.h>

/* Sandboxes go before templates when the host is out of memory. */
enum { OOM_SCORE = 500 };

/* What a running sandbox has besides its machine. */
struct sandbox {
    struct runner runner;
    struct dirty dirty;
    struct branch_source branch;
};

static void on_request(struct runner *runner, struct ctl_message *m)
{
    struct sandbox *s = runner->owner;
    struct err err = {0};
    int rc = 0;
    if (m->type != CTL_STREAM)
        rc = err_say(&err, EINVAL, "a sandbox cannot do %s", ctl_type_name(m->type));
    /* KVM keeps the log from birth on; the bitmaps are made when they are first wanted. */
    else if (!s->dirty.words)
        rc = dirty_init(&s->dirty, runner->machine, &err);
    if (rc == 0)
        rc = branch_source_begin(&s->branch, runner->machine, &s->dirty, steal_fd(&m->fd[CTL_FD_PEER]),
                                 steal_fd(&m->fd[CTL_FD_LAYER]), &err);
    if (rc < 0)
        control_send_failed(&runner->control, m->request, &err);
    ctl_message_close(m);
}

static int open_layer(struct machine *m, struct ctl_message *spawn, struct err *err)
{
    if (!m->config.disk || m->config.disk_read_only)
        return 0;
    if (spawn->fd[CTL_FD_LAYER] < 0)
        return err_say(err, EINVAL, "a disk that is written needs a layer");
    return disk_open_private(&m->disk, steal_fd(&spawn->fd[CTL_FD_LAYER]), err);
}

static int attach(struct runner *runner, const struct vmm_origin *origin, struct ctl_message *spawn, struct err *err)
{
    struct machine_host host = {.kvm_fd = origin->kvm_fd,
                                .loop = &runner->loop,
                                .vsock_fd = spawn->fd[CTL_FD_VSOCK],
                                .console_fd = spawn->fd[CTL_FD_CONSOLE],
                                .log_dirty = true};
    struct machine_hooks hooks = runner_hooks(runner);
    int rc = open_layer(runner->machine, spawn, err);
    if (rc == 0)
        rc = machine_attach(runner->machine, &host, &hooks, err);
    return rc < 0 ? rc : machine_restore(runner->machine, err);
}

/* 1: GO; 0: not to be, quietly. */
static int wait_for_go(int sock, struct err *err)
{
    struct ctl_message m;
    int rc = ctl_recv(sock, &m, err);
    if (rc <= 0)
        return rc;
    ctl_message_close(&m);
    return m.type == CTL_GO ? 1 : 0;
}

static int become(struct sandbox *s, struct vmm_origin *origin, struct ctl_message *spawn, struct err *err)
{
    struct runner *runner = &s->runner;
    int sock = spawn->fd[CTL_FD_CTL];
    int memory = own_memory_open(origin->proc_fd, err);
    if (memory < 0)
        return memory;
    int rc = own_memory_set_oom_score(origin->proc_fd, OOM_SCORE, NULL);
    (void)rc; /* a preference, not a promise */
    rc = loop_init(&runner->loop, err);
    if (rc == 0)
        rc = control_init(&runner->control, &runner->loop, CTL_ROLE_SANDBOX, spawn->spawn.id, spawn->spawn.secret,
                          steal_fd(&spawn->fd[CTL_FD_CTL]), steal_fd(&spawn->fd[CTL_FD_LISTEN]), memory, err);
    if (rc < 0)
        return rc;
    control_send_birth(&runner->control, CTL_BORN, spawn->request);
    rc = attach(runner, origin, spawn, err);
    if (rc < 0)
        return rc;
    /* Before guest code: what makes VMs, and what opens memory, is for those who fork. */
    fd_close(&origin->kvm_fd);
    fd_close(&origin->proc_fd);
    rc = wait_for_go(sock, err);
    if (rc <= 0)
        exit(rc < 0);
    return machine_start(runner->machine, err);
}

_Noreturn void sandbox_run(struct vmm_origin *origin, struct machine *m, struct ctl_message *spawn)
{
    static struct sandbox sandbox;
    struct runner *runner = &sandbox.runner;
    struct err err = {0};
    int sock = spawn->fd[CTL_FD_CTL];
    branch_source_init(&sandbox.branch);
    runner->owner = &sandbox;
    runner->machine = m;
    runner->request = on_request;
    runner->control.owner = runner;
    runner->control.request = runner_on_request;
    runner->control.lost = runner_on_lost;
    fd_close(&spawn->fd[CTL_FD_CGROUP]);
    if (become(&sandbox, origin, spawn, &err) < 0) {
        ctl_send_failed(sock, spawn->request, &err, NULL);
        log_error("%s: %s", spawn->spawn.id, err.text);
        exit(1);
    }
    exit(runner_run(runner));
}
