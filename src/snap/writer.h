/* writer.h: one data file of a snapshot, written by one of three engines.
 *
 * Theory of operation. A source names the runs of blocks that the file may hold and reads them; the writer goes
 * through them chunk by chunk (1 MiB): reads into an aligned buffer of its own, leaves out what is zero, sums the
 * rest up and writes it to its place in the file. It never maps what it reads, so it un-shares nothing and owns a
 * few buffers, whatever the size of the guest. Several threads do this, each with its chunk: while one waits for the
 * disk the others read, and the disk is never without work.
 *
 *   buffered   plain writes through the page cache
 *   fallocate  space reserved first (fallocate(2), which fails where a filesystem cannot; posix_fallocate would write
 *              every block instead), then the same
 *   direct     space reserved first, then O_DIRECT: no page cache to throttle, no delayed allocation to catch up
 *
 * What a filesystem cannot do is left out, and the report says so: reserving, O_DIRECT.
 *
 * Where a file is nearly another one, its *origin*, and the filesystem can share blocks (FICLONE: XFS, btrfs), it
 * begins as a clone of that: chunks in which nothing changed are neither read nor written, their records are the
 * origin's, and of others only the blocks that changed are written. Where it cannot, all is written.
 *
 * Invariants.
 * 1. What was reserved and turned out zero is given back where it is 64 KiB or more in a row.
 * 2. The file is as long as the blocks it is about, and on the disk (fsync) when writer_run() returns. */
#ifndef FORKD_SNAP_WRITER_H
#define FORKD_SNAP_WRITER_H

#include "snap/block_map.h"

enum writer_engine { WRITER_DIRECT, WRITER_FALLOCATE, WRITER_BUFFERED, WRITER_ENGINES };

/* "direct", "fallocate", "buffered". */
const char *writer_engine_name(enum writer_engine engine);

/* Things to do without, for tests and benchmarks: as if the filesystem could not do the first two. */
enum { WITHOUT_DIRECT = 1, WITHOUT_FALLOCATE = 2, WITHOUT_SYNC = 4, WITHOUT_REFLINK = 8 };

struct block_run {
    uint64_t first, count;
    bool zero; /* they are zero, and need no reading */
};

struct block_source {
    void *owner;
    uint64_t blocks;     /* of the file */
    bool zero_is_absent; /* a block that is zero need not be noted */
    /* The next run at or after `from`: 1, or 0 when there is none. Runs do not overlap. */
    int (*next)(void *owner, uint64_t from, struct block_run *run, struct err *err);
    /* Reads blocks of one run. Called from several threads at once. */
    int (*read)(void *owner, uint64_t first, uint64_t count, uint8_t *into, struct err *err);
    /* Sets the bits of those blocks of a chunk that may differ from the origin's. Likewise; needed with one only. */
    void (*changed)(void *owner, uint64_t chunk, uint64_t bits[CHUNK_WORDS]);
};

/* A file of as many blocks, and its map. */
struct origin {
    int fd; /* not owned, like the map */
    const struct block_map *map;
};

/* How fast bytes may be written, over all files of a snapshot. */
struct pace {
    uint64_t bytes_per_second; /* 0: as fast as it goes */
    _Atomic uint64_t free_ns;  /* when the next may be written */
};

struct writer {
    const char *name; /* of the file, for messages */
    int fd;           /* empty, open for writing; not owned */
    enum writer_engine engine;
    unsigned without;
    const struct origin *origin; /* NULL: none */
    struct pace *pace;
    /* Now and then, on the caller's thread: bytes gone through so far, of those that the source's runs name and that
     * are not known to be zero, and those of them that were written. A negative value ends the writing with it. */
    int (*progress)(void *owner, uint64_t done, uint64_t written, struct err *err);
    void *owner;
};

struct writer_report {
    enum writer_engine engine; /* that was used in the end */
    uint64_t bytes;            /* of blocks that the file holds */
    uint64_t shared_bytes;     /* of them those that are the origin's */
    char warning[160];         /* what could not be done as asked for; "": nothing */
};

/* Writes the file; the map is the caller's to write and to free. */
int writer_run(const struct writer *w, const struct block_source *source, struct block_map *map,
               struct writer_report *report, struct err *err);

#endif
