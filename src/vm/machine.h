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

#include "arch/board.h"
#include "arch/ioapic.h"
#include "arch/vcpu_state.h"
#include "base/err.h"
#include "dev/blk.h"
#include "dev/rng.h"
#include "dev/serial.h"
#include "dev/vmgenid.h"
#include "dev/vsock.h"
#include "disk/disk.h"
#include "mem/gmem.h"
#include "sys/loop.h"

#include <linux/kvm.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

struct machine;

/* Slots of virtio devices on the board: fixed, so that a device keeps its window and its interrupt line. */
enum machine_slot { MACHINE_VSOCK, MACHINE_RNG, MACHINE_BLK, MACHINE_SLOTS };

struct machine_config {
    uint64_t mem_bytes; /* whole pages */
    unsigned vcpus;     /* 1 to BOARD_VCPUS_MAX */
    bool disk;          /* there is a block device */
    bool disk_read_only;
    uint64_t disk_bytes;
};

enum machine_state { MACHINE_PLAIN, MACHINE_ATTACHED, MACHINE_RUNNING, MACHINE_PARKED, MACHINE_ENDED };

enum machine_end { MACHINE_POWEROFF = 1, MACHINE_RESET, MACHINE_CRASH, MACHINE_FAILED };

/* What the machine tells its owner, on the loop thread, without the device lock. All but `pio` may be NULL-safe
 * no-ops; NULL hooks are not called. */
struct machine_hooks {
    void *owner;
    void (*ended)(struct machine *m, enum machine_end why, const char *text);
    void (*doorbell)(struct machine *m, uint32_t port);
    void (*stalled)(struct machine *m, const struct err *why); /* parked until machine_resume() */
    /* Ports the board does not have, for test guests: on the vCPU's thread with the device lock held. Returns
     * false for a port it does not know either. `len` is 1, 2 or 4. */
    bool (*pio)(struct machine *m, unsigned vcpu, uint16_t port, bool write, void *data, unsigned len);
};

/* What a machine is attached to. Descriptors stay the caller's and open until machine_detach(); -1: none. */
struct machine_host {
    int kvm_fd; /* needed until the guest starts */
    struct loop *loop;
    int vsock_fd;   /* listening Unix socket of the vsock device */
    int console_fd; /* regular file */
    bool log_dirty; /* KVM logs the pages that CPUs write, from birth */
};

/* The instant that memory and state of a template are of: of a branch, which sandbox, by a random number, and which
 * capture of it, counted from 1; of what was booted, a random number and 0. Inherited by fork, and written with the
 * snapshot, so that it is the same wherever that is loaded. All zero: not named yet. */
struct machine_instant {
    uint64_t source, number;
};

struct vcpu {
    struct machine *machine;
    unsigned index;
    int fd;
    struct kvm_run *run;
    pthread_t thread;
    bool started;
    struct err err; /* why saving failed */
    struct vcpu_state state;
};

/* How one queue's notifications arrive (notify.h). */
struct notifier {
    struct loop_source source; /* the ioeventfd, once there is one */
    struct machine *machine;
    unsigned slot, queue, exits;
};

struct machine {
    /* State. */
    struct machine_config config;
    struct gmem gmem;
    struct board board;
    struct kvm_clock_data clock;
    struct ioapic ioapic;
    struct vsock vsock;
    struct rng rng;
    struct blk blk;
    struct disk disk; /* behind blk; its owner opens the layers while the machine is plain */
    struct vmgenid vmgenid;
    struct vcpu vcpu[BOARD_VCPUS_MAX];
    struct machine_instant instant;

    /* Host. */
    enum machine_state phase;
    struct machine_hooks hooks;
    struct machine_host host;
    int vm_fd;
    size_t run_size;
    struct blk_backend disk_backend;
    struct notifier notifier[MACHINE_SLOTS][VIRTIO_QUEUES_MAX];
    unsigned msi_failures;
    pthread_mutex_t lock;    /* the device lock */
    _Atomic uint32_t order;  /* what vCPU threads are to do: a generation and an enum machine_order; a futex */
    _Atomic uint32_t parked; /* vCPU threads that follow the order to park; a futex */
    bool park_saves;
    bool end_pending, end_told;
    enum machine_end end_why;
    char end_text[160];
    bool wake_later, wake_due; /* a vCPU's thread holds the lock, and wakes the loop when it has let go of it */
    bool doorbell_pending;
    uint32_t doorbell_port;
    bool stall_pending, stalled;
    struct err stall_err;

    struct serial serial; /* last: it ends with the log's ring */
};

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

/* The device in a slot, or NULL where the board has none. */
struct virtio_dev *machine_virtio(struct machine *m, unsigned slot);

#endif
