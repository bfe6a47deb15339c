/* rig.c: see rig.h. */
#include "kvm/rig.h"

#include "base/clock.h"
#include "base/own.h"
#include "kvm/guests/ports.h"
#include "snap/template.h"
#include "sys/kvm.h"

#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

enum { MEM_MIB = 32, LIMIT_S = 60 };

const char *rig_unusable(void)
{
    static struct err err;
    own_fd int fd = kvm_open(&err);
    return fd < 0 ? err.text : NULL;
}

/* Guests lie beside the tests; programs of bench/ find them from there. */
static int guest_open(const char *name, struct err *err)
{
    char exe[PATH_MAX], path[PATH_MAX + 64];
    ssize_t n = readlink("/proc/self/exe", exe, sizeof exe - 1);
    if (n < 0)
        return err_set(err, errno, "find out where this program is");
    exe[n] = 0;
    const char *dir = dirname(exe);
    snprintf(path, sizeof path, "%s/guest-%s", dir, name);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        snprintf(path, sizeof path, "%s/../tests/kvm/guest-%s", dir, name);
        fd = open(path, O_RDONLY | O_CLOEXEC);
    }
    return fd < 0 ? err_set(err, errno, "open %s", path) : fd;
}

/* --- what the machine tells --- */

void rig_stir(struct rig *rig)
{
    uint64_t one = 1;
    ssize_t n = write(rig->event_fd, &one, sizeof one);
    (void)n; /* full means that the loop has yet to look */
}

static bool on_write(struct rig *rig, uint16_t port, uint32_t v)
{
    switch (port) {
    case PORT_ANSWER:
        atomic_store(&rig->answer, v);
        if (!atomic_load(&rig->answers))
            atomic_store(&rig->first, v);
        atomic_fetch_add(&rig->answers, 1);
        if (rig->on_answer)
            rig->on_answer(rig);
        break;
    case PORT_MARK:
        atomic_store(&rig->mark, v);
        atomic_fetch_add(&rig->marks, 1);
        break;
    case PORT_EXCEPTION:
        atomic_store(&rig->exception, v);
        atomic_fetch_add(&rig->exceptions, 1);
        break;
    default:
        return false;
    }
    rig_stir(rig);
    return true;
}

static bool on_pio(struct machine *m, unsigned vcpu, uint16_t port, bool write, void *data, unsigned len)
{
    struct rig *rig = m->hooks.owner;
    uint32_t v = 0;
    if (len != sizeof v)
        return false;
    if (write) {
        memcpy(&v, data, sizeof v);
        return on_write(rig, port, v);
    }
    if (port != PORT_ASK && port != PORT_HOLD)
        return false;
    if (port == PORT_ASK) {
        atomic_fetch_add(&rig->asks, 1);
        if (rig->on_ask)
            rig->on_ask(rig);
    }
    v = atomic_load(port == PORT_ASK ? &rig->ask : &rig->hold);
    memcpy(data, &v, sizeof v);
    return true;
}

static void on_ended(struct machine *m, enum machine_end why, const char *text)
{
    struct rig *rig = m->hooks.owner;
    rig->ended = true;
    rig->why = why;
    snprintf(rig->text, sizeof rig->text, "%s", text);
    rig_stir(rig);
}

static void on_doorbell(struct machine *m, uint32_t port)
{
    struct rig *rig = m->hooks.owner;
    rig->doorbells++;
    rig_stir(rig);
}

static void on_event(struct loop_source *source, uint32_t events)
{
    struct rig *rig = (struct rig *)((char *)source - offsetof(struct rig, event));
    uint64_t count;
    ssize_t n = read(rig->event_fd, &count, sizeof count);
    (void)n;
    if (rig->ended || (rig->until && rig->until(rig)))
        loop_stop(&rig->loop);
}

static void on_limit(struct loop_timer *timer)
{
    struct rig *rig = (struct rig *)((char *)timer - offsetof(struct rig, limit));
    rig->expired = true;
    loop_stop(&rig->loop);
}

/* --- lives --- */

static int loop_open(struct rig *rig, struct err *err)
{
    rig->loop = (struct loop)LOOP_EMPTY;
    int rc = loop_init(&rig->loop, err);
    if (rc < 0)
        return rc;
    rig->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (rig->event_fd < 0)
        return err_set(err, errno, "make an eventfd");
    rig->event = (struct loop_source){.fd = -1, .fn = on_event};
    rig->limit = (struct loop_timer){.fn = on_limit};
    list_init(&rig->limit.link);
    return loop_add(&rig->loop, &rig->event, rig->event_fd, EPOLLIN, err);
}

static void loop_close(struct rig *rig)
{
    if (rig->event_fd < 0)
        return;
    loop_remove(&rig->loop, &rig->event);
    fd_close(&rig->event_fd);
    loop_destroy(&rig->loop);
}

static int memfd_of(const char *name, uint64_t bytes, struct err *err)
{
    own_fd int fd = memfd_create(name, MFD_CLOEXEC);
    if (fd < 0 || ftruncate(fd, (off_t)bytes) < 0)
        return err_set(err, errno, "make a file of %llu bytes in memory", (unsigned long long)bytes);
    return steal_fd(&fd);
}

static int fd_copy(int fd)
{
    return fcntl(fd, F_DUPFD_CLOEXEC, 0);
}

/* The same file, for reading only. */
static int fd_reader(int fd)
{
    char path[32];
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    return open(path, O_RDONLY | O_CLOEXEC);
}

/* The layers of all lives before, frozen, and a private one for this. */
static int disk_open(struct rig *rig, struct err *err)
{
    if (!rig->m->config.disk)
        return 0;
    if (rig->layers == RIG_LIVES_MAX)
        return err_say(err, E2BIG, "a rig with a disk has %d lives at most", RIG_LIVES_MAX);
    int rc = disk_open_base(&rig->m->disk, fd_reader(rig->base_fd), err);
    for (unsigned i = 0; rc == 0 && i < rig->layers; i++)
        rc = disk_open_frozen(&rig->m->disk, fd_reader(rig->layer_fd[i]), err);
    int layer = rc < 0 ? rc : memfd_of("layer", 0, err);
    if (layer < 0)
        return layer;
    rig->layer_fd[rig->layers++] = fd_copy(layer);
    return disk_open_private(&rig->m->disk, layer, err);
}

static void disk_shut(struct rig *rig)
{
    if (rig->m && rig->m->config.disk)
        disk_close(&rig->m->disk);
}

static int attach(struct rig *rig, int vsock_fd, bool log_dirty, struct err *err)
{
    int rc = loop_open(rig, err);
    if (rc == 0)
        rc = disk_open(rig, err);
    if (rc < 0)
        return rc;
    rig->marks = rig->answers = rig->asks = rig->exceptions = 0;
    rig->ended = false;
    rig->doorbells = 0;
    struct machine_host host = {
        .kvm_fd = rig->kvm_fd, .loop = &rig->loop, .vsock_fd = vsock_fd, .console_fd = -1, .log_dirty = log_dirty};
    struct machine_hooks hooks = {.owner = rig, .ended = on_ended, .doorbell = on_doorbell, .pio = on_pio};
    return machine_attach(rig->m, &host, &hooks, err);
}

/* --- a slow disk, on the device's worker --- */

enum { SLOW_MS = 1 };

static int slow_read(void *disk, const struct iovec *iov, unsigned count, uint64_t at)
{
    poll(NULL, 0, SLOW_MS);
    return disk_read(disk, iov, count, at);
}

static int slow_write(void *disk, const struct iovec *iov, unsigned count, uint64_t at)
{
    poll(NULL, 0, SLOW_MS);
    return disk_write(disk, iov, count, at);
}

static void disk_slow_down(struct machine *m)
{
    m->disk_backend.read = slow_read;
    m->disk_backend.write = slow_write;
}

int rig_boot(struct rig *rig, const struct rig_config *config, struct err *err)
{
    *rig =
        (struct rig){.config = *config, .kvm_fd = -1, .base_fd = -1, .memory_fd = -1, .image_fd = -1, .event_fd = -1};
    struct machine_config mc = {
        .mem_bytes = (config->mem_mib ? config->mem_mib : MEM_MIB) << 20,
        .vcpus = config->vcpus ? config->vcpus : 1,
        .disk = config->disk_bytes != 0,
        .disk_bytes = config->disk_bytes,
    };
    void *base;
    rig->kvm_fd = kvm_open(err);
    if (rig->kvm_fd < 0)
        return rig->kvm_fd;
    if (config->disk_bytes && (rig->base_fd = memfd_of("disk", config->disk_bytes, err)) < 0)
        return rig->base_fd;
    int rc = image_create(mc.mem_bytes, &rig->memory_fd, &base, err);
    if (rc < 0)
        return rc;
    rig->m = machine_new(&mc, base, err);
    if (!rig->m)
        return -err->code;
    own_fd int kernel = guest_open(config->guest, err);
    if (kernel < 0)
        return kernel;
    rc = attach(rig, config->vsock_fd ? config->vsock_fd : -1, false, err);
    if (rc == 0 && config->disk_slow)
        disk_slow_down(rig->m);
    if (rc == 0)
        rc = machine_boot(rig->m, kernel, -1, config->cmdline ? config->cmdline : "", err);
    rig->hold = config->hold;
    return rc < 0 ? rc : machine_start(rig->m, err);
}

int rig_run(struct rig *rig, bool (*until)(struct rig *rig), struct err *err)
{
    rig->until = until;
    rig->expired = false;
    loop_timer_set(&rig->loop, &rig->limit, clock_monotonic_ns() + LIMIT_S * NS_PER_SEC);
    rig_stir(rig);
    int rc = loop_run(&rig->loop, err);
    loop_timer_clear(&rig->limit);
    if (rc == 0 && rig->expired)
        rc = err_say(err, ETIMEDOUT, "the guest did not do what was waited for in %d s", LIMIT_S);
    return rc;
}

bool rig_marked(struct rig *rig)
{
    return atomic_load(&rig->marks) > 0;
}

bool rig_answered(struct rig *rig)
{
    return atomic_load(&rig->answers) > 0;
}

bool rig_rang(struct rig *rig)
{
    return rig->doorbells > 0;
}

bool rig_over(struct rig *rig)
{
    return rig->ended;
}

int rig_park(struct rig *rig, struct err *err)
{
    int rc = machine_park(rig->m, true, err);
    rig->hold = 0;
    machine_detach(rig->m);
    disk_shut(rig);
    loop_close(rig);
    return rc;
}

int rig_template(struct rig *rig, struct image *image, struct err *err)
{
    own_fd int state_fd = -1;
    uint64_t state_len;
    int rc = machine_park(rig->m, true, err);
    rig->hold = 0;
    if (rc < 0)
        return rc;
    struct machine *m = rig->m;
    rig->m = NULL;
    rc = template_make(m, rig->memory_fd, image, &state_fd, &state_len, err);
    loop_close(rig);
    if (rc == 0)
        rc = template_open(rig->memory_fd, image, state_fd, state_len, &rig->m, err);
    rig->image_fd = steal_fd(&rig->memory_fd);
    return rc;
}

int rig_ready(struct rig *rig, const struct rig_config *config, struct err *err)
{
    struct image image;
    struct rig_config held = *config;
    held.hold = true;
    int rc = rig_boot(rig, &held, err);
    if (rc == 0)
        rc = rig_run(rig, strcmp(config->guest, "agent") ? rig_marked : rig_rang, err);
    if (rc == 0 && rig->ended)
        rc = err_say(err, EIO, "the guest ended before it was ready: %s", rig->text);
    return rc < 0 ? rc : rig_template(rig, &image, err);
}

int rig_attach_only(struct rig *rig, int vsock_fd, struct err *err)
{
    return attach(rig, vsock_fd, true, err);
}

int rig_attach(struct rig *rig, int vsock_fd, struct err *err)
{
    int rc = rig_attach_only(rig, vsock_fd, err);
    return rc < 0 ? rc : machine_restore(rig->m, err);
}

int rig_live(struct rig *rig, int vsock_fd, struct err *err)
{
    int rc = rig_attach(rig, vsock_fd, err);
    return rc < 0 ? rc : machine_start(rig->m, err);
}

pid_t rig_fork(struct rig *rig, int (*fn)(struct rig *rig, void *arg), void *arg)
{
    pid_t parent = getpid(), pid = fork();
    if (pid)
        return pid;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent)
        _exit(1);
    _exit(fn(rig, arg));
}

int rig_wait(pid_t pid)
{
    int status;
    while (waitpid(pid, &status, 0) < 0)
        if (errno != EINTR)
            return -1;
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

unsigned rig_fork_many(struct rig *rig, unsigned forks, unsigned at_once, int (*fn)(struct rig *rig, void *arg),
                       void *arg)
{
    unsigned bad = 0, alive = 0;
    for (unsigned i = 0; i < forks || alive; i++) {
        if (i < forks) {
            if (rig_fork(rig, fn, arg) < 0)
                return bad + forks - i;
            alive++;
        }
        if (alive < at_once && i + 1 < forks)
            continue;
        bad += rig_wait(-1) != 0;
        alive--;
    }
    return bad;
}

void rig_close(struct rig *rig)
{
    machine_free(rig->m);
    rig->m = NULL;
    loop_close(rig);
    fd_close(&rig->memory_fd);
    fd_close(&rig->image_fd);
    fd_close(&rig->base_fd);
    while (rig->layers)
        fd_close(&rig->layer_fd[--rig->layers]);
    fd_close(&rig->kvm_fd);
}
