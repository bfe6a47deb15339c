/* workspace_routes.c: see workspace_routes.h. */
#include "controller/workspace_routes.h"

#include "controller/workspaces.h"

/* The WorkspaceInfo, or why there is none. */
static void answer(struct reply *reply, unsigned status, int rc, json_t *json, const struct err *err)
{
    if (rc < 0)
        reply_failed(reply, rc, 500, err);
    else
        reply_json(reply, status, json);
}

void route_workspaces(struct controller *c, const struct call *call, struct reply *reply)
{
    reply_json(reply, 200, workspaces_json(c));
}

void route_workspace(struct controller *c, const struct call *call, struct reply *reply)
{
    struct err err;
    json_t *json = NULL;
    int rc = workspace_get(c, call->param, &json, &err);
    answer(reply, 200, rc, json, &err);
}

void route_workspace_create(struct controller *c, const struct call *call, struct reply *reply)
{
    struct err err;
    struct rest_workspace_create rq;
    json_t *json = NULL;
    if (rest_parse_workspace_create(call->body, call->len, &rq, &err) < 0) {
        reply_error(reply, 400, err.text);
        return;
    }
    int rc = workspace_create(c, &rq, &json, &err);
    rest_workspace_create_free(&rq);
    answer(reply, 201, rc, json, &err);
}

void route_workspace_suspend(struct controller *c, const struct call *call, struct reply *reply)
{
    struct err err;
    bool diff;
    json_t *json = NULL;
    if (rest_parse_workspace_suspend(call->body, call->len, &diff, &err) < 0) {
        reply_error(reply, 400, err.text);
        return;
    }
    int rc = workspace_suspend(c, call->param, diff, &json, &err);
    answer(reply, 200, rc, json, &err);
}

void route_workspace_resume(struct controller *c, const struct call *call, struct reply *reply)
{
    struct err err;
    json_t *json = NULL;
    int rc = workspace_resume(c, call->param, &json, &err);
    answer(reply, 200, rc, json, &err);
}

void route_workspace_delete(struct controller *c, const struct call *call, struct reply *reply)
{
    struct err err;
    int rc = workspace_delete(c, call->param, &err);
    reply_done(reply, rc, &err);
}
