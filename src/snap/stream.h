/* stream.h: pages of a running machine, read by another process.
 *
 * Theory of operation. A stream has a source, the memory of a process through its descriptor (/proc/PID/mem) at
 * the address where RAM is mapped there; a bitmap of the pages wanted; and a destination, RAM of this process.
 * stream_copy() reads every page wanted straight into place, large runs at once, and takes it off the bitmap.
 * While the source runs, what it writes meanwhile is logged and comes again.
 *
 * Invariants.
 * 1. A page leaves the bitmap only when it was read whole.
 * 2. Nothing of the source is trusted but to be bytes: offsets come from the bitmap, which is as long as RAM. */
#ifndef FORKD_SNAP_STREAM_H
#define FORKD_SNAP_STREAM_H

#include "base/err.h"

#include <stddef.h>
#include <stdint.h>

struct stream {
    int memory_fd;   /* of the source; not owned */
    uint64_t source; /* where RAM is mapped there */
    uint8_t *into;   /* where RAM is mapped here; not owned */
    uint64_t pages;  /* of RAM */
};

/* Reads every page set in `bitmap` into place and clears its bit. Returns how many. */
int64_t stream_copy(const struct stream *s, uint64_t *bitmap, struct err *err);
/* Compares all of RAM, page by page; returns how many pages differ. A debugging aid: reads everything. */
int64_t stream_compare(const struct stream *s, struct err *err);

#endif
