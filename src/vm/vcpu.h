/* vcpu.h: a virtual CPU's thread, and the orders it follows.
 *
 * Theory of operation. Each vCPU has one thread. It reads the machine's *order*, does what it says, and looks
 * again: run the guest until it leaves it, handle that exit, look again; park; or end. The order is one word: a
 * generation that grows with every order, and what to do. A thread that waits, waits for the word to change, so
 * an order given and taken back and given again is never mistaken for the first.
 *
 *   ORDER_RUN   the thread is in KVM_RUN or handles an exit
 *   ORDER_PARK  the thread completes its last exit (an IN is unfinished until KVM_RUN is entered once more), saves
 *               its CPU if asked, counts itself in machine.parked, and waits
 *   ORDER_END   the thread returns
 *
 * A kick makes a thread look: `immediate_exit` is set, then a signal sent. The handler does nothing: whichever
 * way the race with entering KVM_RUN goes, the kernel returns at once, and the order is read after that.
 *
 * Threads: vcpu_* functions are called on the loop thread, without the device lock. */
#ifndef FORKD_VM_VCPU_H
#define FORKD_VM_VCPU_H

#include "vm/parts.h"

enum vcpu_order { ORDER_RUN, ORDER_PARK, ORDER_END, ORDER_MASK = 3 };

/* Installs the handler of the kick signal. Once per process that runs a machine. */
int vcpu_signal_init(struct err *err);

/* Starts the thread; it follows the machine's order from the first moment. */
int vcpu_start(struct vcpu *v, struct err *err);
/* Waits for the thread's end, after ORDER_END was given. */
void vcpu_join(struct vcpu *v);

/* Gives a new order to all vCPU threads of the machine and kicks them; does not wait. */
void vcpu_order_all(struct machine *m, enum vcpu_order order);
/* Waits until every started thread has parked. */
void vcpu_wait_parked(struct machine *m);

#endif
