/* vcpu.c: see vcpu.h.
 * SECCOMP: ioctl[a1 == KVM_RUN] - runs the guest
 * SECCOMP: tgkill[a2 == SIGUSR1] - makes a thread leave the guest
 */
#include "vm/vcpu.h"

#include "vm/bus.h"

#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

enum {
    KICK_SIGNAL = SIGUSR1,
    VCPU_STACK = 256 << 10,
    ENOMEM_TRIES = 16, /* some kernels fail the first KVM_RUN of a VM that way */
};

static void futex_wait(_Atomic uint32_t *word, uint32_t while_equal)
{
    syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, while_equal, NULL, NULL, 0);
}

static void futex_wake(_Atomic uint32_t *word)
{
    syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, INT_MAX, NULL, NULL, 0);
}

static void kick_handler(int signal)
{
    /* Its arrival alone makes KVM_RUN return. */
}

int vcpu_signal_init(struct err *err)
{
    struct sigaction action = {.sa_handler = kick_handler};
    if (sigaction(KICK_SIGNAL, &action, NULL) < 0)
        return err_set(err, errno, "install the kick signal");
    return 0;
}

/* Runs the guest until the thread should look at its order again. False when the guest is over. */
static bool run_once(struct vcpu *v, unsigned *enomem)
{
    if (ioctl(v->fd, KVM_RUN, 0) == 0) {
        *enomem = 0;
        return bus_exit(v);
    }
    if (errno == EINTR || errno == EAGAIN)
        return true;
    if (errno == ENOMEM && ++*enomem < ENOMEM_TRIES)
        return true;
    bus_end(v->machine, MACHINE_FAILED, "vCPU %u: KVM_RUN: %s", v->index, strerrordesc_np(errno));
    return false;
}

/* Both threads write this byte. A CPU clears it before it looks at its order again, the loop's thread sets it after
 * it gave one: whichever comes last in the one order of such stores, the CPU sees either the order or the byte. A
 * plain store could linger past that look, undo the other's, and the kick would be lost. */
static void immediate_exit_set(struct vcpu *v, bool on)
{
    __atomic_store_n(&v->run->immediate_exit, on, __ATOMIC_SEQ_CST);
}

/* The last exit is complete when KVM_RUN returns EINTR; completing one may give another (an access that crosses
 * two windows). */
static void complete_last_exit(struct vcpu *v)
{
    immediate_exit_set(v, true);
    while (ioctl(v->fd, KVM_RUN, 0) == 0)
        if (!bus_exit(v))
            return;
}

static void park(struct vcpu *v, uint32_t order)
{
    struct machine *m = v->machine;
    complete_last_exit(v);
    if (m->park_saves) {
        v->err.code = 0;
        vcpu_state_save(v->fd, &v->state, &v->err);
    }
    atomic_fetch_add(&m->parked, 1);
    futex_wake(&m->parked);
    while (atomic_load(&m->order) == order)
        futex_wait(&m->order, order);
    immediate_exit_set(v, false);
}

/* The guest is over: nothing to run until the loop thread has noticed and ends the threads. */
static void idle(struct vcpu *v)
{
    struct machine *m = v->machine;
    for (;;) {
        uint32_t order = atomic_load(&m->order);
        if ((order & ORDER_MASK) == ORDER_END)
            return;
        if ((order & ORDER_MASK) == ORDER_PARK)
            park(v, order);
        else
            futex_wait(&m->order, order);
    }
}

static void *vcpu_main(void *arg)
{
    struct vcpu *v = arg;
    struct machine *m = v->machine;
    sigset_t kick;
    sigemptyset(&kick);
    sigaddset(&kick, KICK_SIGNAL);
    pthread_sigmask(SIG_UNBLOCK, &kick, NULL);

    unsigned enomem = 0;
    for (;;) {
        uint32_t order = atomic_load(&m->order);
        switch (order & ORDER_MASK) {
        case ORDER_END:
            return NULL;
        case ORDER_PARK:
            park(v, order);
            break;
        default:
            if (!run_once(v, &enomem)) {
                idle(v);
                return NULL;
            }
        }
    }
}

int vcpu_start(struct vcpu *v, struct err *err)
{
    /* Created with every signal blocked: only the kick is for this thread. */
    sigset_t all, before;
    sigfillset(&all);
    pthread_attr_t attr;
    pthread_attr_init(&attr);
    pthread_attr_setstacksize(&attr, VCPU_STACK);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int rc = pthread_create(&v->thread, &attr, vcpu_main, v);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&attr);
    if (rc)
        return err_set(err, rc, "start the thread of vCPU %u", v->index);
    v->started = true;
    return 0;
}

void vcpu_join(struct vcpu *v)
{
    if (!v->started)
        return;
    pthread_join(v->thread, NULL);
    v->started = false;
}

void vcpu_order_all(struct machine *m, enum vcpu_order order)
{
    uint32_t generation = (atomic_load(&m->order) & ~(uint32_t)ORDER_MASK) + ORDER_MASK + 1;
    atomic_store(&m->parked, 0);
    atomic_store(&m->order, generation | order);
    futex_wake(&m->order);
    if (order == ORDER_RUN)
        return;
    for (unsigned i = 0; i < m->config.vcpus; i++) {
        struct vcpu *v = &m->vcpu[i];
        if (!v->started)
            continue;
        immediate_exit_set(v, true);
        pthread_kill(v->thread, KICK_SIGNAL);
    }
}

void vcpu_wait_parked(struct machine *m)
{
    uint32_t want = 0;
    for (unsigned i = 0; i < m->config.vcpus; i++)
        want += m->vcpu[i].started;
    for (uint32_t have; (have = atomic_load(&m->parked)) < want;)
        futex_wait(&m->parked, have);
}
