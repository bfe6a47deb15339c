/* notify.h: how queue notifications reach the loop: through exits at first, through ioeventfds where it pays.
 *
 * Theory of operation. A QueueNotify write is an exit to its vCPU thread, which marks the queue and wakes the loop
 * (bus.c). An ioeventfd spares that exit, but a VM that ever had one waits a grace period of the kernel's when it is
 * closed (15 ms), and most queues of most sandboxes are never notified more than a few times. So a queue gets its
 * ioeventfd when it was notified NOTIFY_EXITS times. Memory slots are in place long before: a slot added after an
 * ioeventfd costs milliseconds.
 *
 * A notification that an ioeventfd holds when the machine parks is in no state; it is not lost either: the source
 * serves it when it runs on, and a fork serves every queue once when it is restored.
 *
 * Threads: the loop's. */
#ifndef FORKD_VM_NOTIFY_H
#define FORKD_VM_NOTIFY_H

#include "vm/parts.h"

enum { NOTIFY_EXITS = 8 };

/* None registered. */
void notify_init(struct machine *m);
/* Closes all; the VM is gone, or goes next. */
void notify_destroy(struct machine *m);
/* Serves every queue that exits have marked; with the device lock held. */
void notify_serve(struct machine *m);

#endif
