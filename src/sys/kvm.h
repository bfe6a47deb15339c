/* kvm.h: KVM's ioctls with types, and with sentences when they fail. No policy: the machine decides what is
 * made, in which order and how often.
 *
 * Descriptors: `kvm_fd` is /dev/kvm, `vm_fd` what kvm_vm_create() returned, `vcpu_fd` what kvm_vcpu_create()
 * returned; all close-on-exec, all owned by the caller. Addresses and sizes are bytes unless they say pages.
 *
 * Threads: calls on a VM from any thread, calls on a vCPU from the thread that runs it. */
#ifndef FORKD_SYS_KVM_H
#define FORKD_SYS_KVM_H

#include "base/err.h"

#include <linux/kvm.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Opens /dev/kvm and checks it; the error says whether it is missing, forbidden, or lacks what. */
int kvm_open(struct err *err);
/* Checks the API version and every capability the VMM relies on. For a descriptor that was handed over. */
int kvm_check(int kvm_fd, struct err *err);

/* Returns the VM's descriptor. A signal does not end it: CREATE_VM is tried again on EINTR. */
int kvm_vm_create(int kvm_fd, struct err *err);
/* The three pages that Intel's real mode emulation needs, which must be neither RAM nor a device. */
int kvm_tss_set(int vm_fd, uint64_t gpa, struct err *err);
/* `flags` are KVM_MEM_*. The host range must stay mapped for the life of the VM. */
int kvm_slot_set(int vm_fd, uint32_t slot, uint64_t gpa, const void *host, uint64_t size, uint32_t flags,
                 struct err *err);
/* LAPICs in the kernel, an IOAPIC of `pins` pins in user space. Before the first vCPU. */
int kvm_split_irqchip(int vm_fd, unsigned pins, struct err *err);

/* Returns the vCPU's descriptor; `id` is its APIC ID. */
int kvm_vcpu_create(int vm_fd, unsigned id, struct err *err);
/* Bytes of the area a vCPU shares with the kernel. */
int kvm_run_size(int kvm_fd, struct err *err);
/* Maps that area, not to be inherited by a fork. Unmapped with munmap(run, size). */
int kvm_run_map(int vcpu_fd, size_t size, struct kvm_run **run, struct err *err);

/* Sends an interrupt message. A LAPIC that is switched off takes none, and that is success. */
int kvm_msi_signal(int vm_fd, uint64_t address, uint32_t data, struct err *err);
/* Guest writes of 4 bytes to `gpa` signal `event_fd` instead of leaving the guest: of any value, or with `match`
 * of `value` alone. Taking the first of a VM away, which closing the VM does too, waits for a grace period of the
 * kernel's: 15 ms measured, against 0.3 ms for a VM that never had one. */
int kvm_ioeventfd_add(int vm_fd, uint64_t gpa, int event_fd, bool match, uint32_t value, struct err *err);

/* From here on kvm_dirty_get() only tells, and kvm_dirty_clear() clears (KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2). */
int kvm_dirty_clear_by_hand(int vm_fd, struct err *err);
/* The pages of a slot that CPUs wrote since they were cleared last. `bitmap` has one bit for each, in whole 64-bit
 * words. */
int kvm_dirty_get(int vm_fd, uint32_t slot, void *bitmap, struct err *err);
/* Of `pages` pages from `first` on, a multiple of 64 each (but at the slot's end): those set in `bitmap`, whose first
 * bit is page `first`, count as not written and are write-protected again. */
int kvm_dirty_clear(int vm_fd, uint32_t slot, uint64_t first, uint32_t pages, const void *bitmap, struct err *err);

int kvm_clock_get(int vm_fd, struct kvm_clock_data *clock, struct err *err);
int kvm_clock_set(int vm_fd, const struct kvm_clock_data *clock, struct err *err);
/* Tells the guest that it was paused, so that its watchdogs do not bark. A guest without kvmclock, which
 * cannot be told, is success. */
int kvm_kvmclock_ctrl(int vcpu_fd, struct err *err);

#endif
