/* machine.c: see machine.h. State and host of a machine, and its life; the vCPU threads are in vcpu.c, what
 * exits reach in bus.c. */
#include "vm/machine.h"

#include "arch/boot.h"
#include "arch/cpuid.h"
#include "base/log.h"
#include "base/own.h"
#include "sys/kvm.h"
#include "vm/notify.h"
#include "vm/vcpu.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>

/* --- what devices ask of the machine --- */

enum { MSI_FAILURES_LOGGED = 8 };

/* Synchronous, on whatever thread raises: an interrupt is in its LAPIC when this returns, and none is left on a
 * work queue when the CPUs are parked and saved, as an irqfd's may be. It also costs less: 0.4 us here against 0.5
 * for the write to an irqfd, which takes a routing table besides that each spawn would have to set. */
static void msi_send(void *owner, uint64_t address, uint32_t data)
{
    struct machine *m = owner;
    struct err err = {0};
    if (m->vm_fd < 0 || kvm_msi_signal(m->vm_fd, address, data, &err) == 0)
        return;
    /* To a CPU that is not there, say: the guest's own doing, as often as it likes. */
    if (m->msi_failures++ < MSI_FAILURES_LOGGED)
        log_warn("an interrupt of the guest's is lost: %s", err.text);
}

static void virtio_raise(struct virtio_dev *dev)
{
    struct machine *m = dev->owner;
    for (unsigned slot = 0; slot < MACHINE_SLOTS; slot++)
        if (machine_virtio(m, slot) == dev)
            ioapic_raise(&m->ioapic, BOARD_VIRTIO_GSI + slot);
}

static void virtio_wake(struct virtio_dev *dev)
{
    struct machine *m = dev->owner;
    if (m->wake_later)
        m->wake_due = true;
    else if (m->host.loop)
        loop_wake(m->host.loop);
}

static void serial_raise(struct serial *serial)
{
    struct machine *m = serial->owner;
    ioapic_raise(&m->ioapic, BOARD_SERIAL_GSI);
}

static void vmgenid_raise(struct vmgenid *genid)
{
    struct machine *m = genid->owner;
    ioapic_raise(&m->ioapic, BOARD_GED_GSI);
}

/* The doorbell and the stall come from devices, with the device lock held; the owner hears of them without it. */
static void vsock_doorbell(struct vsock *vsock, uint32_t port)
{
    struct machine *m = vsock->virtio.owner;
    m->doorbell_pending = true;
    m->doorbell_port = port;
    loop_wake(m->host.loop);
}

static void blk_stall(struct blk *blk, const struct err *why)
{
    struct machine *m = blk->virtio.owner;
    m->stall_pending = true;
    m->stall_err = *why;
    loop_wake(m->host.loop);
}

static void blk_tended(struct blk *blk)
{
    struct machine *m = blk->virtio.owner;
    if (disk_merge(&m->disk))
        blk_tend(blk);
}

/* The disk behind the block device; called on the device's worker. */

static int backend_read(void *disk, const struct iovec *iov, unsigned count, uint64_t at)
{
    return disk_read(disk, iov, count, at);
}

static int backend_write(void *disk, const struct iovec *iov, unsigned count, uint64_t at)
{
    return disk_write(disk, iov, count, at);
}

static int backend_zero(void *disk, uint64_t at, uint64_t len)
{
    return disk_zero(disk, at, len);
}

static int backend_flush(void *disk)
{
    return disk_flush(disk);
}

static bool backend_tend(void *disk)
{
    return disk_merge_step(disk);
}

/* --- plain state --- */

static void board_init(struct machine *m)
{
    m->board = (struct board){.vcpus = m->config.vcpus, .serial = true, .vmgenid = true};
    for (unsigned slot = 0; slot < MACHINE_SLOTS; slot++)
        if (machine_virtio(m, slot))
            m->board.devices[m->board.ndevices++] = board_virtio(slot);
}

static int disk_device_init(struct machine *m, struct err *err)
{
    if (!m->config.disk)
        return 0;
    int rc = disk_init(&m->disk, m->config.disk_bytes, err);
    if (rc < 0)
        return rc;
    blk_init(&m->blk, &m->gmem, m->disk.bytes, m->config.disk_read_only);
    m->blk.on_stall = blk_stall;
    m->blk.on_tended = blk_tended;
    m->disk_backend = (struct blk_backend){.disk = &m->disk,
                                           .read = backend_read,
                                           .write = backend_write,
                                           .discard = backend_zero,
                                           .write_zeroes = backend_zero,
                                           .flush = backend_flush,
                                           .tend = backend_tend};
    return 0;
}

static void devices_init(struct machine *m)
{
    ioapic_init(&m->ioapic, msi_send, m);
    serial_init(&m->serial);
    m->serial.raise = serial_raise;
    m->serial.owner = m;
    vmgenid_init(&m->vmgenid, BOARD_VMGENID_GPA);
    m->vmgenid.raise = vmgenid_raise;
    m->vmgenid.owner = m;
    vsock_init(&m->vsock, &m->gmem);
    m->vsock.on_doorbell = vsock_doorbell;
    rng_init(&m->rng, &m->gmem);
    for (unsigned slot = 0; slot < MACHINE_SLOTS; slot++) {
        struct virtio_dev *dev = machine_virtio(m, slot);
        if (!dev)
            continue;
        dev->raise = virtio_raise;
        dev->wake = virtio_wake;
        dev->lock = &m->lock;
        dev->owner = m;
    }
}

struct machine *machine_new(const struct machine_config *config, void *base, struct err *err)
{
    if (config->vcpus < 1 || config->vcpus > BOARD_VCPUS_MAX) {
        err_say(err, EINVAL, "%u vCPUs: a machine has 1 to %d", config->vcpus, BOARD_VCPUS_MAX);
        return NULL;
    }
    /* Mapped, not allocated: CPUs and log ring that are never used never cost a page. */
    struct machine *m =
        mmap(NULL, sizeof *m, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (m == MAP_FAILED) {
        err_set(err, errno, "get memory for the machine");
        return NULL;
    }
    m->config = *config;
    m->vm_fd = -1;
    for (unsigned i = 0; i < config->vcpus; i++) {
        m->vcpu[i].machine = m;
        m->vcpu[i].index = i;
        m->vcpu[i].fd = -1;
    }
    pthread_mutex_init(&m->lock, NULL);
    if (gmem_init(&m->gmem, base, config->mem_bytes, err) < 0 || disk_device_init(m, err) < 0) {
        machine_free(m);
        return NULL;
    }
    devices_init(m);
    board_init(m);
    return m;
}

void machine_free(struct machine *m)
{
    if (!m)
        return;
    machine_detach(m);
    if (m->config.disk)
        disk_destroy(&m->disk);
    gmem_destroy(&m->gmem);
    munmap(m, sizeof *m);
}

/* --- attaching: stages, each undone by machine_detach() --- */

/* Memory slots before anything that takes an eventfd: later each costs milliseconds. The split irqchip before
 * the first vCPU. */
static int create_vm(struct machine *m, struct err *err)
{
    m->vm_fd = kvm_vm_create(m->host.kvm_fd, err);
    if (m->vm_fd < 0)
        return m->vm_fd;
    int rc = kvm_tss_set(m->vm_fd, BOARD_TSS_GPA, err);
    uint32_t flags = m->host.log_dirty ? KVM_MEM_LOG_DIRTY_PAGES : 0;
    if (rc == 0 && m->host.log_dirty)
        rc = kvm_dirty_clear_by_hand(m->vm_fd, err);
    if (rc == 0)
        rc = kvm_slot_set(m->vm_fd, 0, 0, m->gmem.base, m->gmem.low, flags, err);
    if (rc == 0 && m->gmem.size > m->gmem.low)
        rc = kvm_slot_set(m->vm_fd, 1, GMEM_HIGH_BASE, m->gmem.base + m->gmem.low, m->gmem.size - m->gmem.low, flags,
                          err);
    if (rc == 0)
        rc = kvm_split_irqchip(m->vm_fd, IOAPIC_PINS, err);
    return rc;
}

static int create_vcpus(struct machine *m, struct err *err)
{
    int size = kvm_run_size(m->host.kvm_fd, err);
    if (size < 0)
        return size;
    m->run_size = (size_t)size;
    for (unsigned i = 0; i < m->config.vcpus; i++) {
        struct vcpu *v = &m->vcpu[i];
        v->fd = kvm_vcpu_create(m->vm_fd, i, err);
        if (v->fd < 0)
            return v->fd;
        int rc = kvm_run_map(v->fd, m->run_size, &v->run, err);
        if (rc < 0)
            return rc;
    }
    return 0;
}

static int attach_devices(struct machine *m, struct err *err)
{
    serial_attach(&m->serial, m->host.console_fd);
    int rc = vsock_attach(&m->vsock, m->host.loop, m->host.vsock_fd, err);
    if (rc == 0 && m->config.disk)
        rc = blk_attach(&m->blk, m->host.loop, &m->disk_backend, err);
    return rc;
}

static void on_wake(struct loop *loop);

int machine_attach(struct machine *m, const struct machine_host *host, const struct machine_hooks *hooks,
                   struct err *err)
{
    m->host = *host;
    m->hooks = *hooks;
    m->end_pending = m->end_told = m->doorbell_pending = m->stall_pending = m->stalled = false;
    atomic_store(&m->order, ORDER_PARK);
    m->host.loop->on_wake = on_wake;
    m->host.loop->owner = m;
    notify_init(m);
    m->phase = MACHINE_ATTACHED;
    int rc = vcpu_signal_init(err);
    if (rc == 0)
        rc = create_vm(m, err);
    if (rc == 0)
        rc = create_vcpus(m, err);
    if (rc == 0) {
        pthread_mutex_lock(&m->lock);
        rc = attach_devices(m, err);
        pthread_mutex_unlock(&m->lock);
    }
    if (rc < 0)
        machine_detach(m);
    return rc;
}

void machine_detach(struct machine *m)
{
    if (m->phase == MACHINE_PLAIN)
        return;
    vcpu_order_all(m, ORDER_END);
    for (unsigned i = 0; i < m->config.vcpus; i++)
        vcpu_join(&m->vcpu[i]);
    notify_destroy(m);
    pthread_mutex_lock(&m->lock);
    if (m->config.disk)
        blk_detach(&m->blk);
    vsock_detach(&m->vsock);
    serial_detach(&m->serial);
    pthread_mutex_unlock(&m->lock);
    for (unsigned i = 0; i < m->config.vcpus; i++) {
        struct vcpu *v = &m->vcpu[i];
        if (v->run)
            munmap(v->run, m->run_size);
        v->run = NULL;
        fd_close(&v->fd);
    }
    fd_close(&m->vm_fd);
    m->host.loop->on_wake = NULL;
    m->phase = MACHINE_PLAIN;
}

/* --- first instructions --- */

int machine_boot(struct machine *m, int kernel_fd, int initrd_fd, const char *cmdline, struct err *err)
{
    struct cpuid_host host;
    struct cpuid guest;
    struct boot_config config = {.kernel_fd = kernel_fd,
                                 .kernel_path = "the kernel",
                                 .initrd_fd = initrd_fd,
                                 .initrd_path = "the initrd",
                                 .cmdline = cmdline,
                                 .board = &m->board};
    struct boot_entry entry;
    int rc = boot_load(&m->gmem, &config, &entry, err);
    if (rc == 0)
        rc = vmgenid_write(&m->vmgenid, &m->gmem, err);
    if (rc == 0)
        rc = cpuid_host_read(m->host.kvm_fd, &host, err);
    if (rc == 0)
        rc = cpuid_build(&host, m->config.vcpus, &guest, err);
    for (unsigned i = 0; rc == 0 && i < m->config.vcpus; i++) {
        rc = vcpu_state_init(&m->vcpu[i].state, m->host.kvm_fd, m->vcpu[i].fd, &guest, i, err);
        if (rc == 0)
            rc = boot_vcpu_init(m->vcpu[i].fd, i ? NULL : &entry, err);
    }
    return rc;
}

/* The clock before any CPU runs, CPUs, then devices: what they raise again finds its LAPIC. */
int machine_restore(struct machine *m, struct err *err)
{
    int rc = arch_clock_restore(m->vm_fd, &m->clock, err);
    for (unsigned i = 0; rc == 0 && i < m->config.vcpus; i++) {
        rc = vcpu_state_restore(m->vcpu[i].fd, &m->vcpu[i].state, err);
        if (rc < 0)
            err_wrap(err, "restore vCPU %u", i);
    }
    if (rc < 0)
        return rc;
    pthread_mutex_lock(&m->lock);
    rc = vmgenid_renew(&m->vmgenid, &m->gmem, err);
    serial_resume(&m->serial);
    for (unsigned slot = 0; slot < MACHINE_SLOTS; slot++)
        if (machine_virtio(m, slot))
            virtio_resume(machine_virtio(m, slot));
    pthread_mutex_unlock(&m->lock);
    for (unsigned i = 0; rc == 0 && i < m->config.vcpus; i++)
        rc = kvm_kvmclock_ctrl(m->vcpu[i].fd, err);
    return rc;
}

/* --- running and parking --- */

int machine_start(struct machine *m, struct err *err)
{
    vcpu_order_all(m, ORDER_RUN);
    m->phase = MACHINE_RUNNING;
    for (unsigned i = 0; i < m->config.vcpus; i++) {
        int rc = vcpu_start(&m->vcpu[i], err);
        if (rc < 0)
            return rc;
    }
    machine_merge_layers(m);
    return 0;
}

void machine_merge_layers(struct machine *m)
{
    if (!m->config.disk)
        return;
    pthread_mutex_lock(&m->lock);
    blk_tended(&m->blk);
    pthread_mutex_unlock(&m->lock);
}

/* A guest may end while its CPUs are on their way to a stop. */
static int saves_a_guest(struct machine *m, struct err *err)
{
    pthread_mutex_lock(&m->lock);
    int rc = m->end_pending ? err_say(err, ECANCELED, "the guest is over: %s", m->end_text) : 0;
    pthread_mutex_unlock(&m->lock);
    return rc;
}

int machine_park(struct machine *m, bool save, struct err *err)
{
    m->park_saves = save;
    vcpu_order_all(m, ORDER_PARK);
    vcpu_wait_parked(m);
    m->phase = MACHINE_PARKED;
    int rc = save ? saves_a_guest(m, err) : 0;
    for (unsigned i = 0; save && rc == 0 && i < m->config.vcpus; i++) {
        struct vcpu *v = &m->vcpu[i];
        if (v->err.code)
            rc = err_say(err, v->err.code, "save vCPU %u: %s", i, v->err.text);
    }
    if (save && rc == 0)
        rc = arch_clock_save(m->vm_fd, &m->clock, err);
    return rc;
}

int machine_resume(struct machine *m, struct err *err)
{
    int rc = 0;
    for (unsigned i = 0; rc == 0 && i < m->config.vcpus; i++)
        rc = kvm_kvmclock_ctrl(m->vcpu[i].fd, err);
    bool retry = m->stalled;
    m->stalled = false;
    m->phase = MACHINE_RUNNING;
    vcpu_order_all(m, ORDER_RUN);
    if (retry) {
        pthread_mutex_lock(&m->lock);
        blk_retry(&m->blk);
        pthread_mutex_unlock(&m->lock);
    }
    return rc;
}

/* --- the loop's side of what vCPU threads and devices noticed --- */

static void tell_stall(struct machine *m)
{
    struct err err = {0}, why = m->stall_err;
    if (m->phase == MACHINE_RUNNING)
        machine_park(m, false, &err);
    m->stalled = true;
    if (m->hooks.stalled)
        m->hooks.stalled(m, &why);
}

static void on_wake(struct loop *loop)
{
    struct machine *m = loop->owner;
    pthread_mutex_lock(&m->lock);
    if (!m->end_pending)
        notify_serve(m);
    bool bell = m->doorbell_pending, stall = m->stall_pending, end = m->end_pending && !m->end_told;
    uint32_t port = m->doorbell_port;
    m->doorbell_pending = m->stall_pending = false;
    m->end_told |= end;
    pthread_mutex_unlock(&m->lock);

    if (bell && m->hooks.doorbell)
        m->hooks.doorbell(m, port);
    if (stall && !end)
        tell_stall(m);
    if (!end)
        return;
    m->phase = MACHINE_ENDED;
    if (m->hooks.ended)
        m->hooks.ended(m, m->end_why, m->end_text);
}

int machine_check_host(const struct machine *m, int kvm_fd, struct err *err)
{
    return vcpu_state_check_host(&m->vcpu[0].state, kvm_fd, err);
}
