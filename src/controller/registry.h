/* registry.h: what must survive the controller, in SQLite.
 *
 * Theory of operation. One row per snapshot (its template process) and one per sandbox, each with the id and the
 * secret by which the living VMM is found and recognised again. A snapshot that is a branch has a second row: where
 * it came from. Workspaces have one as well. A row is written in state `making` before anything of the thing exists,
 * and becomes `ready` when all of it does: a row that is still `making` at start is an intent its controller did not
 * live to finish, and is undone. Intents of sandboxes are written before it is known of which snapshot they will be
 * (berths.h), and become ready while the sandbox comes up: whether it was handed out, its VMM knows (HANDED), and one
 * that was not is undone like an intent. Rows go when nothing of the thing is left.
 *
 * The journal is WAL: a controller's death loses nothing. What outlives the host (snapshots and workspaces) is
 * committed with synchronous=FULL, and is on the disk when the function returns. Sandboxes end with the host, so their
 * rows are committed with synchronous=NORMAL, and a spawn waits for the disk only where the journal begins anew (every
 * 1000 pages): the host's death may lose the last of them.
 *
 * The file is this process's alone while it is open (locking_mode=EXCLUSIVE): no transaction takes locks, and the
 * journal's index is private memory instead of a file that is mapped, and that others may write.
 *
 * Invariants.
 * 1. The file is ours (application id) and not of a later version, or it is refused and not written. An earlier
 *    version's is brought up to this one when it is opened, in one transaction.
 * 2. Each function is one transaction. Any thread may call.
 * 3. At most one snapshot per tag that is not `hidden` (deleted, but the base of living sandboxes). */
#ifndef FORKD_CONTROLLER_REGISTRY_H
#define FORKD_CONTROLLER_REGISTRY_H

#include "base/err.h"
#include "proto/ctl.h"
#include "proto/rest.h"

#include <stdint.h>

enum row_state { ROW_MAKING = 1, ROW_READY, ROW_FAILED, ROW_HIDDEN };

struct snapshot_row {
    char id[CTL_ID_MAX]; /* of the template */
    char tag[REST_TAG_MAX + 1];
    enum row_state state;
    char reason[ERR_TEXT_MAX];
    uint64_t created_at_unix;
    uint8_t secret[CTL_SECRET_LEN];
    bool has_disk;
    char tree[CTL_ID_MAX]; /* the boot template it descends from, which may be itself */
    struct rest_branch branch;
    uint64_t image_bytes;
};

struct sandbox_row {
    char id[CTL_ID_MAX];
    char snapshot_id[CTL_ID_MAX];
    enum row_state state;
    uint64_t created_at_unix, memory_limit_mib;
    uint8_t secret[CTL_SECRET_LEN];
    char workspace[REST_WORKSPACE_MAX + 1]; /* whose it becomes when it is ready; not read back */
    char last_id[CTL_ID_MAX];               /* the template of its last branch, "": none */
    unsigned branch_count;
};

enum workspace_state { WORKSPACE_CREATING = 1, WORKSPACE_RUNNING, WORKSPACE_LEAVING, WORKSPACE_SUSPENDED };

/* See workspaces.h. */
struct workspace_row {
    char name[REST_WORKSPACE_MAX + 1], id[CTL_ID_MAX];
    enum workspace_state state;
    char source_tag[REST_TAG_MAX + 1];
    char state_tag[REST_TAG_MAX + 1]; /* "": none yet */
    char sandbox_id[CTL_ID_MAX];      /* "": none */
    uint64_t memory_limit_mib, created_at_unix, active_at_unix;
};

struct registry;

int registry_open(const char *path, struct registry **registry, struct err *err);
void registry_close(struct registry *registry);

int registry_snapshot_add(struct registry *registry, const struct snapshot_row *row, struct err *err);
/* Of one that is hidden nothing changes any more: who deleted it was there first. */
int registry_snapshot_set(struct registry *registry, const char *id, enum row_state state, const char *reason,
                          struct err *err);
/* It is ready, with an image of its own of that size. */
int registry_snapshot_ready(struct registry *registry, const char *id, uint64_t image_bytes, struct err *err);
/* The size of the image that is its own, where it has a new one. */
int registry_snapshot_image(struct registry *registry, const char *id, uint64_t bytes, struct err *err);
/* The branch `id` is complete and ready: what it took, and that its source's next branch begins there. */
int registry_branch_ready(struct registry *registry, const char *id, const struct rest_branch *branch, struct err *err);
int registry_snapshot_remove(struct registry *registry, const char *id, struct err *err);

/* `rows` in state making, all in one transaction; what is not known yet ("", 0) comes with ready. */
int registry_sandboxes_add(struct registry *registry, const struct sandbox_row *rows, unsigned count, struct err *err);
/* The rows of these ids, with all that they say. */
int registry_sandboxes_ready(struct registry *registry, const struct sandbox_row *rows, unsigned count,
                             struct err *err);
int registry_sandbox_remove(struct registry *registry, const char *id, struct err *err);

/* Calls `fn`, which must not call the registry, for every row; a negative return value ends the walk and is returned.
 */
int registry_snapshots_each(struct registry *registry, int (*fn)(void *arg, const struct snapshot_row *row), void *arg,
                            struct err *err);
int registry_sandboxes_each(struct registry *registry, int (*fn)(void *arg, const struct sandbox_row *row), void *arg,
                            struct err *err);

/* Adds the row or replaces the one of that name. */
int registry_workspace_put(struct registry *registry, const struct workspace_row *row, struct err *err);
int registry_workspace_remove(struct registry *registry, const char *name, struct err *err);
int registry_workspaces_each(struct registry *registry, int (*fn)(void *arg, const struct workspace_row *row),
                             void *arg, struct err *err);

#endif
