/* sandboxes.h: the life of a sandbox. States: fleet.h. */
#ifndef FORKD_CONTROLLER_SANDBOXES_H
#define FORKD_CONTROLLER_SANDBOXES_H

#include "controller/controller.h"

/* Forks n sandboxes: all of them running and somebody of their own, or none. *made: as of fleet_sandboxes(), in the
 * order of their birth. With `workspace` the only one is that
 * workspace's, from the same commit on. */
int sandboxes_spawn(struct controller *c, const struct rest_spawn *rq, const char *workspace, struct sandbox ***made,
                    struct err *err);

/* The VM is gone when this returns. */
int sandbox_kill(struct controller *c, const char *id, struct err *err);

/* 0 for a guest that runs; -REFUSED_CONFLICT with the reason for one that stands still. */
int sandbox_check_runs(struct controller *c, const struct sandbox *sandbox, struct err *err);
/* Lets a stalled guest run on. It may stall again at once, and then this fails. */
int sandbox_resume(struct controller *c, struct sandbox *sandbox, struct err *err);

/* The monitor's: its process is dead. */
void sandbox_bury(struct controller *c, struct sandbox *sandbox);

/* With `memory`, what it holds for itself and how that is known. */
json_t *sandbox_json(struct controller *c, struct sandbox *sandbox, bool memory);

#endif
