/* interrupt.h: SIGINT, SIGTERM and SIGHUP, for verbs that have something to put away first.
 *
 * Theory of operation. A verb holds them back from before it makes anything. One that comes stays pending; whoever
 * waits looks for it (interrupts_came(), interrupts_fd(), and requests of a client that may be interrupted, client.h)
 * and gives up as after a failure, so that what was made is put away on the one path there is for that. At the end they
 * are let go, and the one that came ends the program as if it had never been held: a shell sees what it expects.
 *
 * Invariants.
 * 1. Nothing takes a pending signal away but interrupts_release().
 * 2. Under nohup(1) a hang-up stays ignored.
 * 3. Held before a thread is made: every thread inherits it. */
#ifndef FORKD_CLI_INTERRUPT_H
#define FORKD_CLI_INTERRUPT_H

#include <stdbool.h>
#include <stdint.h>

void interrupts_hold(void);
/* Lets them go. Does not return if one came; else returns `status`. */
int interrupts_release(int status);

bool interrupts_came(void);
/* Readable when one came; the caller closes it, and does not read it. -1 where there is none. */
int interrupts_fd(void);
/* Until one comes, or the monotonic clock is at `deadline_ns`. */
void interrupts_await(uint64_t deadline_ns);

#endif
