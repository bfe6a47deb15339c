/* init.h: what pid 1 owes a Linux before anything else runs in it. */
#ifndef FORKD_AGENT_INIT_H
#define FORKD_AGENT_INIT_H

#include "base/err.h"
#include "effects.h"

/* Mounts what is missing, brings up the loopback interface, sets host name, limits and the console. Only what
 * nothing works without is an error; the rest is said on the console. With a test root the machine's console is left
 * alone. */
int init_setup(const struct effects *effects, struct err *err);

/* Says why on the console and powers the machine off. For pid 1, which must never exit. */
void init_panic(const char *fmt, ...) __attribute__((format(printf, 1, 2), noreturn));

/* Ends what runs, so that file systems are at rest. Before a power-off. */
void init_end_processes(void);

#endif
