/* places.h: where forkd's programs look for what they share when nobody names a place.
 *
 * The command line and the controller agree on these without asking each other: the one looks for what the other made.
 * Root's are in /var/lib/forkd, others' where the XDG Base Directory Specification puts a user's data. */
#ifndef FORKD_PROTO_PLACES_H
#define FORKD_PROTO_PLACES_H

#include <stddef.h>

/* Of the controller that serves a host. */
#define PLACE_ADDRESS "127.0.0.1:8889"

/* The directory of built guest images, $FORKD_IMAGES where that is set. A path that does not fit is cut: it leads
 * nowhere. Like the next. */
void place_images(char *path, size_t cap);
/* The directory of snapshots on the disk; whoever takes FORKD_SNAPSHOT_ROOT looks there first. */
void place_snapshots(char *path, size_t cap);

#endif
