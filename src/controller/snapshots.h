/* snapshots.h: the life of a snapshot and its template. States: fleet.h. */
#ifndef FORKD_CONTROLLER_SNAPSHOTS_H
#define FORKD_CONTROLLER_SNAPSHOTS_H

#include "controller/controller.h"

enum { CONSOLE_TAIL_MAX = 2048 };

/* Boots a parent, warms it up, makes it a template: all or nothing. Where a guest died, `console` (of
 * CONSOLE_TAIL_MAX bytes) gets the last lines it printed, else "". *snapshot is a reference for the caller.
 * Mistakes of the request are -REFUSED_*, with a sentence, the rest is the host's or the guest's. */
int snapshot_create(struct controller *c, const struct rest_snapshot_create *rq, struct snapshot **snapshot,
                    char *console, struct err *err);

enum removal {
    REMOVE_ALONE,   /* refused while other snapshots on the disk are diffs to it */
    REMOVE_CASCADE, /* those first */
    REMOVE_FORCE,   /* it alone: those that are not in memory cannot be loaded any more */
};

/* Its tag is free when this returns. While sandboxes of it live its template stays, hidden. */
int snapshot_delete(struct controller *c, const char *tag, enum removal how, struct err *err);
/* Ends its template, once it is written; on the disk it stays. */
void snapshot_unload(struct controller *c, struct snapshot *snapshot);

/* A snapshot that can be forked, held as its template's children hold it, `count` of them (snapshot_release() gives it
 * back); one that is STORED is loaded. -REFUSED_MISSING, or -REFUSED_CONFLICT with what is in the way. */
int snapshot_hold(struct controller *c, const char *tag, unsigned count, struct snapshot **snapshot, struct err *err);

/* Writes a snapshot that can be forked, whole, under another tag: see durable_compact(). */
int snapshot_compact(struct controller *c, const char *tag, const char *to, struct snapshot **made, struct err *err);

/* With `memory`, what its template holds for itself. */
json_t *snapshot_json(struct controller *c, struct snapshot *snapshot, bool memory);

#endif
