/* chain.h: a chain of snapshots, and what is wrong with it.
 *
 * Theory of operation. A chain is a whole snapshot and the diffs on it, root first; each link is a directory as
 * snap/snapshot_files.h describes. chain_open() opens the files of all links: afterwards a process can give up opening
 * files. Then each link is checked: snapshot.json and its sum; that each diff names its parent's content hash; length
 * and sum of every other file but what holds the blocks, which are summed up when they are read (chain_load.h). Errors
 * name the snapshot, the file and the part of it. */
#ifndef FORKD_SNAP_CHAIN_H
#define FORKD_SNAP_CHAIN_H

#include "proto/snapshot_meta.h"
#include "snap/block_map.h"
#include "snap/snapshot_files.h"

enum { CHAIN_MAX = 200 }; /* links: as many descriptors as a control message carries, and layers as a disk has */

struct chain_link {
    int fd[SNAPSHOT_FILES]; /* -1 where there is none */
    struct snapshot_meta meta;
    struct block_map memory, disk;
};

struct chain {
    unsigned count;
    struct chain_link *link; /* root first; owned */
    /* Set by who loads it, after chain_open(), or NULL: now and then, on the caller's thread, how many bytes of pages
     * and blocks were read, and of how many. */
    void (*progress)(void *owner, uint64_t done, uint64_t total);
    void *owner;
    _Atomic uint64_t done;
    uint64_t total, told_ns;
};

/* The directories stay the caller's. On failure nothing is left open. */
int chain_open(struct chain *chain, const int *dirs, unsigned count, struct err *err);
void chain_close(struct chain *chain);

/* Reads what each link says of itself, snapshot.json. */
int chain_describe(struct chain *chain, struct err *err);
/* Checks links that were described, and reads their maps; their blocks are not looked at. The disk of the last has so
 * many bytes (0: none). */
int chain_check(struct chain *chain, uint64_t disk_bytes, struct err *err);
/* Both, of a chain of one, a whole snapshot, whose name the error lacks. */
int chain_inspect(struct chain *chain, uint64_t disk_bytes, struct err *err);

#endif
