/* rig.h: a machine with a test guest, in this process.
 *
 * A test boots a guest to its first mark, makes a template of it the way the product does, and forks: the process
 * of the test is the template, each child attaches its copy of the machine and runs it on a loop of its own. What
 * guests say at the test ports (see guests/rt.h) arrives here.
 *
 * Children die with their parent. Nothing here needs root; without a usable /dev/kvm tests are skipped. */
#ifndef TESTS_KVM_RIG_H
#define TESTS_KVM_RIG_H

#include "base/err.h"
#include "mem/image.h"
#include "sys/loop.h"
#include "vm/machine.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

/* A disk has a layer more in each life. */
enum { RIG_LIVES_MAX = 16 };

struct rig_config {
    const char *guest;   /* "answer": the program's name */
    const char *cmdline; /* NULL: empty */
    uint64_t mem_mib;    /* 0: 32 */
    unsigned vcpus;      /* 0: one */
    uint64_t disk_bytes; /* 0: no disk */
    bool disk_slow;      /* it takes its time while the guest boots, so that requests are in flight when it parks */
    int vsock_fd;        /* 0: nobody can connect while it boots */
    bool hold;           /* it stays at its first mark until it is parked */
};

struct rig {
    struct rig_config config;
    struct machine *m;
    struct loop loop;
    int kvm_fd;
    int memory_fd;               /* while it boots */
    int image_fd;                /* the sealed image of a template; -1: none */
    int base_fd;                 /* of the disk; -1: none */
    int layer_fd[RIG_LIVES_MAX]; /* one for each life with a disk, oldest first */
    unsigned layers;

    /* What the guest said. Written by vCPU threads. */
    _Atomic uint32_t marks, answers, asks, exceptions;
    _Atomic uint32_t mark, answer, exception;
    _Atomic uint32_t first; /* answer of this life */
    _Atomic uint32_t ask;   /* what it gets for an answer */
    _Atomic uint32_t hold;  /* not 0: it stays at its mark */
    /* Called on a vCPU thread, before the exit completes; each may be NULL. */
    void (*on_ask)(struct rig *rig);
    void (*on_answer)(struct rig *rig);
    void *owner; /* of who set them */

    unsigned doorbells;
    bool ended;
    enum machine_end why;
    char text[160];

    bool (*until)(struct rig *rig);
    bool expired;
    int event_fd;
    struct loop_source event;
    struct loop_timer limit;
};

/* Why /dev/kvm cannot be used here, or NULL. */
const char *rig_unusable(void);

/* Boots and starts the guest. */
int rig_boot(struct rig *rig, const struct rig_config *config, struct err *err);
/* Runs the loop until `until` says so (it is asked after each event), the guest ends, or too much time has passed:
 * then -ETIMEDOUT. */
int rig_run(struct rig *rig, bool (*until)(struct rig *rig), struct err *err);
/* Has the loop ask `until` again: for sources of a test's own. From any thread. */
void rig_stir(struct rig *rig);
/* What can be waited for. */
bool rig_marked(struct rig *rig);
bool rig_answered(struct rig *rig);
bool rig_rang(struct rig *rig);
bool rig_over(struct rig *rig);

/* Parks a running guest with its state and makes it plain again, in this process: a template without an image. */
int rig_park(struct rig *rig, struct err *err);
/* The same by way of a sealed image and a state file, as the product does. Once in the life of a booted rig. */
int rig_template(struct rig *rig, struct image *image, struct err *err);
/* boot, run to the first mark (or the doorbell, for the agent), template. */
int rig_ready(struct rig *rig, const struct rig_config *config, struct err *err);

/* plain -> running, in this process: a new life of the state. `vsock_fd` is a listening socket or -1. */
int rig_live(struct rig *rig, int vsock_fd, struct err *err);
/* The same in steps: attached only, restored too. */
int rig_attach_only(struct rig *rig, int vsock_fd, struct err *err);
int rig_attach(struct rig *rig, int vsock_fd, struct err *err);

/* Forks: the child calls fn, whose result is its exit status. The parent goes on at once. Negative on failure. */
pid_t rig_fork(struct rig *rig, int (*fn)(struct rig *rig, void *arg), void *arg);
/* Waits for a child: its exit status, or -1 if it died otherwise. */
int rig_wait(pid_t pid);

/* `forks` children, `at_once` of them alive; how many did not exit with 0. */
unsigned rig_fork_many(struct rig *rig, unsigned forks, unsigned at_once, int (*fn)(struct rig *rig, void *arg),
                       void *arg);

void rig_close(struct rig *rig);

#endif
