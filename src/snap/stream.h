/* stream.h: pages of a running machine, read by another process.
 *
 * Theory of operation. A stream has a source, the memory of a process through its descriptor (/proc/PID/mem) at
 * the address where RAM is mapped there; a bitmap of the pages wanted; and a destination, RAM of this process.
 * stream_copy() reads every page wanted straight into place, large runs at once, and takes it off the bitmap.
 * That is for rounds, while the source runs: what it writes meanwhile is logged and comes again.
 *
 * The last pages are read while the source stands still, and reading into fresh memory would make it wait for
 * the host's page allocation. So stream_stage() reads them into a buffer that was touched beforehand, and
 * stream_place() puts them into place when the source runs again.
 *
 * Invariants.
 * 1. A page leaves the bitmap only when it was read whole.
 * 2. Nothing of the source is trusted but to be bytes: offsets come from the bitmap, which is as long as RAM. */
#ifndef FORKD_SNAP_STREAM_H
#define FORKD_SNAP_STREAM_H

#include "base/err.h"

#include <stddef.h>
#include <stdint.h>

enum { STREAM_STAGE_PAGES = 2048 };

struct stream {
    int memory_fd;       /* of the source; not owned */
    uint64_t source;     /* where RAM is mapped there */
    uint8_t *into;       /* where RAM is mapped here */
    uint64_t pages;      /* of RAM */
    uint8_t *stage;      /* STREAM_STAGE_PAGES, touched; owned */
    uint64_t *staged_at; /* page numbers of what it holds; owned */
    unsigned staged;
};

int stream_init(struct stream *s, int memory_fd, uint64_t source, void *into, uint64_t bytes, struct err *err);
void stream_destroy(struct stream *s);

/* Reads every page set in `bitmap` into place and clears its bit. Returns how many. */
int64_t stream_copy(struct stream *s, uint64_t *bitmap, struct err *err);
/* The same into the buffer; what does not fit there goes straight into place. */
int64_t stream_stage(struct stream *s, uint64_t *bitmap, struct err *err);
void stream_place(struct stream *s);

/* Compares all of RAM, page by page; returns how many pages differ. A debugging aid: reads everything. */
int64_t stream_compare(struct stream *s, struct err *err);

#endif
