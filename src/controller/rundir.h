/* rundir.h: the run directory beside the state file, and a seat in it for each VMM.
 *
 * Theory of operation. STATE.run/ holds one directory per VMM process, named by its id:
 *
 *     ctl           the listening socket through which a later controller adopts it
 *     vsock         the socket behind which its guest's vsock ports are
 *     console.log   its guest's serial console, bounded by the VMM
 *
 * The controller makes them before the VMM lives and hands it the descriptors (a seat); the VMM never sees a
 * path. A private disk layer belongs to the seat too but has no name, so that nothing of it can be left over.
 *
 * Some seats are made beforehand, in STATE.run/.ready/ under a number: giving one out is a rename. That takes the
 * making of four files out of the time a spawn takes.
 *
 * Invariants.
 * 1. Whoever holds the lock of the run directory (flock of the directory itself) is the only controller of it.
 * 2. A directory exists only while the registry has a row that leads to it: rows come first and go last. What
 *    has no row at start is litter and removed, and so is all of .ready. */
#ifndef FORKD_CONTROLLER_RUNDIR_H
#define FORKD_CONTROLLER_RUNDIR_H

#include "base/err.h"

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>

/* What a VMM process is given; all descriptors are the holder's. */
struct seat {
    int vsock, listen, console, layer; /* -1: none */
};

#define SEAT_EMPTY                                                                                                     \
    {                                                                                                                  \
        -1, -1, -1, -1                                                                                                 \
    }

enum { SEATS_READY = 8 };

struct rundir {
    int fd, ready_fd;     /* -1: none */
    pthread_mutex_t lock; /* guards what follows */
    unsigned ready, numbers;
    struct {
        unsigned number;
        struct seat seat;
    } prepared[SEATS_READY];
};

/* Makes (mode 0700) and locks `path`; -EWOULDBLOCK with a sentence when another controller has it. */
int rundir_open(const char *path, struct rundir *run, struct err *err);
/* Removes the seats that were made beforehand. Safe on one that was never opened (fd -1). */
void rundir_close(struct rundir *run);
/* Whether it is time for rundir_prepare(): half of them were given out. */
bool rundir_is_low(struct rundir *run);
/* Makes seats beforehand until there are SEATS_READY; what fails is left for later. From any thread. */
void rundir_prepare(struct rundir *run);
/* Notes the controller's pid for `forkd stop`. */
int rundir_note_pid(const struct rundir *run, struct err *err);

/* Makes the directory of `id` and fills the seat. On failure nothing is left. */
int rundir_seat(struct rundir *run, const char *id, bool with_layer, struct seat *seat, struct err *err);
void seat_close(struct seat *seat);
/* The layer again, read-only: what a template is given as its parent's. */
int seat_layer_frozen(const struct seat *seat, int *fd, struct err *err);

/* Removes the directory of `id` with what is in it; one that is not there is fine. */
void rundir_remove(const struct rundir *run, const char *id);
/* Removes every directory for which `known` says false. Returns how many. */
unsigned rundir_sweep(const struct rundir *run, bool (*known)(void *arg, const char *id), void *arg);

/* Connects to a socket of `id`: "ctl" or "vsock". */
int rundir_connect_ctl(const struct rundir *run, const char *id, struct err *err);
int rundir_connect_vsock(const struct rundir *run, const char *id, struct err *err);

/* The console's last lines, at most `cap`-1 bytes and 20 lines, printable, terminated; "" when there are none. */
void rundir_console_tail(const struct rundir *run, const char *id, char *text, size_t cap);

#endif
