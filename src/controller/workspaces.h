/* workspaces.h: a sandbox with a name, that can be put away and taken up again.
 *
 * Theory of operation. A running workspace has a live sandbox. To suspend it is to branch that sandbox and kill it; to
 * resume it, to spawn a sandbox from that branch. The branch, its *state*, has the tag `ws-NAME-state` or
 * `ws-NAME-state.2`, in turn: the state of before is there until the new one is complete. Both tags are the
 * workspace's: what else has one of them is in its way, and told.
 *
 * States of a workspace, as the registry has them:
 *
 *     CREATING  its first sandbox is being spawned. After the controller's death: undone.
 *     RUNNING   its sandbox lives, or lived: one that ended otherwise makes it stale, which is seen when it is
 *               asked for, and resumed like a suspended one.
 *     LEAVING   its state is complete; its sandbox is being killed. After the controller's death: finished.
 *     SUSPENDED its state is what there is.
 *
 * Invariants.
 * 1. One thing is done with a workspace at a time; whoever comes meanwhile is told so (`busy`).
 * 2. A sandbox becomes ready and the workspace's in one commit: no controller takes it for nobody's.
 * 3. Memory says what the registry says: it is changed after it. */
#ifndef FORKD_CONTROLLER_WORKSPACES_H
#define FORKD_CONTROLLER_WORKSPACES_H

#include "base/err.h"
#include "proto/rest.h"

struct controller;
struct workspaces;

/* Makes c->workspaces of what the registry has, after sandboxes and snapshots were adopted. */
int workspaces_open(struct controller *c, struct err *err);
/* NULL is allowed. */
void workspaces_close(struct workspaces *workspaces);

/* Mistakes of the request are -REFUSED_*; *json is the WorkspaceInfo of afterwards. */
int workspace_create(struct controller *c, const struct rest_workspace_create *rq, json_t **json, struct err *err);
int workspace_suspend(struct controller *c, const char *name, bool diff, json_t **json, struct err *err);
int workspace_resume(struct controller *c, const char *name, json_t **json, struct err *err);
/* Its sandbox and its states are gone afterwards. */
int workspace_delete(struct controller *c, const char *name, struct err *err);

int workspace_get(struct controller *c, const char *name, json_t **json, struct err *err);
/* [WorkspaceInfo], by name. */
json_t *workspaces_json(struct controller *c);

#endif
