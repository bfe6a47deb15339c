/* kvm.c: see kvm.h.
 *
 * SECCOMP: ioctl[a1 in KVM_GET_API_VERSION KVM_CHECK_EXTENSION KVM_CREATE_VM] - every sandbox makes a VM of its own
 * SECCOMP: ioctl[a1 in KVM_SET_TSS_ADDR KVM_SET_USER_MEMORY_REGION KVM_ENABLE_CAP] - the VM's memory and irqchip
 * SECCOMP: ioctl[a1 in KVM_CREATE_VCPU KVM_GET_VCPU_MMAP_SIZE] - its CPUs
 * SECCOMP: ioctl[a1 in KVM_SIGNAL_MSI KVM_IOEVENTFD] - interrupts and doorbells
 * SECCOMP: ioctl[a1 in KVM_GET_DIRTY_LOG KVM_CLEAR_DIRTY_LOG] - what the guest wrote, for branches
 * SECCOMP: ioctl[a1 in KVM_GET_CLOCK KVM_SET_CLOCK KVM_KVMCLOCK_CTRL] - the guest's clock stands still while it is
 * saved
 */
#include "sys/kvm.h"

#include "base/own.h"

#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

/* What the VMM relies on, and what a person would look for in a kernel's change log. */
static const struct {
    int cap;
    const char *name;
} needed[] = {
    {KVM_CAP_USER_MEMORY, "KVM_CAP_USER_MEMORY"},
    {KVM_CAP_SET_TSS_ADDR, "KVM_CAP_SET_TSS_ADDR"},
    {KVM_CAP_EXT_CPUID, "KVM_CAP_EXT_CPUID"},
    {KVM_CAP_SPLIT_IRQCHIP, "KVM_CAP_SPLIT_IRQCHIP"},
    {KVM_CAP_IOEVENTFD, "KVM_CAP_IOEVENTFD"},
    {KVM_CAP_IRQFD, "KVM_CAP_IRQFD"},
    {KVM_CAP_SIGNAL_MSI, "KVM_CAP_SIGNAL_MSI"},
    {KVM_CAP_IMMEDIATE_EXIT, "KVM_CAP_IMMEDIATE_EXIT"},
    {KVM_CAP_MP_STATE, "KVM_CAP_MP_STATE"},
    {KVM_CAP_VCPU_EVENTS, "KVM_CAP_VCPU_EVENTS"},
    {KVM_CAP_DEBUGREGS, "KVM_CAP_DEBUGREGS"},
    {KVM_CAP_XSAVE, "KVM_CAP_XSAVE"},
    {KVM_CAP_TSC_DEADLINE_TIMER, "KVM_CAP_TSC_DEADLINE_TIMER"},
    {KVM_CAP_GET_TSC_KHZ, "KVM_CAP_GET_TSC_KHZ"},
    {KVM_CAP_ADJUST_CLOCK, "KVM_CAP_ADJUST_CLOCK"},
    {KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, "KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2"},
};

enum { KVM_API = 12 };

int kvm_check(int kvm_fd, struct err *err)
{
    int version = ioctl(kvm_fd, KVM_GET_API_VERSION, 0);
    if (version < 0)
        return err_set(err, errno, "/dev/kvm is not KVM: ask for its version");
    if (version != KVM_API)
        return err_say(err, ENOTSUP, "/dev/kvm speaks version %d of its interface, %d is needed", version, KVM_API);
    for (size_t i = 0; i < sizeof needed / sizeof needed[0]; i++) {
        if (ioctl(kvm_fd, KVM_CHECK_EXTENSION, needed[i].cap) <= 0)
            return err_say(err, ENOTSUP, "this kernel's KVM lacks %s", needed[i].name);
    }
    return 0;
}

static int open_failure(int code, struct err *err)
{
    switch (code) {
    case ENOENT:
        return err_say(err, code,
                       "/dev/kvm is missing: load the kvm_intel or kvm_amd module, or enable virtualisation in the "
                       "firmware or the outer host");
    case EACCES:
    case EPERM:
        return err_say(err, code, "no permission on /dev/kvm: join the group that owns it (usually kvm)");
    case ENODEV:
    case ENXIO:
        return err_say(err, code, "/dev/kvm has no driver behind it: load the kvm_intel or kvm_amd module");
    default:
        return err_set(err, code, "open /dev/kvm");
    }
}

int kvm_open(struct err *err)
{
    own_fd int fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);
    if (fd < 0)
        return open_failure(errno, err);
    int rc = kvm_check(fd, err);
    return rc < 0 ? rc : steal_fd(&fd);
}

int kvm_vm_create(int kvm_fd, struct err *err)
{
    int fd;
    do
        fd = ioctl(kvm_fd, KVM_CREATE_VM, 0);
    while (fd < 0 && errno == EINTR);
    return fd < 0 ? err_set(err, errno, "KVM_CREATE_VM") : fd;
}

int kvm_tss_set(int vm_fd, uint64_t gpa, struct err *err)
{
    return ioctl(vm_fd, KVM_SET_TSS_ADDR, gpa) < 0 ? err_set(err, errno, "KVM_SET_TSS_ADDR") : 0;
}

int kvm_slot_set(int vm_fd, uint32_t slot, uint64_t gpa, const void *host, uint64_t size, uint32_t flags,
                 struct err *err)
{
    struct kvm_userspace_memory_region region = {
        .slot = slot, .flags = flags, .guest_phys_addr = gpa, .memory_size = size, .userspace_addr = (uintptr_t)host};
    if (ioctl(vm_fd, KVM_SET_USER_MEMORY_REGION, &region) < 0)
        return err_set(err, errno, "give the guest %llu MiB of memory at 0x%llx", (unsigned long long)(size >> 20),
                       (unsigned long long)gpa);
    return 0;
}

int kvm_split_irqchip(int vm_fd, unsigned pins, struct err *err)
{
    struct kvm_enable_cap cap = {.cap = KVM_CAP_SPLIT_IRQCHIP, .args = {pins}};
    return ioctl(vm_fd, KVM_ENABLE_CAP, &cap) < 0 ? err_set(err, errno, "KVM_CAP_SPLIT_IRQCHIP") : 0;
}

int kvm_vcpu_create(int vm_fd, unsigned id, struct err *err)
{
    int fd = ioctl(vm_fd, KVM_CREATE_VCPU, (unsigned long)id);
    return fd < 0 ? err_set(err, errno, "KVM_CREATE_VCPU %u", id) : fd;
}

int kvm_run_size(int kvm_fd, struct err *err)
{
    int size = ioctl(kvm_fd, KVM_GET_VCPU_MMAP_SIZE, 0);
    if (size < 0)
        return err_set(err, errno, "KVM_GET_VCPU_MMAP_SIZE");
    if ((size_t)size < sizeof(struct kvm_run))
        return err_say(err, ENOTSUP, "KVM shares only %d bytes with a vCPU", size);
    return size;
}

int kvm_run_map(int vcpu_fd, size_t size, struct kvm_run **run, struct err *err)
{
    void *map = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu_fd, 0);
    if (map == MAP_FAILED)
        return err_set(err, errno, "map a vCPU's shared area");
    if (madvise(map, size, MADV_DONTFORK) < 0) {
        int code = errno;
        munmap(map, size);
        return err_set(err, code, "keep a vCPU's shared area from forks");
    }
    *run = map;
    return 0;
}

int kvm_msi_signal(int vm_fd, uint64_t address, uint32_t data, struct err *err)
{
    struct kvm_msi msi = {.address_lo = (uint32_t)address, .address_hi = (uint32_t)(address >> 32), .data = data};
    return ioctl(vm_fd, KVM_SIGNAL_MSI, &msi) < 0 ? err_set(err, errno, "KVM_SIGNAL_MSI") : 0;
}

int kvm_ioeventfd_add(int vm_fd, uint64_t gpa, int event_fd, bool match, uint32_t value, struct err *err)
{
    struct kvm_ioeventfd io = {
        .addr = gpa, .len = 4, .fd = event_fd, .datamatch = value, .flags = match ? KVM_IOEVENTFD_FLAG_DATAMATCH : 0};
    return ioctl(vm_fd, KVM_IOEVENTFD, &io) < 0 ? err_set(err, errno, "KVM_IOEVENTFD") : 0;
}

int kvm_dirty_clear_by_hand(int vm_fd, struct err *err)
{
    struct kvm_enable_cap cap = {.cap = KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2,
                                 .args = {KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE}};
    return ioctl(vm_fd, KVM_ENABLE_CAP, &cap) < 0 ? err_set(err, errno, "KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2") : 0;
}

int kvm_dirty_get(int vm_fd, uint32_t slot, void *bitmap, struct err *err)
{
    struct kvm_dirty_log log = {.slot = slot, .dirty_bitmap = bitmap};
    return ioctl(vm_fd, KVM_GET_DIRTY_LOG, &log) < 0 ? err_set(err, errno, "KVM_GET_DIRTY_LOG of slot %u", slot) : 0;
}

int kvm_dirty_clear(int vm_fd, uint32_t slot, uint64_t first, uint32_t pages, const void *bitmap, struct err *err)
{
    struct kvm_clear_dirty_log log = {
        .slot = slot, .first_page = first, .num_pages = pages, .dirty_bitmap = (void *)bitmap};
    return ioctl(vm_fd, KVM_CLEAR_DIRTY_LOG, &log) < 0 ? err_set(err, errno, "KVM_CLEAR_DIRTY_LOG of slot %u", slot)
                                                       : 0;
}

int kvm_clock_get(int vm_fd, struct kvm_clock_data *clock, struct err *err)
{
    return ioctl(vm_fd, KVM_GET_CLOCK, clock) < 0 ? err_set(err, errno, "KVM_GET_CLOCK") : 0;
}

int kvm_clock_set(int vm_fd, const struct kvm_clock_data *clock, struct err *err)
{
    return ioctl(vm_fd, KVM_SET_CLOCK, clock) < 0 ? err_set(err, errno, "KVM_SET_CLOCK") : 0;
}

int kvm_kvmclock_ctrl(int vcpu_fd, struct err *err)
{
    if (ioctl(vcpu_fd, KVM_KVMCLOCK_CTRL, 0) < 0 && errno != EINVAL)
        return err_set(err, errno, "KVM_KVMCLOCK_CTRL");
    return 0;
}
