/* cpuid.h: what the guest's CPUs say they are.
 *
 * Theory of operation. The guest sees a feature only if it stands in the list of cpuid_features.inc *and* this
 * host's KVM supports it; a leaf that is not dealt with here reads as zero. So a host newer than this list
 * never shows a guest something whose state nobody saves. Left out on purpose, since their state is saved by
 * halves or means nothing elsewhere: nested virtualisation, CET, performance counters, AMX, MPX, processor
 * trace, SGX, and KVM's asynchronous page faults (their tokens outlive the VM they came from).
 *
 * The set is made once, when a parent boots; it is part of every state made from it. Loading a state asks
 * cpuid_check_host() whether this host has what the set promises.
 *
 * Invariants.
 * 1. All vCPUs of a VM have the same features; only APIC ids differ (cpuid_for_vcpu()).
 * 2. The XSAVE leaf names the components of allowed features only, and no supervisor component. */
#ifndef FORKD_ARCH_CPUID_H
#define FORKD_ARCH_CPUID_H

#include "base/err.h"
#include "base/pack.h"

#include <linux/kvm.h>
#include <stdbool.h>
#include <stdint.h>

enum { CPUID_ENTRIES_MAX = 128, CPUID_HOST_ENTRIES_MAX = 256 };

/* The layout of struct kvm_cpuid2 with room: a guest's set, or with more room what a host supports. */
struct cpuid {
    uint32_t nent, padding;
    struct kvm_cpuid_entry2 entry[CPUID_ENTRIES_MAX];
};

struct cpuid_host {
    uint32_t nent, padding;
    struct kvm_cpuid_entry2 entry[CPUID_HOST_ENTRIES_MAX];
};

/* What this host's KVM can show to guests. */
int cpuid_host_read(int kvm_fd, struct cpuid_host *host, struct err *err);

/* The set of a guest with `vcpus` CPUs in one package, as its vCPU 0 sees it. */
int cpuid_build(const struct cpuid_host *host, unsigned vcpus, struct cpuid *guest, struct err *err);

/* Makes a set that of the vCPU with this APIC id. */
void cpuid_for_vcpu(struct cpuid *guest, unsigned apic_id);

/* Refuses, by name, a feature of `guest` that `host` lacks, or the CPUs of another vendor. */
int cpuid_check_host(const struct cpuid *guest, const struct cpuid_host *host, struct err *err);

/* Refuses, by name, a feature that is not on the list: for sets that come from a file. */
int cpuid_check_list(const struct cpuid *guest, struct err *err);

int cpuid_set(int vcpu_fd, const struct cpuid *guest, struct err *err);

void cpuid_pack(const struct cpuid *guest, struct pack *p);
/* Marks `u` bad if the set is malformed. */
bool cpuid_unpack(struct cpuid *guest, struct unpack *u);

#endif
