/* sandbox_watch.h: what is heard of a sandbox that was handed out: that its guest stalls, runs on, and ends.
 *
 * Theory of operation. The monitor reads the socket of its VMM, and hears of the death of its process. ENDED is kept
 * as the reason. STALLED is a guest that stands still for want of space on its disk; who wants it to run on sends
 * RESUME and waits for the answer to be heard. FAILED answers either that or the STREAM of a branch, whose number it
 * then has. Its death takes it out of the fleet, the registry, the run directory and the cgroups. */
#ifndef FORKD_CONTROLLER_SANDBOX_WATCH_H
#define FORKD_CONTROLLER_SANDBOX_WATCH_H

#include "controller/controller.h"

/* Of one that is in the fleet. A process that cannot be watched is ended. */
void sandbox_watch(struct controller *c, struct sandbox *sandbox);

/* 0 for a guest that runs; -REFUSED_CONFLICT with the reason for one that stands still. */
int sandbox_check_runs(struct controller *c, const struct sandbox *sandbox, struct err *err);
/* Lets a stalled guest run on. It may stall again at once, and then this fails. */
int sandbox_resume(struct controller *c, struct sandbox *sandbox, struct err *err);

#endif
