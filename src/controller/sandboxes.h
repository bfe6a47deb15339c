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

/* With `memory`, what it holds for itself and how that is known. */
json_t *sandbox_json(struct controller *c, struct sandbox *sandbox, bool memory);

#endif
