/* places.h: where forkd's programs look for what they share when nobody names a place.
 *
 * The command line and the controller agree on these without asking each other: the one looks for what the other made.
 * Root's are in /var/lib/forkd, others' where the XDG Base Directory Specification puts a user's data and state. */
#ifndef FORKD_PROTO_PLACES_H
#define FORKD_PROTO_PLACES_H

#include "base/err.h"

#include <stddef.h>

/* Of the controller that serves a host. */
#define PLACE_ADDRESS "127.0.0.1:8889"

/* The directory of built guest images, $FORKD_IMAGES where that is set. A path that does not fit is cut: it leads
 * nowhere. Like the next. */
void place_images(char *path, size_t cap);
/* The directory of snapshots on the disk; whoever takes FORKD_SNAPSHOT_ROOT looks there first. */
void place_snapshots(char *path, size_t cap);

/* What FORKD_STATE says; NULL where it is not set, or empty. */
const char *place_state_chosen(void);
/* The registry's file that --state or FORKD_STATE means: it may name the file itself, or a directory, which has
 * `state.db` in it. A directory is what is one now, or ends in a slash. -ENAMETOOLONG: not within `cap` bytes. */
int place_state(const char *named, char *file, size_t cap, struct err *err);
/* The same of the controller of a user's own: that of FORKD_STATE, else in /var/lib/forkd/private for root, for others
 * in ${XDG_STATE_HOME:-~/.local/state}/forkd. Its socket, lock and log lie beside it. -EINVAL: none of these is set. */
int place_own_state(char *file, size_t cap, struct err *err);

#endif
