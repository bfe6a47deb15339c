/* parent.c: a parent boots a guest and is consumed by its template.
 *
 *   booting   the guest's CPUs run; doorbells are events. The controller warms it up through vsock.
 *   TEMPLATE  the machine parks for good, its state is saved, its memory sealed; IMAGE carries both, and the
 *             process ends. If that fails the guest is lost: FAILED says why, and the process ends.
 *
 * A parent belongs to its controller alone and ends with it. */
#include "base/log.h"
#include "base/own.h"
#include "sys/own_memory.h"
#include "vmm/roles.h"
#include "vmm/runner.h"

#include <string.h>

struct parent {
    struct runner runner;
    int memory_fd;
    struct ctl_message *boot;
};

static void make_template(struct parent *parent, uint32_t request)
{
    struct err err = {0};
    struct ctl_message reply;
    struct image image = {0};
    own_fd int state_fd = -1;
    ctl_message_init(&reply, CTL_IMAGE, request);

    struct machine *m = parent->runner.machine;
    int rc = machine_park(m, true, &err);
    if (rc == 0) {
        parent->runner.machine = NULL;
        rc = template_make(m, parent->memory_fd, &image, &state_fd, &reply.image.state_bytes, &err);
    }
    if (rc < 0) {
        control_send_failed(&parent->runner.control, request, &err);
        runner_stop(&parent->runner, 1);
        return;
    }
    reply.image.mem_bytes = image.size;
    reply.image.data_bytes = image.data_bytes;
    reply.image.zero_count = image.zero_count;
    for (unsigned i = 0; i < image.zero_count; i++)
        reply.image.zero[i] = (struct ctl_zero_range){image.zero[i].offset, image.zero[i].len};
    reply.fd[CTL_FD_MEMORY] = parent->memory_fd;
    reply.fd[CTL_FD_STATE] = state_fd;
    control_send(&parent->runner.control, &reply);
    runner_stop(&parent->runner, 0);
}
_Static_assert((int)IMAGE_ZERO_MAX <= (int)CTL_ZERO_RANGES_MAX, "an image's ranges fit a message");

static void on_request(struct runner *runner, struct ctl_message *m)
{
    struct err err = {0};
    if (m->type == CTL_TEMPLATE) {
        make_template(runner->owner, m->request);
    } else {
        err_say(&err, EINVAL, "a parent cannot do %s", ctl_type_name(m->type));
        control_send_failed(&runner->control, m->request, &err);
    }
    ctl_message_close(m);
}

static void on_lost(struct control *control)
{
    runner_stop(control->owner, 1);
}

static int configure(const struct ctl_message *boot, struct machine_config *config, struct err *err)
{
    *config = (struct machine_config){
        .mem_bytes = (uint64_t)boot->boot.mem_mib << 20,
        .vcpus = boot->boot.vcpus,
        .disk = boot->fd[CTL_FD_BASE] >= 0,
        .disk_read_only = boot->boot.disk_read_only,
    };
    if (!config->disk)
        return 0;
    int64_t bytes = disk_image_bytes(boot->fd[CTL_FD_BASE], err);
    config->disk_bytes = bytes < 0 ? 0 : (uint64_t)bytes;
    return bytes < 0 ? (int)bytes : 0;
}

/* The base image, and the layer that takes what the guest writes while it boots and warms up. */
static int open_disk(struct machine *m, struct ctl_message *boot, struct err *err)
{
    if (!m->config.disk)
        return 0;
    int rc = disk_open_base(&m->disk, steal_fd(&boot->fd[CTL_FD_BASE]), err);
    if (rc == 0 && boot->fd[CTL_FD_LAYER] >= 0)
        rc = disk_open_private(&m->disk, steal_fd(&boot->fd[CTL_FD_LAYER]), err);
    else if (rc == 0 && !m->config.disk_read_only)
        rc = err_say(err, EINVAL, "a disk that is written needs a layer");
    return rc;
}

/* Memory, machine, devices, kernel. Guest code has not run when this returns. */
static int set_up(struct parent *parent, const struct vmm_origin *origin, struct err *err)
{
    struct ctl_message *boot = parent->boot;
    struct runner *runner = &parent->runner;
    struct machine_config config;
    void *base;
    int rc = configure(boot, &config, err);
    if (rc == 0)
        rc = image_create(config.mem_bytes, &parent->memory_fd, &base, err);
    if (rc < 0)
        return rc;
    struct machine *m = runner->machine = machine_new(&config, base, err);
    if (!m)
        return -err->code;
    struct machine_host host = {.kvm_fd = origin->kvm_fd,
                                .loop = &runner->loop,
                                .vsock_fd = boot->fd[CTL_FD_VSOCK],
                                .console_fd = boot->fd[CTL_FD_CONSOLE]};
    struct machine_hooks hooks = runner_hooks(runner);
    rc = open_disk(m, boot, err);
    if (rc == 0)
        rc = machine_attach(m, &host, &hooks, err);
    if (rc == 0)
        rc = machine_boot(m, boot->fd[CTL_FD_KERNEL], boot->fd[CTL_FD_INITRD], boot->boot.cmdline, err);
    return rc;
}

int parent_run(const struct vmm_origin *origin, int sock, struct ctl_message *boot)
{
    struct parent parent = {.memory_fd = -1, .boot = boot};
    struct runner *runner = &parent.runner;
    struct err err = {0};
    runner->owner = &parent;
    runner->request = on_request;
    runner->control.owner = runner;
    runner->control.request = runner_on_request;
    runner->control.lost = on_lost;

    int keep[CTL_FDS + 1];
    memcpy(keep, boot->fd, sizeof boot->fd);
    keep[CTL_FDS] = sock;
    int rc = vmm_jail(origin, &boot->boot.jail, keep, CTL_FDS + 1, &err);
    int memory = rc == 0 ? own_memory_open(origin->proc_fd, &err) : -1;
    if (rc == 0 && memory < 0)
        rc = memory;
    if (rc == 0)
        rc = loop_init(&runner->loop, &err);
    if (rc == 0)
        rc = control_init(&runner->control, &runner->loop, CTL_ROLE_PARENT, boot->boot.id, boot->boot.secret, sock,
                          steal_fd(&boot->fd[CTL_FD_LISTEN]), memory, &err);
    if (rc == 0)
        rc = set_up(&parent, origin, &err);
    if (rc == 0)
        rc = machine_start(runner->machine, &err);
    if (rc < 0) {
        ctl_send_failed(sock, boot->request, &err, NULL);
        return 1;
    }
    control_send_birth(&runner->control, CTL_STARTED, boot->request);
    return runner_run(runner);
}
