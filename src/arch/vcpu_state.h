/* vcpu_state.h: everything a vCPU is, taken out of KVM and put back, in the one order that loses nothing.
 *
 * Theory of operation. `struct vcpu_state` is plain memory of fixed size without pointers: a fork inherits it,
 * a file holds it packed. A parent that boots calls vcpu_state_init() once for each vCPU, which settles what
 * its state consists of; each save refills it; forks, and what is loaded from a file, restore it as it is.
 *
 * The order (each line has cost somebody a lost interrupt):
 *   save     complete the last exit first (KVM_RUN with immediate_exit: an IN is unfinished until then);
 *            MP_STATE before all else: reading it lets KVM act on a pending INIT or SIPI, which changes the
 *            rest; VCPU_EVENTS last: the other reads may still turn what is pending into what is injected.
 *   restore  CPUID first, since it decides which registers exist; SREGS, which holds the APIC base, before
 *            LAPIC; LAPIC before the MSRs, and TSC before TSC_DEADLINE: setting the LAPIC stops its timer, so
 *            a deadline set before is silently gone; VCPU_EVENTS last, since setting registers drops events.
 *   A deadline that has passed reads as 0 while its interrupt may not have reached the LAPIC's registers yet.
 *   So a deadline of 0 in TSC-deadline mode becomes the saved TSC: the timer fires at once, and a guest that
 *   had none running sees one interrupt more, where it would otherwise sleep for ever.
 *
 * The caller does the machine's part: devices before this, clock and IOAPIC after; restored, the clock before
 * any vCPU runs and KVM_KVMCLOCK_CTRL just before.
 *
 * Threads: save and restore on the vCPU's own thread, or while it has none. */
#ifndef FORKD_ARCH_VCPU_STATE_H
#define FORKD_ARCH_VCPU_STATE_H

#include "arch/cpuid.h"
#include "arch/msr.h"
#include "base/err.h"
#include "base/pack.h"

#include <linux/kvm.h>
#include <stdint.h>

enum {
    /* What KVM moves with KVM_GET_XSAVE2 is 4096 bytes as long as no dynamic feature (AMX) was asked for; the
     * user components that guests are shown end at 2696. */
    VCPU_XSAVE_MAX = 8192,
    /* A packed state is at most this long: the sum of the fields below. */
    VCPU_STATE_PACKED_MAX = 24 << 10,
};

struct vcpu_state {
    struct cpuid cpuid;
    struct msr_state msrs;
    uint32_t tsc_khz;    /* the counter's frequency as the guest knows it; 0 if KVM does not tell */
    uint32_t xsave_size; /* bytes of xsave that are used */
    struct kvm_mp_state mp_state;
    struct kvm_regs regs;
    struct kvm_sregs sregs;
    struct kvm_xcrs xcrs;
    struct kvm_debugregs debugregs;
    struct kvm_lapic_state lapic;
    struct kvm_vcpu_events events;
    uint8_t xsave[VCPU_XSAVE_MAX] __attribute__((aligned(64)));
};

/* For a vCPU that boots: gives it `cpuid` as the vCPU of this APIC id, and settles what its state consists of.
 * The set is kept as it was given, and not read back: KVM works out anew what changes with CR4 and XCR0, and a
 * KVM that cannot intercept CPUID (kvm_pvm) reports features there that it does not support. */
int vcpu_state_init(struct vcpu_state *state, int kvm_fd, int vcpu_fd, const struct cpuid *cpuid, unsigned apic_id,
                    struct err *err);

int vcpu_state_save(int vcpu_fd, struct vcpu_state *state, struct err *err);

/* Into a vCPU that has not run, the boot CPU before all others. The state is not touched, so that a fork keeps
 * sharing its page. */
int vcpu_state_restore(int vcpu_fd, const struct vcpu_state *state, struct err *err);

/* Whether this host can run a state that was made elsewhere; the error names what it lacks. */
int vcpu_state_check_host(const struct vcpu_state *state, int kvm_fd, struct err *err);

/* For the state file. What is unpacked may be hostile: counts, sizes, registers and features are checked, and
 * the state is not to be used after an error. */
void vcpu_state_pack(const struct vcpu_state *state, struct pack *p);
int vcpu_state_unpack(struct vcpu_state *state, struct unpack *u, struct err *err);

/* The VM's clock (kvmclock's zero). A restored clock goes on from where it was saved: the time between does
 * not exist for the guest. */
int arch_clock_save(int vm_fd, struct kvm_clock_data *clock, struct err *err);
int arch_clock_restore(int vm_fd, const struct kvm_clock_data *clock, struct err *err);

#endif
