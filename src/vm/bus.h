/* bus.h: what a guest's accesses outside RAM reach.
 *
 * bus_exit() handles one exit of a vCPU on its own thread; it takes the device lock. A guest may access anything:
 * what nothing answers to reads as ones and is ignored when written. */
#ifndef FORKD_VM_BUS_H
#define FORKD_VM_BUS_H

#include "vm/parts.h"

/* Handles the exit in v->run. False when the guest is over: then machine.end_* say why. */
bool bus_exit(struct vcpu *v);

/* The guest is over; the first reason counts. From any vCPU thread, without the device lock. */
void bus_end(struct machine *m, enum machine_end why, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

#endif
