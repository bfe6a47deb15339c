/* berths.h: what a sandbox is born with, made before anybody asks for it.
 *
 * Theory of operation. A berth is a name with its secret, a row of the registry in state making, a seat in the run
 * directory, and a call to the agent of the guest to come, which waits in the queue of the seat's vsock socket. Nothing
 * of that depends on the template, and it takes a commit, four files and two sockets; so some berths lie ready, and are
 * made anew by a worker when half of them were given out. Whoever asks for more than lie ready has them made then.
 *
 * The row of one that lies ready names no snapshot. It is an intent all the same: whatever bears its name at the next
 * start is undone, and looked for in every tree.
 *
 * Invariants.
 * 1. A berth's row is committed before its directory is made, and goes after it.
 * 2. A berth is given out once. Who took it removes what is left of it, or makes its row ready. */
#ifndef FORKD_CONTROLLER_BERTHS_H
#define FORKD_CONTROLLER_BERTHS_H

#include "controller/registry.h"
#include "controller/rundir.h"
#include "controller/vmm_client.h"
#include "controller/workers.h"

#include <pthread.h>
#include <stdatomic.h>

struct berth {
    char id[CTL_ID_MAX];
    uint8_t secret[CTL_SECRET_LEN];
    bool shelved; /* its seat lies on the shelf */
    struct seat seat;
    int call; /* -1: none */
};

enum { BERTHS_READY = 8 };

struct berths {
    struct rundir *run;
    struct registry *registry;
    struct workers *workers;
    pthread_mutex_t lock; /* guards what follows */
    unsigned ready;
    struct berth berth[BERTHS_READY];
    struct job job; /* queued while `refilling` */
    atomic_bool refilling;
};

/* Borrows what berths are made in, until berths_close(). */
void berths_init(struct berths *berths, struct rundir *run, struct registry *registry, struct workers *workers);
/* Removes those that lie ready; no more calls. */
void berths_close(struct berths *berths);
/* Has them made anew where half of them were given out. */
void berths_refill(struct berths *berths);

/* Names `n` berths, whose rows are committed: first those that lie ready. On failure none is taken. */
int berths_take(struct berths *berths, struct berth *into, unsigned n, struct err *err);
/* Makes the seat of one that has none yet, without a layer where none is wanted. */
int berth_furnish(struct berths *berths, struct berth *berth, bool with_layer, struct err *err);
/* Puts the seat in its place. Until then it is found on the shelf as well, by a later controller too: so there is time
 * for it while the sandbox comes up. */
int berth_settle(struct berths *berths, struct berth *berth, struct err *err);
/* Closes the descriptors. */
void berth_close(struct berth *berth);

#endif
