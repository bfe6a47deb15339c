/* parts.h: what a virtual machine is made of, as those see it who work inside of it: its vCPU threads, its bus, its
 * notifiers. What is done with the whole is in machine.h, and so are its two halves, its states and its lock. */
#ifndef FORKD_VM_PARTS_H
#define FORKD_VM_PARTS_H

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

/* The device in a slot, or NULL where the board has none. */
struct virtio_dev *machine_virtio(struct machine *m, unsigned slot);

#endif
