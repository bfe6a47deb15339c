/* throttle.h: a guest that writes faster than the stream reads is held back.
 *
 * Theory of operation. Rounds that do not shrink would end in a long pause. So the guest is held in small slices
 * instead, shorter than a millisecond each, with less and less time to run between them, until the stream has caught
 * up. It is slowed down for some rounds, and never stands still for long.
 *
 *   idle      the guest runs, or stands still for reasons of its own; throttle_set() begins
 *   running   it runs until the timer ends its turn
 *   holding   it is parked by the throttle, and by nobody else, until the timer ends that; a guest that stalls or
 *             ends meanwhile is its owner's, and the throttle is idle
 *
 * Threads: the loop's. */
#ifndef FORKD_SNAP_THROTTLE_H
#define FORKD_SNAP_THROTTLE_H

#include "sys/loop.h"
#include "vm/machine.h"

enum { THROTTLE_LEVELS = 4 }; /* 0: not at all */

struct throttle {
    struct loop_source timer; /* a timerfd; owned; -1: idle */
    struct machine *machine;
    unsigned level;
    bool holding;
};

void throttle_init(struct throttle *t);
/* Begins, or changes how much. */
int throttle_set(struct throttle *t, struct machine *m, unsigned level, struct err *err);
/* The guest runs again, if it was the throttle that held it. */
void throttle_end(struct throttle *t);

#endif
