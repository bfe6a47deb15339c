/* save.h: a template becomes a snapshot's directory.
 *
 * Theory of operation. A template never changes, so it can be written while it is forked. What it is comes as
 * descriptors (proto/ctl.h, EXPORTED): its sealed image, a bitmap of the pages that differ from it, which are read
 * through the descriptor of its memory, its state file, and the frozen layers of its disk. A *whole* snapshot holds
 * all of memory, and all blocks of the disk that are not in the base image, whichever layer they are in; a *diff*
 * holds the pages and the blocks written since its source was forked, and is of no use without its parent.
 * snap/snapshot_files.h lists the files.
 *
 * The directory is the caller's, who makes it under a name that no snapshot can have and gives it its own when all
 * of this is on the disk. Until then snapshot.json is empty, and an empty one is refused by whoever loads it.
 *
 * A whole snapshot of a branch is nearly its source's own snapshot; where that is whole as well, and on a filesystem
 * that can share blocks, its files begin as clones of that one's (snap/writer.h).
 *
 * save_open() creates the files, save_run() fills them: between the two a process can give up opening files.
 *
 * Threads: one per save; writers have threads of their own. */
#ifndef FORKD_SNAP_SAVE_H
#define FORKD_SNAP_SAVE_H

#include "proto/snapshot_meta.h"
#include "snap/chain.h"
#include "snap/snapshot_files.h"
#include "snap/writer.h"

/* What is written, and how. Descriptors are not owned; -1 where there is none. */
struct save {
    int dir;
    int memory;           /* the sealed image */
    int own_memory;       /* /proc/PID/mem of the template */
    int pages;            /* bitmap of RAM's pages: those that differ from the image */
    int diff;             /* likewise: those written since its source was forked; -1: it is no branch */
    struct chain *origin; /* its source's own snapshot, opened, for a whole one; NULL: none, or none to share with */
    int state;            /* the state file */
    uint64_t state_bytes;
    int base;          /* the disk's base image */
    const int *layers; /* frozen ones, oldest first */
    unsigned layer_count;
    uint64_t ram;          /* where RAM is mapped in the template */
    unsigned birth_layers; /* a diff holds the layers from here on */
    enum writer_engine engine;
    unsigned without;          /* of writer.h */
    uint64_t bytes_per_second; /* 0: no limit */
    /* Now and then, bytes: gone through, of how many, and written. A negative value ends the writing with it. */
    int (*progress)(void *owner, uint64_t done, uint64_t total, uint64_t written, struct err *err);
    void *owner;
};

/* Creates the files in `dir`; those opened are the caller's, whether it succeeds or not. */
int save_open(int dir, bool has_disk, int fd[SNAPSHOT_FILES], struct err *err);

/* Fills the files. `meta` says what the snapshot is; what was written is added to it. */
int save_run(const struct save *s, const int fd[SNAPSHOT_FILES], struct snapshot_meta *meta, struct err *err);

#endif
