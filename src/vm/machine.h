/* machine.h: a virtual machine: memory, CPUs and devices on one board.
 *
 * Theory of operation. A machine has two halves. Its *state* is plain memory: guest RAM, the saved state of every
 * CPU, of the clock, the IOAPIC and the devices. Its *host* is what it runs on: a KVM VM, a descriptor and a
 * thread per vCPU, sockets, files, workers. A template is a machine that has state and no host; a sandbox is a
 * fork of that process which gives its copy of the state a host of its own.
 *
 *   plain     no host. machine_load_*() may fill the state; fork(2) is allowed here and only here.
 *   attached  the KVM VM exists, CPUs hold the state, no thread runs. machine_attach() made it.
 *   running   vCPU threads run the guest, the loop serves devices. machine_start(), machine_resume().
 *   parked    every vCPU thread waits at an instruction boundary with its last exit completed; devices are
 *             quiet unless a worker still completes a request in flight. machine_park(). With `save` the
 *             state is that of this instant.
 *   ended     the guest is over (poweroff, reset, crash): the CPU that ended it waits, others may still run. Only
 *             machine_detach() is left.
 *
 * Threads. One loop thread calls everything here; vCPU threads handle exits. The device lock is held around every
 * call into a device: by vCPU threads for register accesses, by the loop thread for the rest. The loop thread
 * never holds it while it waits for vCPUs.
 *
 * The order of creation is in machine_attach(), the order of registers in arch/vcpu_state.c. */
#ifndef FORKD_VM_MACHINE_H
#define FORKD_VM_MACHINE_H

#include "vm/parts.h"

/* Makes the plain state of a machine that never ran, around `base`, the mapping of its RAM, which stays the
 * caller's. NULL on failure. machine_free() ends it. */
struct machine *machine_new(const struct machine_config *config, void *base, struct err *err);
void machine_free(struct machine *m);

/* plain -> attached: makes the KVM VM in the order that is cheap, and attaches the devices. On failure the
 * machine is plain again. */
int machine_attach(struct machine *m, const struct machine_host *host, const struct machine_hooks *hooks,
                   struct err *err);
/* Any state -> plain: stops the vCPU threads, gives back everything of the host. */
void machine_detach(struct machine *m);

/* attached: loads a kernel into memory and sets the first CPU to its entry. `initrd_fd` may be -1. */
int machine_boot(struct machine *m, int kernel_fd, int initrd_fd, const char *cmdline, struct err *err);
/* attached: puts the saved state into the CPUs, the clock and the devices, in the order of
 * arch/vcpu_state.c. */
int machine_restore(struct machine *m, struct err *err);

/* attached -> running. */
int machine_start(struct machine *m, struct err *err);
/* running or parked -> parked. All CPUs are kicked before one is waited for. With `save` the state of CPUs and clock is
 * read; devices need nothing, their state is always current. -ECANCELED: the guest is over, and there is no state worth
 * saving; machine.hooks.ended is yet to be called, or was. */
int machine_park(struct machine *m, bool save, struct err *err);
/* parked -> running. */
int machine_resume(struct machine *m, struct err *err);

/* attached, running or parked: has the disk's layers merged if they are many, as a start does. After each freeze. */
void machine_merge_layers(struct machine *m);

/* Whether this host can run the machine's saved state; the error names the feature it lacks. */
int machine_check_host(const struct machine *m, int kvm_fd, struct err *err);

#endif
