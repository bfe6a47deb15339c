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
 * Some seats are made beforehand (berths.h), on the shelf, STATE.run/.ready/: putting one in its place is a rename.
 * Sockets are found by their name wherever their directory went.
 *
 * Invariants.
 * 1. Whoever holds the lock of the run directory (flock of the directory itself) is the only controller of it.
 * 2. A directory exists only while the registry has a row that leads to it: rows come first and go last. What
 *    has no row at start is litter and removed, on the shelf as well. */
#ifndef FORKD_CONTROLLER_RUNDIR_H
#define FORKD_CONTROLLER_RUNDIR_H

#include "base/err.h"

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

struct rundir {
    int fd, shelf_fd; /* -1: none */
};

/* Makes (mode 0700) and locks `path`; -EWOULDBLOCK with a sentence when another controller has it. */
int rundir_open(const char *path, struct rundir *run, struct err *err);
/* Safe on one that was never opened (fd -1). */
void rundir_close(struct rundir *run);
/* Notes the controller's pid for `forkd stop`. */
int rundir_note_pid(const struct rundir *run, struct err *err);

/* Makes the directory of `id` and fills the seat. On failure nothing is left. */
int rundir_seat(struct rundir *run, const char *id, bool with_layer, struct seat *seat, struct err *err);
/* The same on the shelf, with a layer; and from there to its place, or away. */
int rundir_shelve(struct rundir *run, const char *id, struct seat *seat, struct err *err);
int rundir_unshelve(struct rundir *run, const char *id, struct err *err);
void rundir_shelf_remove(const struct rundir *run, const char *id);
void seat_close(struct seat *seat);
/* The layer again, read-only: what a template is given as its parent's. */
int seat_layer_frozen(const struct seat *seat, int *fd, struct err *err);

/* Removes the directory of `id` with what is in it; one that is not there is fine. */
void rundir_remove(const struct rundir *run, const char *id);
/* Removes every directory for which `known` says false. Returns how many. */
unsigned rundir_sweep(const struct rundir *run, bool (*known)(void *arg, const char *id), void *arg);

/* Connects to a socket of `id`, in its place or on the shelf: "ctl" or "vsock". */
int rundir_connect_ctl(const struct rundir *run, const char *id, struct err *err);
int rundir_connect_vsock(const struct rundir *run, const char *id, struct err *err);

/* The console's last lines, at most `cap`-1 bytes and 20 lines, printable, terminated; "" when there are none. */
void rundir_console_tail(const struct rundir *run, const char *id, char *text, size_t cap);

#endif
