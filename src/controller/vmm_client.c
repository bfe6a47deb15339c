/* vmm_client.c: see vmm_client.h. */
#include "controller/vmm_client.h"

#include "base/clock.h"
#include "base/crc.h"
#include "base/log.h"
#include "base/own.h"
#include "sys/cgroup.h"
#include "sys/clone.h"

#include <fcntl.h>
#include <limits.h>
#include <linux/close_range.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/syscall.h>

enum {
    START_SECS = 30,   /* STARTED, LOADED: making a VM and its memory */
    FREEZE_SECS = 120, /* IMAGE: scanning all memory for zeros */
    SPAWN_SECS = 20,
    STREAM_SECS = 10,  /* a source that reads no requests for so long will not serve one */
    BRANCH_SECS = 300, /* BRANCHED: as long as reading all memory may take; each step has a shorter limit of its own */
    EXPLAIN_MS = 50,
    DESTROY_MS = 30 * 1000, /* a killed process that is not dead then hangs in the kernel */
    CONTROL_FD = 3,         /* where a started VMM finds its control socket */
};

static uint64_t secs_from_now(unsigned secs)
{
    return clock_monotonic_ns() + secs * NS_PER_SEC;
}

int vmm_name(struct vmm *vmm, const char *prefix, struct err *err)
{
    static const char letters[] = "abcdefghijklmnopqrstuvwxyz234567";
    uint8_t random[24];
    if (getrandom(random, sizeof random, 0) != sizeof random ||
        getrandom(vmm->secret, sizeof vmm->secret, 0) != sizeof vmm->secret)
        return err_set(err, errno, "getrandom");
    int n = snprintf(vmm->id, sizeof vmm->id, "%s-", prefix);
    for (size_t i = 0; i < sizeof random; i++)
        vmm->id[n++] = letters[random[i] & 31];
    vmm->id[n] = 0;
    return 0;
}

int program_find(const char *variable, const char *name, const char *folder, char *path, size_t cap, struct err *err)
{
    const char *chosen = getenv(variable);
    if (chosen && *chosen) {
        if ((size_t)snprintf(path, cap, "%s", chosen) >= cap || access(path, X_OK) < 0)
            return err_set(err, errno, "%s=%s", variable, chosen);
        return 0;
    }
    const char *const places[] = {".", "../libexec/forkd", folder};
    char self[PATH_MAX];
    ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);
    if (n < 0)
        return err_set(err, errno, "readlink /proc/self/exe");
    self[n] = 0;
    *strrchr(self, '/') = 0;
    for (size_t i = 0; i < sizeof places / sizeof *places; i++)
        if ((size_t)snprintf(path, cap, "%s/%s/%s", self, places[i], name) < cap && access(path, X_OK) == 0)
            return 0;
    return err_say(err, ENOENT, "%s is not beside %s; set %s to its path", name, self, variable);
}

int vmm_program(char *path, size_t cap, struct err *err)
{
    return program_find("FORKD_VMM", "forkd-vmm", "../vmm", path, cap, err);
}

/* In the child of a process with threads: async-signal-safe calls only. */
static void exec_vmm(const char *program, const char *run_path, int ctl)
{
    static char flag[] = "--ctl", number[] = "3", owner[] = "--run";
    char *argv[] = {(char *)program, flag, number, run_path ? owner : NULL, (char *)run_path, NULL};
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    /* Out of reach of the terminal's signals. Not a session of its own: with sched_autogroup that would be a group
     * of its own to the scheduler, and every message of a spawn wakes a process on the other side. */
    setpgid(0, 0);
    int null = open("/dev/null", O_RDWR);
    if (null < 0 || dup2(null, STDIN_FILENO) < 0 || dup2(null, STDOUT_FILENO) < 0)
        _exit(126);
    if (ctl == CONTROL_FD ? fcntl(ctl, F_SETFD, 0) < 0 : dup2(ctl, CONTROL_FD) < 0)
        _exit(126);
    syscall(SYS_close_range, CONTROL_FD + 1, UINT_MAX, CLOSE_RANGE_CLOEXEC);
    execv(program, argv);
    _exit(127);
}

int vmm_start(const char *program, const char *run_path, int cgroup, struct vmm *vmm, struct err *err)
{
    int pair[2];
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
        return err_set(err, errno, "socketpair");
    own_fd int ours = pair[0], theirs = pair[1];
    struct clone_spec spec = {.cgroup_fd = cgroup, .want_pidfd = true};
    pid_t pid = clone_fork(&spec, &vmm->pidfd, err);
    if (pid < 0)
        return err_wrap(err, "start %s", program);
    if (pid == 0)
        exec_vmm(program, run_path, theirs);
    vmm->pid = pid;
    vmm->ctl = steal_fd(&ours);
    return 0;
}

static const char *end_name(enum ctl_end reason)
{
    switch (reason) {
    case CTL_END_POWEROFF:
        return "the guest powered off";
    case CTL_END_RESET:
        return "the guest asked for a reset (a reboot or a panic)";
    case CTL_END_CRASH:
        return "the guest crashed";
    case CTL_END_QUIT:
        return "it was asked to end";
    default:
        return "the VMM failed";
    }
}

void vmm_end_say(const struct ctl_ended *ended, char *text, size_t cap)
{
    const char *name = end_name(ended->reason);
    /* Of an end that the guest asked for, the VMM knows no more than the reason. */
    bool asked = ended->reason == CTL_END_POWEROFF || ended->reason == CTL_END_RESET;
    bool more = !asked && *ended->text;
    snprintf(text, cap, "%s%s%.*s", name, more ? ": " : "", CTL_TEXT_MAX - 1, more ? ended->text : "");
}

static int say_ended(const struct ctl_ended *ended, struct err *err)
{
    char text[CTL_TEXT_MAX + 64];
    vmm_end_say(ended, text, sizeof text);
    return err_say(err, ECONNRESET, "%s", text);
}

/* Takes note of an event, or says why the VMM ends. */
static int event_note(struct vmm *vmm, const struct ctl_message *m, struct err *err)
{
    if (m->type == CTL_ENDED)
        return say_ended(&m->ended, err);
    if (m->type == CTL_DOORBELL)
        vmm->rung = true;
    return 0;
}

/* One message; an end of file is an error that says so. */
static int message_next(struct vmm *vmm, struct ctl_message *m, uint64_t deadline_ns, struct err *err)
{
    int rc = ctl_recv_until(vmm->ctl, m, deadline_ns, err);
    if (rc == 0 || rc == -ECONNRESET)
        return err_say(err, ECONNRESET, "the VMM process %d ended without a word", (int)vmm->pid);
    return rc < 0 ? rc : 0;
}

/* The answer to SETTLE, whoever reads it. True: it was that. */
static bool settled_note(struct vmm *vmm, const struct ctl_message *m)
{
    if (!vmm->settle || m->request != vmm->settle)
        return false;
    vmm->settle = 0;
    vmm->settled.code = m->type == CTL_SETTLED ? 0 : -(int)(m->failed.code ? m->failed.code : EIO);
    vmm->settled.pages = m->type == CTL_SETTLED ? m->settled.pages : 0;
    if (m->type == CTL_FAILED)
        snprintf(vmm->settled.text, sizeof vmm->settled.text, "%s", m->failed.text);
    return true;
}

/* The reply to `request`, of type `expect`. */
static int reply_wait(struct vmm *vmm, uint32_t request, enum ctl_type expect, uint64_t deadline_ns,
                      struct ctl_message *m, struct err *err)
{
    for (;;) {
        int rc = message_next(vmm, m, deadline_ns, err);
        if (rc < 0)
            return rc == -ETIMEDOUT
                       ? err_say(err, ETIMEDOUT, "the VMM did not answer with %s in time", ctl_type_name(expect))
                       : rc;
        if (m->request == 0)
            rc = event_note(vmm, m, err);
        else if (settled_note(vmm, m))
            rc = 0;
        else if (m->request == request && m->type == expect)
            return 0;
        else if (m->request == request && m->type == CTL_FAILED)
            rc = err_say(err, (int)m->failed.code, "%.*s", CTL_TEXT_MAX - 1, m->failed.text);
        ctl_message_close(m);
        if (rc < 0)
            return rc;
    }
}

uint32_t vmm_number(struct vmm *vmm)
{
    return atomic_fetch_add(&vmm->requests, 1) + 1;
}

static int call(struct vmm *vmm, struct ctl_message *m, enum ctl_type expect, unsigned secs, struct ctl_message *reply,
                struct err *err)
{
    m->request = vmm_number(vmm);
    int rc = ctl_send(vmm->ctl, m, err);
    if (rc == -EPIPE || rc == -ECONNRESET)
        return err_say(err, ECONNRESET, "the VMM process %d is gone", (int)vmm->pid);
    if (rc < 0)
        return rc;
    return reply_wait(vmm, m->request, expect, secs_from_now(secs), reply, err);
}

/* Beyond the uids that distributions and containers give out (systemd: up to 1879048191). */
enum { TREE_UID_FIRST = 0x70000000, TREE_UIDS = 0x0ff00000 };

struct ctl_jail vmm_tree_owner(const char *template_id)
{
    if (geteuid() != 0)
        return (struct ctl_jail){UINT32_MAX, UINT32_MAX};
    uint32_t hash = crc32c(0, template_id, strlen(template_id));
    uint32_t uid = TREE_UID_FIRST + hash % TREE_UIDS;
    return (struct ctl_jail){uid, uid};
}

int vmm_tree_delegate(int cgroup, const char *template_id, struct err *err)
{
    struct ctl_jail who = vmm_tree_owner(template_id);
    return who.uid == UINT32_MAX ? 0 : cgroup_delegate(cgroup, who.uid, who.gid, err);
}

int vmm_boot(struct vmm *vmm, const struct vmm_boot *boot, struct err *err)
{
    struct ctl_message m, reply;
    ctl_message_init(&m, CTL_BOOT, 0);
    memcpy(m.boot.id, vmm->id, sizeof m.boot.id);
    memcpy(m.boot.secret, vmm->secret, CTL_SECRET_LEN);
    m.boot.jail = boot->who;
    m.boot.mem_mib = boot->mem_mib;
    m.boot.vcpus = boot->vcpus;
    m.boot.disk_read_only = boot->disk_read_only;
    if ((size_t)snprintf(m.boot.cmdline, sizeof m.boot.cmdline, "%s", boot->cmdline) >= sizeof m.boot.cmdline)
        return err_say(err, EMSGSIZE, "the kernel's command line is too long");
    m.fd[CTL_FD_KERNEL] = boot->kernel;
    m.fd[CTL_FD_INITRD] = boot->initrd;
    m.fd[CTL_FD_BASE] = boot->base;
    m.fd[CTL_FD_LAYER] = boot->seat->layer;
    m.fd[CTL_FD_VSOCK] = boot->seat->vsock;
    m.fd[CTL_FD_LISTEN] = boot->seat->listen;
    m.fd[CTL_FD_CONSOLE] = boot->seat->console;
    int rc = call(vmm, &m, CTL_STARTED, START_SECS, &reply, err);
    if (rc < 0)
        return rc;
    vmm->memory = steal_fd(&reply.fd[CTL_FD_OWN_MEMORY]);
    ctl_message_close(&reply);
    return 0;
}

int vmm_wait_doorbell(struct vmm *vmm, uint64_t deadline_ns, struct err *err)
{
    while (!vmm->rung) {
        struct ctl_message m;
        int rc = message_next(vmm, &m, deadline_ns, err);
        if (rc < 0)
            return rc;
        rc = event_note(vmm, &m, err);
        ctl_message_close(&m);
        if (rc < 0)
            return rc;
    }
    return 0;
}

int vmm_freeze(struct vmm *vmm, struct vmm_image *image, struct err *err)
{
    struct ctl_message m, reply;
    ctl_message_init(&m, CTL_TEMPLATE, 0);
    int rc = call(vmm, &m, CTL_IMAGE, FREEZE_SECS, &reply, err);
    if (rc < 0)
        return rc;
    image->image = reply.image;
    image->memory = steal_fd(&reply.fd[CTL_FD_MEMORY]);
    image->state = steal_fd(&reply.fd[CTL_FD_STATE]);
    ctl_message_close(&reply);
    return 0;
}

int vmm_load(struct vmm *vmm, const struct vmm_image *image, struct ctl_jail who, int base, const int *layers,
             unsigned layer_count, int listen, struct err *err)
{
    struct ctl_message m, reply;
    ctl_message_init(&m, CTL_LOAD, 0);
    memcpy(m.load.id, vmm->id, sizeof m.load.id);
    memcpy(m.load.secret, vmm->secret, CTL_SECRET_LEN);
    m.load.jail = who;
    m.load.image = image->image;
    m.fd[CTL_FD_MEMORY] = image->memory;
    m.fd[CTL_FD_STATE] = image->state;
    m.fd[CTL_FD_BASE] = base;
    m.fd[CTL_FD_LISTEN] = listen;
    if (layer_count > CTL_EXTRA_MAX)
        return err_say(err, E2BIG, "a disk of %u layers cannot be loaded", layer_count);
    memcpy(m.extra, layers, layer_count * sizeof *layers);
    m.extra_count = layer_count;
    int rc = call(vmm, &m, CTL_LOADED, START_SECS, &reply, err);
    if (rc < 0)
        return rc;
    vmm->memory = steal_fd(&reply.fd[CTL_FD_OWN_MEMORY]);
    ctl_message_close(&reply);
    return 0;
}

int vmm_export(struct vmm *template, struct ctl_message *exported, struct err *err)
{
    struct ctl_message m;
    ctl_message_init(&m, CTL_EXPORT, 0);
    int rc = call(template, &m, CTL_EXPORTED, SPAWN_SECS, exported, err);
    return rc < 0 ? err_wrap(err, "the template") : 0;
}

/* SPAWN or BRANCH: what is missing in *m is the fork's control socket. */
static int call_fork(struct vmm *template, struct vmm *child, struct ctl_message *m, struct err *err)
{
    int pair[2];
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
        return err_set(err, errno, "socketpair");
    own_fd int ours = pair[0], theirs = pair[1];
    struct ctl_message reply;
    m->fd[CTL_FD_CTL] = theirs;
    int rc = call(template, m, CTL_SPAWNED, SPAWN_SECS, &reply, err);
    if (rc < 0)
        return err_wrap(err, "the template");
    child->pid = (pid_t)reply.pid.pid;
    child->pidfd = steal_fd(&reply.fd[CTL_FD_PIDFD]);
    child->ctl = steal_fd(&ours);
    ctl_message_close(&reply);
    return 0;
}

int vmm_spawn(struct vmm *template, struct vmm *child, const struct seat *seat, int cgroup, struct err *err)
{
    struct ctl_message m;
    ctl_message_init(&m, CTL_SPAWN, 0);
    memcpy(m.spawn.id, child->id, sizeof m.spawn.id);
    memcpy(m.spawn.secret, child->secret, CTL_SECRET_LEN);
    m.fd[CTL_FD_LAYER] = seat->layer;
    m.fd[CTL_FD_VSOCK] = seat->vsock;
    m.fd[CTL_FD_LISTEN] = seat->listen;
    m.fd[CTL_FD_CONSOLE] = seat->console;
    m.fd[CTL_FD_CGROUP] = cgroup;
    return call_fork(template, child, &m, err);
}

int vmm_branch(struct vmm *last, struct vmm *made, int listen, int peer, int memory, int cgroup, struct err *err)
{
    struct ctl_message m;
    ctl_message_init(&m, CTL_BRANCH, 0);
    memcpy(m.branch.id, made->id, sizeof m.branch.id);
    memcpy(m.branch.secret, made->secret, CTL_SECRET_LEN);
    m.fd[CTL_FD_LISTEN] = listen;
    m.fd[CTL_FD_PEER] = peer;
    m.fd[CTL_FD_OWN_MEMORY] = memory;
    m.fd[CTL_FD_CGROUP] = cgroup;
    int rc = call_fork(last, made, &m, err);
    /* The fork answers the request its template was sent. */
    atomic_store(&made->requests, m.request);
    return rc;
}

int vmm_settle(struct vmm *template, struct err *err)
{
    struct ctl_message m;
    template->settle = vmm_number(template);
    template->settled.code = -EAGAIN;
    ctl_message_init(&m, CTL_SETTLE, template->settle);
    return ctl_send_until(template->ctl, &m, secs_from_now(SPAWN_SECS), err);
}

int vmm_settled(struct vmm *template, uint64_t *pages, struct err *err)
{
    struct ctl_message m;
    int rc = 1;
    while (template->settled.code == -EAGAIN && (rc = ctl_recv_until(template->ctl, &m, 0, err)) == 1) {
        settled_note(template, &m);
        ctl_message_close(&m);
    }
    if (template->settled.code == -EAGAIN && rc != 1)
        return rc == -ETIMEDOUT || rc == -EAGAIN
                   ? -EAGAIN
                   : err_say(err, ECONNRESET, "the template's process %d ended", (int)template->pid);
    *pages = template->settled.pages;
    return template->settled.code < 0 ? err_say(err, -template->settled.code, "%s", template->settled.text) : 0;
}

int vmm_stream(struct vmm *source, uint32_t number, int peer, int layer, struct err *err)
{
    struct ctl_message m;
    ctl_message_init(&m, CTL_STREAM, number);
    m.fd[CTL_FD_PEER] = peer;
    m.fd[CTL_FD_LAYER] = layer;
    return ctl_send_until(source->ctl, &m, secs_from_now(STREAM_SECS), err);
}

int vmm_await_branched(struct vmm *made, struct ctl_branched *report, struct err *err)
{
    struct ctl_message reply;
    int rc = reply_wait(made, atomic_load(&made->requests), CTL_BRANCHED, secs_from_now(BRANCH_SECS), &reply, err);
    if (rc < 0)
        return rc;
    *report = reply.branched;
    made->memory = steal_fd(&reply.fd[CTL_FD_OWN_MEMORY]);
    ctl_message_close(&reply);
    return 0;
}

/* A word on which nothing is answered. */
static int tell(struct vmm *child, enum ctl_type type, struct err *err)
{
    struct ctl_message m;
    ctl_message_init(&m, type, 0);
    int rc = ctl_send(child->ctl, &m, err);
    return rc == -EPIPE || rc == -ECONNRESET ? err_say(err, ECONNRESET, "the VMM process %d is gone", (int)child->pid)
                                             : rc;
}

int vmm_go(struct vmm *child, struct err *err)
{
    return tell(child, CTL_GO, err);
}

int vmm_hand_over(struct vmm *child, struct err *err)
{
    return tell(child, CTL_HANDED, err);
}

int vmm_await_birth(struct vmm *child, struct err *err)
{
    struct ctl_message m;
    uint64_t deadline = secs_from_now(SPAWN_SECS);
    for (;;) {
        int rc = message_next(child, &m, deadline, err);
        if (rc < 0)
            return rc;
        if (m.type == CTL_BORN)
            break;
        rc = m.type == CTL_FAILED ? err_say(err, (int)m.failed.code, "%.*s", CTL_TEXT_MAX - 1, m.failed.text)
                                  : event_note(child, &m, err);
        ctl_message_close(&m);
        if (rc < 0)
            return rc;
    }
    child->memory = steal_fd(&m.fd[CTL_FD_OWN_MEMORY]);
    ctl_message_close(&m);
    return 0;
}

int vmm_adopt(const struct rundir *run, struct vmm *vmm, unsigned secs, struct err *err)
{
    vmm->ctl = rundir_connect_ctl(run, vmm->id, err);
    if (vmm->ctl < 0)
        return vmm->ctl;
    struct ctl_message m, reply;
    ctl_message_init(&m, CTL_ADOPT, 0);
    memcpy(m.adopt.secret, vmm->secret, CTL_SECRET_LEN);
    int rc = call(vmm, &m, CTL_ADOPTED, secs, &reply, err);
    if (rc < 0)
        return rc;
    if (strncmp(reply.adopted.id, vmm->id, sizeof vmm->id) != 0)
        rc = err_say(err, EPROTO, "the VMM behind %s calls itself %s", vmm->id, reply.adopted.id);
    vmm->pid = (pid_t)reply.adopted.pid;
    vmm->stalled = reply.adopted.stalled;
    vmm->handed = reply.adopted.handed;
    vmm->memory = steal_fd(&reply.fd[CTL_FD_OWN_MEMORY]);
    vmm->pidfd = steal_fd(&reply.fd[CTL_FD_PIDFD]);
    ctl_message_close(&reply);
    if (rc == 0 && vmm->pidfd < 0 && (vmm->pidfd = (int)syscall(SYS_pidfd_open, vmm->pid, 0)) < 0)
        rc = err_set(err, errno, "pidfd_open of %d", (int)vmm->pid);
    return rc;
}

int vmm_resume(struct vmm *vmm, struct err *err)
{
    struct ctl_message m;
    ctl_message_init(&m, CTL_RESUME, vmm_number(vmm));
    return ctl_send(vmm->ctl, &m, err);
}

/* 0 with what it said of its end; -ECONNRESET: it is gone without; -ENOENT: nothing came in time. */
static int words_await(struct vmm *vmm, uint64_t deadline_ns, struct err *err)
{
    struct ctl_message m;
    int rc = vmm->ctl < 0 ? -ENOENT : 1;
    while (rc == 1 && (rc = ctl_recv_until(vmm->ctl, &m, deadline_ns, NULL)) == 1) {
        bool last = m.type == CTL_ENDED || m.type == CTL_FAILED;
        if (m.type == CTL_ENDED)
            say_ended(&m.ended, err);
        else if (m.type == CTL_FAILED)
            err_say(err, (int)m.failed.code, "%.*s", CTL_TEXT_MAX - 1, m.failed.text);
        ctl_message_close(&m);
        if (last)
            return 0;
    }
    return rc == 0 || rc == -ECONNRESET ? -ECONNRESET : -ENOENT;
}

int vmm_last_words(struct vmm *vmm, struct err *err)
{
    return words_await(vmm, 0, err) == 0 ? 0 : -ENOENT;
}

/* A guest that ended a moment ago: its VMM may still be on the way to say so. */
void vmm_explain(struct vmm *vmm, struct err *err)
{
    struct err words;
    int rc = words_await(vmm, clock_monotonic_ns() + EXPLAIN_MS * NS_PER_MS, &words);
    if (rc == -ECONNRESET)
        err_say(&words, ECONNRESET, "the VMM process %d ended without a word", (int)vmm->pid);
    if (rc == 0 || rc == -ECONNRESET)
        *err = words;
}

void vmm_release(struct vmm *vmm)
{
    fd_close(&vmm->pidfd);
    fd_close(&vmm->ctl);
    fd_close(&vmm->memory);
}

void vmm_kill(const struct vmm *vmm)
{
    if (vmm->pidfd >= 0 && syscall(SYS_pidfd_send_signal, vmm->pidfd, SIGKILL, NULL, 0) < 0 && errno != ESRCH)
        log_error("kill %s (process %d): %s", vmm->id, (int)vmm->pid, strerrordesc_np(errno));
}

void vmm_destroy(struct vmm *vmm)
{
    struct pollfd p = {.fd = vmm->pidfd, .events = POLLIN};
    vmm_kill(vmm);
    while (vmm->pidfd >= 0 && poll(&p, 1, DESTROY_MS) < 0 && errno == EINTR)
        ;
    vmm_release(vmm);
    vmm->pid = 0;
}
