/* msr.h: which model-specific registers are a vCPU's state.
 *
 * Theory of operation. KVM lists the registers it can save; what is on that list *and* on the allow-list of
 * msr.c is state, and so are those that CPUID implies and KVM does not list (the MTRRs). Not state: registers
 * kept elsewhere (EFER and the APIC base in SREGS), those of features no guest is shown, and write-only ones.
 * The list is made once for a VM, when its parent boots, and goes with its state ever after.
 *
 * Invariant: TSC is first and TSC_DEADLINE last, since a deadline means nothing before the counter is set. */
#ifndef FORKD_ARCH_MSR_H
#define FORKD_ARCH_MSR_H

#include "base/err.h"

#include <linux/kvm.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { MSR_STATE_MAX = 128 };

enum {
    MSR_TSC = 0x10,
    MSR_TSC_DEADLINE = 0x6e0,
    MSR_MTRR_DEF_TYPE = 0x2ff,
};

/* The layout of struct kvm_msrs with room. */
struct msr_state {
    uint32_t nmsrs, pad;
    struct kvm_msr_entry entry[MSR_STATE_MAX];
};

/* Fills in the indices for a vCPU whose CPUID is set; the values are zero. */
int msr_state_init(struct msr_state *msrs, int kvm_fd, int vcpu_fd, struct err *err);

/* Whether the register may be in a state that comes from a file. */
bool msr_is_state(uint32_t index);

/* All in one call; one that KVM refuses is an error that names it. */
int msr_state_get(int vcpu_fd, struct msr_state *msrs, struct err *err);
int msr_state_set(int vcpu_fd, const struct msr_state *msrs, struct err *err);

/* "IA32_SPEC_CTRL (0x48)", or the number alone. */
const char *msr_name(uint32_t index, char *buf, size_t cap);

#endif
