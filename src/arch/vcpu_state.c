/* vcpu_state.c: see vcpu_state.h. The packed form is in vcpu_pack.c.
 *
 * SECCOMP: ioctl[a1 in KVM_GET_MP_STATE KVM_GET_REGS KVM_GET_SREGS KVM_GET_XSAVE KVM_GET_XSAVE2] - a vCPU is saved
 * SECCOMP: ioctl[a1 in KVM_GET_XCRS KVM_GET_DEBUGREGS KVM_GET_LAPIC KVM_GET_VCPU_EVENTS] - a vCPU is saved
 * SECCOMP: ioctl[a1 in KVM_SET_MP_STATE KVM_SET_REGS KVM_SET_SREGS KVM_SET_XSAVE KVM_SET_XCRS] - a vCPU is restored
 * SECCOMP: ioctl[a1 in KVM_SET_DEBUGREGS KVM_SET_LAPIC KVM_SET_VCPU_EVENTS] - a vCPU is restored
 * SECCOMP: ioctl[a1 in KVM_GET_TSC_KHZ KVM_SET_TSC_KHZ] - its time stamp counter goes on at its own speed
 */
#include "arch/vcpu_state.h"

#include "sys/kvm.h"

#include <errno.h>
#include <string.h>
#include <sys/ioctl.h>

/* LAPIC registers lie 16 bytes apart: LVTT, whose bits 17-18 are the timer's mode. */
enum { LAPIC_LVTT = 0x320, LVTT_MODE_SHIFT = 17, LVTT_TSC_DEADLINE = 2 };

static int xsave_size(int kvm_fd, struct err *err)
{
    int size = ioctl(kvm_fd, KVM_CHECK_EXTENSION, KVM_CAP_XSAVE2);
    if (size <= 0)
        return (int)sizeof(struct kvm_xsave);
    if (size > VCPU_XSAVE_MAX)
        return err_say(err, ENOTSUP, "KVM's XSAVE state is %d bytes, more than %d", size, VCPU_XSAVE_MAX);
    return size;
}

static uint32_t tsc_khz(int vcpu_fd)
{
    int khz = ioctl(vcpu_fd, KVM_GET_TSC_KHZ, 0);
    return khz > 0 ? (uint32_t)khz : 0;
}

int vcpu_state_init(struct vcpu_state *state, int kvm_fd, int vcpu_fd, const struct cpuid *cpuid, unsigned apic_id,
                    struct err *err)
{
    memset(state, 0, sizeof *state);
    int size = xsave_size(kvm_fd, err);
    if (size < 0)
        return size;
    state->xsave_size = (uint32_t)size;
    /* A host without XSAVE (the emulated one of the lab) has no XCRs either. */
    state->xcrs.nr_xcrs = ioctl(kvm_fd, KVM_CHECK_EXTENSION, KVM_CAP_XCRS) > 0;
    state->cpuid = *cpuid;
    cpuid_for_vcpu(&state->cpuid, apic_id);
    int rc = cpuid_set(vcpu_fd, &state->cpuid, err);
    return rc < 0 ? rc : msr_state_init(&state->msrs, kvm_fd, vcpu_fd, err);
}

static bool timer_is_tsc_deadline(const struct kvm_lapic_state *lapic)
{
    uint32_t lvtt;
    memcpy(&lvtt, lapic->regs + LAPIC_LVTT, sizeof lvtt);
    return (lvtt >> LVTT_MODE_SHIFT & 3) == LVTT_TSC_DEADLINE;
}

static void deadline_fix(struct vcpu_state *state)
{
    if (!state->msrs.nmsrs || !timer_is_tsc_deadline(&state->lapic))
        return;
    struct kvm_msr_entry *tsc = &state->msrs.entry[0], *deadline = &state->msrs.entry[state->msrs.nmsrs - 1];
    if (tsc->index == MSR_TSC && deadline->index == MSR_TSC_DEADLINE && deadline->data == 0)
        deadline->data = tsc->data;
}

struct step {
    unsigned long request; /* 0: not on this host */
    void *data;
    const char *name;
};

static int steps_run(int vcpu_fd, const struct step *steps, size_t count, struct err *err)
{
    for (size_t i = 0; i < count; i++) {
        if (steps[i].request && ioctl(vcpu_fd, steps[i].request, steps[i].data) < 0)
            return err_set(err, errno, "KVM_%s", steps[i].name);
    }
    return 0;
}

int vcpu_state_save(int vcpu_fd, struct vcpu_state *state, struct err *err)
{
    const struct step before_msrs[] = {
        {KVM_GET_MP_STATE, &state->mp_state, "GET_MP_STATE"},
        {KVM_GET_REGS, &state->regs, "GET_REGS"},
        {KVM_GET_SREGS, &state->sregs, "GET_SREGS"},
        {state->xsave_size > sizeof(struct kvm_xsave) ? KVM_GET_XSAVE2 : KVM_GET_XSAVE, state->xsave, "GET_XSAVE"},
        {state->xcrs.nr_xcrs ? KVM_GET_XCRS : 0, &state->xcrs, "GET_XCRS"},
        {KVM_GET_DEBUGREGS, &state->debugregs, "GET_DEBUGREGS"},
        {KVM_GET_LAPIC, &state->lapic, "GET_LAPIC"},
    };
    int rc = steps_run(vcpu_fd, before_msrs, sizeof before_msrs / sizeof before_msrs[0], err);
    if (rc == 0)
        rc = msr_state_get(vcpu_fd, &state->msrs, err);
    if (rc < 0)
        return rc;
    deadline_fix(state);
    state->tsc_khz = tsc_khz(vcpu_fd);
    if (ioctl(vcpu_fd, KVM_GET_VCPU_EVENTS, &state->events) < 0)
        return err_set(err, errno, "KVM_GET_VCPU_EVENTS");
    return 0;
}

/* Where this host's counter runs at another speed, KVM scales it: before TSC itself is set. */
static int tsc_khz_restore(int vcpu_fd, uint32_t khz, struct err *err)
{
    uint32_t here = tsc_khz(vcpu_fd);
    if (!khz || !here || khz == here)
        return 0;
    if (ioctl(vcpu_fd, KVM_SET_TSC_KHZ, (unsigned long)khz) < 0)
        return err_set(err, errno, "run the guest's time stamp counter at %u kHz on a host of %u kHz", khz, here);
    return 0;
}

/* KVM up to 6.6 takes a counter within a second of what it expects for an attempt to synchronise CPUs, and leaves
 * its own: for the first CPU of a VM just made that is any guest younger than a second, whose counter would go
 * back. So the first CPU, which is restored before the others, is first sent far away; the others, written soon
 * after, are rightly taken to be in step with it. */
static int tsc_send_away(int vcpu_fd, const struct vcpu_state *state, struct err *err)
{
    enum { APIC_BASE_BSP = 1 << 8 };
    const struct msr_state *msrs = &state->msrs;
    if (!msrs->nmsrs || msrs->entry[0].index != MSR_TSC || !(state->sregs.apic_base & APIC_BASE_BSP))
        return 0;
    const struct msr_state far = {.nmsrs = 1,
                                  .entry = {{.index = MSR_TSC, .data = msrs->entry[0].data ^ UINT64_C(1) << 62}}};
    return msr_state_set(vcpu_fd, &far, err);
}

int vcpu_state_restore(int vcpu_fd, const struct vcpu_state *state, struct err *err)
{
    struct vcpu_state *s = (struct vcpu_state *)state; /* the SET ioctls only read */
    const struct step before_msrs[] = {
        {KVM_SET_MP_STATE, &s->mp_state, "SET_MP_STATE"},
        {KVM_SET_REGS, &s->regs, "SET_REGS"},
        {KVM_SET_SREGS, &s->sregs, "SET_SREGS"},
        {KVM_SET_XSAVE, s->xsave, "SET_XSAVE"},
        {s->xcrs.nr_xcrs ? KVM_SET_XCRS : 0, &s->xcrs, "SET_XCRS"},
        {KVM_SET_DEBUGREGS, &s->debugregs, "SET_DEBUGREGS"},
        {KVM_SET_LAPIC, &s->lapic, "SET_LAPIC"},
    };
    int rc = cpuid_set(vcpu_fd, &state->cpuid, err);
    if (rc == 0)
        rc = steps_run(vcpu_fd, before_msrs, sizeof before_msrs / sizeof before_msrs[0], err);
    if (rc == 0)
        rc = tsc_khz_restore(vcpu_fd, state->tsc_khz, err);
    if (rc == 0)
        rc = tsc_send_away(vcpu_fd, state, err);
    if (rc == 0)
        rc = msr_state_set(vcpu_fd, &state->msrs, err);
    if (rc < 0)
        return rc;
    if (ioctl(vcpu_fd, KVM_SET_VCPU_EVENTS, &s->events) < 0)
        return err_set(err, errno, "KVM_SET_VCPU_EVENTS");
    return 0;
}

int vcpu_state_check_host(const struct vcpu_state *state, int kvm_fd, struct err *err)
{
    struct cpuid_host host;
    int size = xsave_size(kvm_fd, err);
    if (size < 0)
        return size;
    if (state->xsave_size != (uint32_t)size)
        return err_say(err, ENOTSUP, "the state has %u bytes of XSAVE state, this host's KVM %d", state->xsave_size,
                       size);
    int rc = cpuid_host_read(kvm_fd, &host, err);
    return rc < 0 ? rc : cpuid_check_host(&state->cpuid, &host, err);
}

int arch_clock_save(int vm_fd, struct kvm_clock_data *clock, struct err *err)
{
    memset(clock, 0, sizeof *clock);
    return kvm_clock_get(vm_fd, clock, err);
}

int arch_clock_restore(int vm_fd, const struct kvm_clock_data *clock, struct err *err)
{
    /* Without KVM_CLOCK_REALTIME: the guest's monotonic time stood still, its wall clock is stepped later. */
    struct kvm_clock_data only = {.clock = clock->clock};
    return kvm_clock_set(vm_fd, &only, err);
}
