/* msr.c: see msr.h.
 *
 * SECCOMP: ioctl[a1 in KVM_GET_MSR_INDEX_LIST KVM_GET_MSRS KVM_SET_MSRS] - a vCPU is saved and restored */
#include "arch/msr.h"

#include "base/own.h"

#include <assert.h>
#include <string.h>
#include <sys/ioctl.h>

static_assert(offsetof(struct msr_state, entry) == offsetof(struct kvm_msrs, entries), "the layout of kvm_msrs");

struct msr_range {
    uint32_t first, last;
    bool listed; /* KVM names it if it has it; otherwise CPUID implies it */
    const char *name;
};

/* Intel SDM volume 4; AMD APM volume 2, appendix A; Documentation/virt/kvm/x86/msr.rst. */
static const struct msr_range ranges[] = {
    {0x10, 0x10, true, "IA32_TIME_STAMP_COUNTER"},
    {0x11, 0x12, true, "MSR_KVM_*_OLD"},
    {0x3a, 0x3a, true, "IA32_FEATURE_CONTROL"},
    {0x3b, 0x3b, true, "IA32_TSC_ADJUST"},
    {0x48, 0x48, true, "IA32_SPEC_CTRL"},
    {0x8b, 0x8b, true, "IA32_BIOS_SIGN_ID"},
    {0xce, 0xce, true, "MSR_PLATFORM_INFO"},
    {0x10a, 0x10a, true, "IA32_ARCH_CAPABILITIES"},
    {0x122, 0x122, true, "IA32_TSX_CTRL"},
    {0x140, 0x140, true, "MSR_MISC_FEATURE_ENABLES"},
    {0x174, 0x176, true, "IA32_SYSENTER_*"},
    {0x17a, 0x17b, true, "IA32_MCG_*"},
    {0x1a0, 0x1a0, true, "IA32_MISC_ENABLE"},
    {0x1d9, 0x1d9, true, "IA32_DEBUGCTL"},
    {0x1fc, 0x1fc, true, "MSR_POWER_CTL"},
    {0x200, 0x20f, false, "IA32_MTRR_PHYS*"},
    {0x250, 0x250, false, "IA32_MTRR_FIX64K"},
    {0x258, 0x259, false, "IA32_MTRR_FIX16K"},
    {0x268, 0x26f, false, "IA32_MTRR_FIX4K"},
    {0x277, 0x277, true, "IA32_PAT"},
    {0x2ff, 0x2ff, false, "IA32_MTRR_DEF_TYPE"},
    {0x6e0, 0x6e0, true, "IA32_TSC_DEADLINE"},
    {0xda0, 0xda0, true, "IA32_XSS"},
    {0x4b564d00, 0x4b564dff, true, "MSR_KVM_*"},
    {0xc0000081, 0xc0000081, true, "STAR"},
    {0xc0000082, 0xc0000082, true, "LSTAR"},
    {0xc0000083, 0xc0000083, true, "CSTAR"},
    {0xc0000084, 0xc0000084, true, "SYSCALL_MASK"},
    {0xc0000102, 0xc0000102, true, "KERNEL_GS_BASE"},
    {0xc0000103, 0xc0000103, true, "TSC_AUX"},
    {0xc0010015, 0xc0010015, true, "MSR_K7_HWCR"},
    {0xc001011f, 0xc001011f, true, "MSR_AMD64_VIRT_SPEC_CTRL"},
    {0xc0010140, 0xc0010141, true, "MSR_AMD64_OSVW_*"},
};

enum { RANGES = sizeof ranges / sizeof ranges[0] };

static const struct msr_range *range_find(uint32_t index)
{
    for (size_t i = 0; i < RANGES; i++) {
        if (index >= ranges[i].first && index <= ranges[i].last)
            return &ranges[i];
    }
    return NULL;
}

bool msr_is_state(uint32_t index)
{
    return range_find(index) != NULL;
}

const char *msr_name(uint32_t index, char *buf, size_t cap)
{
    const struct msr_range *range = range_find(index);
    if (range)
        snprintf(buf, cap, "%s (0x%x)", range->name, index);
    else
        snprintf(buf, cap, "0x%x", index);
    return buf;
}

static int list_read(int kvm_fd, struct kvm_msr_list **list, struct err *err)
{
    struct kvm_msr_list count = {0};
    if (ioctl(kvm_fd, KVM_GET_MSR_INDEX_LIST, &count) == 0) {
        *list = NULL;
        return 0;
    }
    if (errno != E2BIG)
        return err_set(err, errno, "KVM_GET_MSR_INDEX_LIST");
    own_free struct kvm_msr_list *full = calloc(1, sizeof count + count.nmsrs * sizeof full->indices[0]);
    if (!full)
        return err_set(err, ENOMEM, "read the list of MSRs");
    full->nmsrs = count.nmsrs;
    if (ioctl(kvm_fd, KVM_GET_MSR_INDEX_LIST, full) < 0)
        return err_set(err, errno, "KVM_GET_MSR_INDEX_LIST");
    *list = steal_ptr(full);
    return 0;
}

/* Adds a register if this vCPU has it: KVM lists some that depend on CPUID. */
static int add_readable(struct msr_state *msrs, int vcpu_fd, uint32_t index, struct err *err)
{
    struct msr_state one = {.nmsrs = 1, .entry = {{.index = index}}};
    if (ioctl(vcpu_fd, KVM_GET_MSRS, &one) != 1)
        return 0;
    if (msrs->nmsrs == MSR_STATE_MAX)
        return err_say(err, ENOTSUP, "KVM has more than %d MSRs that are state", MSR_STATE_MAX);
    msrs->entry[msrs->nmsrs++].index = index;
    return 0;
}

static int add_listed(struct msr_state *msrs, const struct kvm_msr_list *list, int vcpu_fd, struct err *err)
{
    int rc = 0;
    for (uint32_t i = 0; list && i < list->nmsrs && rc == 0; i++) {
        uint32_t index = list->indices[i];
        const struct msr_range *range = range_find(index);
        if (range && range->listed && index != MSR_TSC && index != MSR_TSC_DEADLINE)
            rc = add_readable(msrs, vcpu_fd, index, err);
    }
    return rc;
}

static int add_implied(struct msr_state *msrs, int vcpu_fd, struct err *err)
{
    int rc = 0;
    for (size_t i = 0; i < RANGES; i++) {
        for (uint32_t index = ranges[i].first; !ranges[i].listed && index <= ranges[i].last && rc == 0; index++)
            rc = add_readable(msrs, vcpu_fd, index, err);
    }
    return rc;
}

int msr_state_init(struct msr_state *msrs, int kvm_fd, int vcpu_fd, struct err *err)
{
    memset(msrs, 0, sizeof *msrs);
    own_free struct kvm_msr_list *list = NULL;
    int rc = list_read(kvm_fd, &list, err);
    if (rc == 0)
        rc = add_readable(msrs, vcpu_fd, MSR_TSC, err);
    if (rc == 0)
        rc = add_listed(msrs, list, vcpu_fd, err);
    if (rc == 0)
        rc = add_implied(msrs, vcpu_fd, err);
    if (rc == 0)
        rc = add_readable(msrs, vcpu_fd, MSR_TSC_DEADLINE, err);
    return rc;
}

/* KVM stops at the first register it refuses and returns how many it did. */
static int refused(int done, const struct msr_state *msrs, const char *what, struct err *err)
{
    char name[64];
    if (done < 0)
        return err_set(err, errno, "%s %u MSRs", what, msrs->nmsrs);
    return err_say(err, EIO, "KVM refuses to %s the MSR %s", what,
                   msr_name(msrs->entry[done].index, name, sizeof name));
}

int msr_state_get(int vcpu_fd, struct msr_state *msrs, struct err *err)
{
    int done = ioctl(vcpu_fd, KVM_GET_MSRS, msrs);
    return done >= 0 && (uint32_t)done == msrs->nmsrs ? 0 : refused(done, msrs, "read", err);
}

int msr_state_set(int vcpu_fd, const struct msr_state *msrs, struct err *err)
{
    int done = ioctl(vcpu_fd, KVM_SET_MSRS, msrs);
    return done >= 0 && (uint32_t)done == msrs->nmsrs ? 0 : refused(done, msrs, "set", err);
}
