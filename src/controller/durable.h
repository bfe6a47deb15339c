/* durable.h: snapshots on the disk.
 *
 * Theory of operation. Every snapshot is written to the snapshot root by a forkd-store of its own, as soon as it is a
 * template: it can be forked at once, and is durable later. What a snapshot has on the disk is a state beside its own
 * (fleet.h):
 *
 *     NONE     snapshots are not written here (--snapshot-writer none)
 *     WRITING  a job waits for its parent, or a store is at work
 *     WRITTEN  its directory is complete and has its name; `meta` says what is in it
 *     FAILED   it could not be written, or is damaged: `warning` says why. Nothing of it can be loaded.
 *
 * A template that dies when its snapshot is WRITTEN leaves it STORED: the next spawn loads it, or the next branch that
 * has no other template, and whoever comes meanwhile waits for that one load. Likewise what lies in the root at start
 * and has no living template.
 *
 * A diff names its parent by tag and content hash, so it is written when its parent is. Where that is gone, or was not
 * written, or the chain would become too long, the diff is written whole, and its warning says so.
 *
 * Invariants.
 * 1. `meta` and what is in a directory do not change once WRITTEN; a directory goes only with its snapshot.
 * 2. What was told to be durable (201, status ready) is there after the host's death.
 * 3. The directory goes before the registry's row: a deletion that was cut off may have to be asked for again, and
 *    never comes undone after it was done. */
#ifndef FORKD_CONTROLLER_DURABLE_H
#define FORKD_CONTROLLER_DURABLE_H

#include "controller/controller.h"

/* Opens the root. Only one that another controller has is an error; with any other that cannot be used every snapshot
 * fails to be written, and says why. */
int durable_open(struct controller *c, struct err *err);
/* Ends all writing; what was not written is by the next controller. Before the workers are stopped. */
void durable_stop(struct controller *c);

/* Of a snapshot in the registry: whether the root has it. Before anybody else knows the snapshot. */
void durable_recall(struct controller *c, struct snapshot *s);
/* When the registry's snapshots are in the fleet: lists what else lies in the root, as STORED, and has written what
 * should be there. */
void durable_scan(struct controller *c);

/* Has a template written that just became ready. `parent` is what the source of a branch was spawned
 * from (NULL: none), which a diff is to; `measure`
 * counts what a diff would hold; `awaited`: somebody is going to wait for it. Does not wait. */
void durable_write(struct controller *c, struct snapshot *s, struct snapshot *parent, bool measure, bool awaited);
/* Waits until it is, or is not. 0 also where nothing is written. */
int durable_await(struct controller *c, struct snapshot *s, struct err *err);

/* Makes a template of a STORED snapshot, which the caller holds as one of its children would. -REFUSED_CONFLICT: it
 * cannot be loaded, and why. */
int durable_load(struct controller *c, struct snapshot *s, struct err *err);

/* Writes a snapshot that can be forked, and is held as for that, whole, under another tag: it needs nobody, whatever
 * the other was a diff to. The new one is STORED, and the caller's. -REFUSED_*: that tag is at fault, or nothing is
 * written here. -ESTALE: its template was dead, and is buried. */
int durable_compact(struct controller *c, struct snapshot *source, const char *to, struct snapshot **made,
                    struct err *err);

/* Removes what the root has of a snapshot that is HIDDEN; ends its writing before that. */
int durable_remove(struct controller *c, struct snapshot *s, struct err *err);

#endif
