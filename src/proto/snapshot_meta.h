/* snapshot_meta.h: what snapshot.json says of a snapshot.
 *
 * Theory of operation. One text in three hands: the controller describes the snapshot it wants written, forkd-store
 * adds what it wrote and puts the text into the snapshot's directory, and whoever lists or loads snapshots reads it
 * there. It is JSON for people and tools; its last member is the CRC-32C of all bytes before it, so that it is read
 * as it was written or not at all.
 *
 * What a snapshot holds has a *content hash*: the checksums of the state file and of both block maps, which hold the
 * checksums of every block. A diff names its parent by tag and by that hash.
 *
 * Invariants.
 * 1. What snapshot_meta_decode() accepts has a valid tag, bounded strings, whole pages of memory (some, once it is
 *    written), and a parent that is named whole or not at all.
 * 2. Members that are not known are refused where they could change what the others mean: by the version. */
#ifndef FORKD_PROTO_SNAPSHOT_META_H
#define FORKD_PROTO_SNAPSHOT_META_H

#include "proto/rest.h"

enum {
    SNAPSHOT_META_VERSION = 1,
    SNAPSHOT_META_MAX = 7000, /* bytes of the text, terminator included: it fits a control message */
    SNAPSHOT_HASH_MAX = 28,   /* three CRCs in hexadecimal, dashes between, terminator included */
    SNAPSHOT_ORIGIN_MAX = 80, /* "compact:" and a tag, or a sandbox's id */
    SNAPSHOT_PATH_MAX = 1024,
    SNAPSHOT_TEXT_MAX = 480,
    SNAPSHOT_DETAILS_MAX = 1024,
};

/* The files of a snapshot that are checked as a whole. memory.bin and disk0.layer have their checksums in the maps. */
enum snapshot_part { SNAPSHOT_VMSTATE, SNAPSHOT_MEMORY_MAP, SNAPSHOT_DISK_MAP, SNAPSHOT_PARTS };

struct snapshot_part_sum {
    uint64_t bytes;
    uint32_t crc;
};

struct snapshot_base {
    char path[SNAPSHOT_PATH_MAX]; /* as the controller opened it; "" where there is no disk */
    uint64_t bytes;               /* 0 until forkd-store looked at it */
    int64_t mtime_ns;
    uint32_t crc; /* of its bytes: snap/base_image.h */
};

struct snapshot_meta {
    char tag[REST_TAG_MAX + 1];
    uint64_t created_at_unix;
    char branched_from[SNAPSHOT_ORIGIN_MAX]; /* "": booted */
    char parent_tag[REST_TAG_MAX + 1];       /* of a diff; "": the snapshot is whole */
    char parent_hash[SNAPSHOT_HASH_MAX];
    uint64_t mem_bytes; /* 0 until forkd-store looked at it, as the CPUs */
    uint32_t vcpus;
    struct snapshot_base base;
    char details[SNAPSHOT_DETAILS_MAX]; /* a JSON object of the controller's own, kept as it is; "": none */

    /* What forkd-store adds; `written` tells whether it did. */
    bool written;
    char engine[16];
    char warning[SNAPSHOT_TEXT_MAX]; /* "": none */
    uint64_t logical_bytes;          /* of memory and disk blocks that the snapshot holds */
    uint64_t shared_bytes;           /* of them those that its source's snapshot has already, on the same blocks */
    uint64_t physical_bytes;         /* on the disk, all files; what is shared is counted in both */
    uint64_t write_ms;
    struct snapshot_part_sum part[SNAPSHOT_PARTS];
};

/* The content hash of a written snapshot. */
void snapshot_meta_hash(const struct snapshot_meta *meta, char hash[static SNAPSHOT_HASH_MAX]);

/* Into `text`, terminated; returns the length. -EMSGSIZE where it does not fit. */
int snapshot_meta_encode(const struct snapshot_meta *meta, char *text, size_t cap, struct err *err);
/* The text may come from anywhere; it need not be terminated. */
int snapshot_meta_decode(struct snapshot_meta *meta, const char *text, size_t len, struct err *err);

#endif
