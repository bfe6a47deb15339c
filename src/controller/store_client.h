/* store_client.h: the controller's side of forkd-store.
 *
 * Each call starts a process, has it do one thing, and waits for its end. Where that takes long, somebody may end it
 * through its pidfd: the call fails then. */
#ifndef FORKD_CONTROLLER_STORE_CLIENT_H
#define FORKD_CONTROLLER_STORE_CLIENT_H

#include "controller/vmm_client.h"
#include "proto/snapshot_meta.h"

#include <stdatomic.h>

/* As writer.h numbers them; NONE: snapshots live in memory alone. */
enum store_engine { STORE_DIRECT, STORE_FALLOCATE, STORE_BUFFERED, STORE_NONE };

/* -EINVAL: there is no engine of that name. */
int store_engine_parse(const char *name, enum store_engine *engine);

/* The program: $FORKD_STORE, or forkd-store where forkd-vmm is. */
int store_program(char *path, size_t cap, struct err *err);

/* How far a store is, in bytes of pages and blocks; kept up to date while it is at work. */
struct store_progress {
    atomic_ullong done, total, written;
};

struct store_order {
    const struct ctl_message *exported; /* EXPORTED, of the template */
    int memory;                         /* the template's own */
    int dir, origin;                    /* -1: there is none to share with */
    bool awaited;
    enum store_engine engine;
    uint64_t bytes_per_second; /* 0: as fast as it goes */
    struct store_progress *progress;
};

/* Starts a store; `store` ends with vmm_destroy(). */
int store_start(const char *program, struct vmm *store, struct err *err);
/* Has it write a template; *meta says what the snapshot is, and afterwards what was written. */
int store_save(struct vmm *store, const struct store_order *order, struct snapshot_meta *meta, struct err *err);
/* Has it make an image of a chain of directories, root first. The message is IMAGE, and the caller's. */
int store_restore(struct vmm *store, const int *dirs, unsigned count, int base, struct store_progress *progress,
                  struct ctl_message *image, struct err *err);

#endif
