/* snapshot_root.h: the directory in which snapshots are kept, one directory for each, called by its tag.
 *
 * Theory of operation. A snapshot is written into a directory whose name no tag can have (it begins with a dot), which
 * gets its own by a rename when all of it is on the disk; one that is deleted loses its name first and its files
 * then. So whatever stops in the middle leaves a whole snapshot or litter, and litter is removed at start.
 *
 *     TAG/          a snapshot (snap/snapshot_files.h)
 *     .writing-ID/  one in the making: ID is its template's
 *     .removing-TAG/
 *
 * Invariants.
 * 1. Whoever holds the lock (flock of the directory itself) is the only controller of it.
 * 2. A name is on the disk (fsync of this directory) before anybody is told of it. */
#ifndef FORKD_CONTROLLER_SNAPSHOT_ROOT_H
#define FORKD_CONTROLLER_SNAPSHOT_ROOT_H

#include "proto/snapshot_meta.h"

/* Makes the directory where it is not there, locks it and removes litter. Returns the descriptor. -EWOULDBLOCK:
 * another controller has it. */
int snapshot_root_open(const char *path, struct err *err);

/* An empty directory to write `id` into; the descriptor is the caller's. */
int snapshot_root_begin(int root, const char *id, struct err *err);
/* It becomes TAG. -EEXIST: there is one of that name. */
int snapshot_root_publish(int root, const char *id, const char *tag, struct err *err);
/* It never was. */
void snapshot_root_discard(int root, const char *id);

/* Opens the directory of a snapshot. */
int snapshot_root_dir(int root, const char *tag, struct err *err);
/* Reads what its snapshot.json says; -EINVAL also where it calls itself otherwise, or is not complete. */
int snapshot_root_describe(int root, const char *tag, struct snapshot_meta *meta, struct err *err);
/* Bytes that a file of it has on the disk, and its length; 0 for one that is not there. */
void snapshot_root_file(int root, const char *tag, const char *name, uint64_t *physical, uint64_t *logical);

/* Removes a snapshot; one that is not there is fine. */
int snapshot_root_remove(int root, const char *tag, struct err *err);

/* Calls `fn` with every name that could be a snapshot's. */
int snapshot_root_each(int root, void (*fn)(void *arg, const char *tag), void *arg, struct err *err);

#endif
