/* fleet.h: the snapshots and sandboxes this controller knows, in memory.
 *
 * Theory of operation. The registry is what survives; the fleet is what is: each object holds the descriptors of
 * its living process. Objects are counted references. One lock guards all states, counts and both tables; it is
 * never held while something waits or a file is written.
 *
 * States of a snapshot, and who leaves them:
 *
 *     WRITING  being made by snapshot_create(): listed, not bootable, cannot be deleted.
 *     READY    its template lives: may be spawned from. Left by snapshot_delete() and by the template's death.
 *     STORED   it is on the disk and has no template (durable.h): the next spawn loads one, or the next branch that
 *              needs it. Left by durable_load() and by snapshot_delete().
 *     FAILED   its template died and it is on no disk, or what is there is damaged: listed with the reason until it is
 *              deleted.
 *     HIDDEN   deleted, not listed, its tag is free again; its template lives on while it has children.
 *     GONE     in no table; only references are left.
 *
 * States of a sandbox:
 *
 *     RUNNING  handed to its user; its guest may stand still for want of disk space (`stalled`) until
 *              sandbox_resume(). Left by sandbox_kill() and by its death.
 *     ENDING   killed; found by nobody any more.
 *     GONE     its process is dead and nothing of it is left.
 *
 * Invariants.
 * 1. A sandbox holds a reference to its snapshot, and is one of its `children` from before it is forked until it
 *    is GONE. The same is so of its last branch, as long as that is the last, and of whatever a branch is being forked
 *    from: the template of the next branch is there, deleted or not.
 * 2. Descriptors of an object are closed with its last reference, so whoever holds one may use them. */
#ifndef FORKD_CONTROLLER_FLEET_H
#define FORKD_CONTROLLER_FLEET_H

#include "base/list.h"
#include "controller/monitor.h"
#include "controller/store_client.h"
#include "controller/trees.h"
#include "controller/vmm_client.h"
#include "controller/workers.h"
#include "proto/rest.h"
#include "proto/snapshot_meta.h"

#include <pthread.h>

enum snapshot_state {
    SNAPSHOT_WRITING,
    SNAPSHOT_READY,
    SNAPSHOT_STORED,
    SNAPSHOT_FAILED,
    SNAPSHOT_HIDDEN,
    SNAPSHOT_GONE
};
/* What is being done about a snapshot that takes long; users are told. */
enum snapshot_stage { STAGE_NONE, STAGE_BOOT, STAGE_WARMUP, STAGE_FREEZE, STAGE_WRITE, STAGE_LOAD, SNAPSHOT_STAGES };
enum sandbox_state { SANDBOX_RUNNING, SANDBOX_ENDING, SANDBOX_GONE };

struct controller;

enum durable_state { DURABLE_NONE, DURABLE_WRITING, DURABLE_WRITTEN, DURABLE_FAILED };

/* What of a snapshot is on the disk: durable.h. */
struct durable {
    enum durable_state state;
    bool on_disk;               /* its directory is there, and goes with it */
    struct snapshot_meta *meta; /* once WRITTEN; owned */
    char warning[ERR_TEXT_MAX]; /* why it FAILED, or what could not be done as asked for */
    struct rest_diff diff;      /* no logical bytes: it is no diff, and was not measured */
    struct snapshot *parent;    /* of a branch that is WRITING: what its source was spawned from; a reference */
    const struct vmm *store;    /* that writes it; NULL: none is at work */
    bool measure, awaited;
    bool has_row;            /* the registry knows its template */
    pthread_mutex_t loading; /* held by the one thread that loads it */
    struct controller *c;
    struct job job;
};

struct snapshot {
    struct list link; /* fleet.snapshots */
    unsigned refs;
    char tag[REST_TAG_MAX + 1];
    uint64_t created_at_unix;
    bool has_disk;
    struct tree *tree;
    struct rest_branch branch;        /* where it came from; no source: it was booted, or */
    char compacted[REST_TAG_MAX + 1]; /* the snapshot that it is the whole of; "": none */
    struct durable durable;
    uint64_t image_bytes; /* of the sealed image that is its own; 0: it maps another's */
    enum snapshot_state state;
    char reason[ERR_TEXT_MAX]; /* why it FAILED */
    unsigned children;
    atomic_int stage;
    struct store_progress progress; /* while it is written or loaded */

    atomic_uint spawned; /* sandboxes, of this controller */
    atomic_bool settles; /* or did (settle.h) */

    pthread_mutex_t spawning; /* held by the one thread that talks to the template */
    struct vmm template;
    struct watch watch; /* templates.c */
};

struct sandbox {
    struct list link; /* fleet.buckets */
    unsigned refs;
    struct snapshot *base;
    uint64_t created_at_unix, memory_limit_mib;
    int cgroup; /* its leaf, -1: none */
    enum sandbox_state state;
    char reason[ERR_TEXT_MAX];  /* why it ended, as its VMM said */
    char stalled[ERR_TEXT_MAX]; /* why its guest stands still; "" while it runs */
    bool resuming;              /* RESUME was sent, and not answered */

    pthread_mutex_t branching; /* held by the one thread that branches it */
    struct snapshot *last;     /* its last complete branch, NULL: none */
    unsigned branch_count;
    uint32_t stream;                   /* the number of the STREAM it serves; 0: none */
    char stream_refusal[ERR_TEXT_MAX]; /* why it does not; "": it did not refuse */

    struct vmm vmm;
    struct watch watch; /* sandbox_watch.c */
};

enum { FLEET_BUCKETS = 1024 };

struct fleet {
    pthread_mutex_t lock;
    pthread_cond_t changed; /* some object became GONE, or was resumed; a template died */
    struct list snapshots;
    struct list buckets[FLEET_BUCKETS];
    unsigned sandboxes;
};

void fleet_init(struct fleet *fleet);
void fleet_destroy(struct fleet *fleet);

/* New objects with one reference, the caller's; NULL without memory. */
struct snapshot *snapshot_new(const char *tag);
struct sandbox *sandbox_new(struct fleet *fleet, struct snapshot *base);
void snapshot_unref(struct fleet *fleet, struct snapshot *snapshot);
void sandbox_unref(struct fleet *fleet, struct sandbox *sandbox);

/* The table takes a reference of its own, and its tree has a template more. -EEXIST: there is a snapshot of that tag
 * that is not HIDDEN. */
int fleet_snapshot_add(struct fleet *fleet, struct snapshot *snapshot, struct err *err);
void fleet_sandbox_add(struct fleet *fleet, struct sandbox *sandbox);

/* A reference for the caller, or NULL. Hidden snapshots and ending sandboxes are not found. */
struct snapshot *fleet_snapshot_find(struct fleet *fleet, const char *tag);
struct sandbox *fleet_sandbox_find(struct fleet *fleet, const char *id);

/* Its tree has a template less; true: that was the last. */
bool fleet_tree_leave(struct fleet *fleet, struct snapshot *snapshot);

/* Out of the table (its reference is dropped) and GONE; waiters are told. True for the first caller only. */
bool fleet_snapshot_end(struct fleet *fleet, struct snapshot *snapshot);
bool fleet_sandbox_end(struct fleet *fleet, struct sandbox *sandbox);

/* Waits until both tables are empty, `secs` at most; whether they are. */
bool fleet_await_empty(struct fleet *fleet, unsigned secs);

/* How many are listed: neither hidden snapshots nor ending sandboxes. */
void fleet_count(struct fleet *fleet, unsigned *snapshots, unsigned *sandboxes);

/* Everything in a table, hidden and ending ones too where `all`, sorted by tag or id; NULL-terminated, each with a
 * reference for the caller; fleet_*_release() gives them back. NULL without memory. */
struct snapshot **fleet_snapshots(struct fleet *fleet, bool all);
struct sandbox **fleet_sandboxes(struct fleet *fleet, bool all);
void fleet_snapshots_release(struct fleet *fleet, struct snapshot **snapshots);
void fleet_sandboxes_release(struct fleet *fleet, struct sandbox **sandboxes);

#endif
