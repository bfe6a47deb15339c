/* workspace_routes.h: what requests for workspaces do; see reply.h. */
#ifndef FORKD_CONTROLLER_WORKSPACE_ROUTES_H
#define FORKD_CONTROLLER_WORKSPACE_ROUTES_H

#include "controller/controller.h"
#include "controller/reply.h"

void route_workspaces(struct controller *c, const struct call *call, struct reply *reply);
void route_workspace(struct controller *c, const struct call *call, struct reply *reply);
void route_workspace_create(struct controller *c, const struct call *call, struct reply *reply);
void route_workspace_suspend(struct controller *c, const struct call *call, struct reply *reply);
void route_workspace_resume(struct controller *c, const struct call *call, struct reply *reply);
void route_workspace_delete(struct controller *c, const struct call *call, struct reply *reply);

#endif
