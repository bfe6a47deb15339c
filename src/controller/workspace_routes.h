/* workspace_routes.h: what requests for workspaces do; see routes.h. */
#ifndef FORKD_CONTROLLER_WORKSPACE_ROUTES_H
#define FORKD_CONTROLLER_WORKSPACE_ROUTES_H

#include "controller/routes.h"

void route_workspaces(struct controller *c, const struct call *call, struct reply *reply);
void route_workspace(struct controller *c, const struct call *call, struct reply *reply);
void route_workspace_create(struct controller *c, const struct call *call, struct reply *reply);
void route_workspace_suspend(struct controller *c, const struct call *call, struct reply *reply);
void route_workspace_resume(struct controller *c, const struct call *call, struct reply *reply);
void route_workspace_delete(struct controller *c, const struct call *call, struct reply *reply);

#endif
