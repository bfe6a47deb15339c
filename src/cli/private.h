/* private.h: the controller that belongs to this user and was started by this program.
 *
 * It speaks on a socket beside its state (proto/places.h, place_own_state()), runs in the background until
 * `forkd stop`, and logs beside the socket.
 *
 * Invariant: it is started only under the lock of that directory, and the starter waits until it listens, so that
 * of two commands at once one starts it and both use it. */
#ifndef FORKD_CLI_PRIVATE_H
#define FORKD_CLI_PRIVATE_H

#include "base/err.h"

#include <limits.h>
#include <stdbool.h>
#include <stddef.h>

enum { PRIVATE_URL_MAX = PATH_MAX + 64 };

/* "unix:/path" of its socket. */
int private_url(char url[PRIVATE_URL_MAX], struct err *err);
/* The directory where it keeps snapshots, unless FORKD_SNAPSHOT_ROOT names one; "/" where that cannot be told. */
void private_snapshots(char *path, size_t cap);
/* Starts it unless it runs. */
int private_start(struct err *err);
/* Ends it, alone or with everything it has, and waits for its end; one that does not run is fine. */
int private_stop(bool everything, struct err *err);

/* A file of the installation: `name` beside this program, in ../libexec/forkd, ../share/forkd, where the build or
 * the source has it, or under $FORKD_HOME. */
int program_find(const char *name, char *path, size_t cap, struct err *err);

#endif
