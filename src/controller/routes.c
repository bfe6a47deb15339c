/* routes.c: see routes.h. Each function reads a request, calls a lifecycle or asks an agent, and words the answer;
 * which status a failure has is decided here and in workspace_routes.c, and nowhere else. */
#include "controller/routes.h"

#include "base/clock.h"
#include "base/own.h"
#include "controller/agent_client.h"
#include "controller/branches.h"
#include "controller/durable.h"
#include "controller/metrics.h"
#include "controller/openapi.h"
#include "controller/refusal.h"
#include "controller/sandbox_watch.h"
#include "controller/sandboxes.h"
#include "controller/snapshot_info.h"
#include "controller/snapshots.h"
#include "controller/workspace_routes.h"

#include <string.h>

static void healthz(struct controller *c, const struct call *call, struct reply *reply)
{
    reply_json(reply, 200, json_pack("{s:b}", "ok", 1));
}

static void version(struct controller *c, const struct call *call, struct reply *reply)
{
    reply_json(reply, 200, json_pack("{s:s, s:s}", "version", FORKD_VERSION, "api", "v1"));
}

/* What the series of one route are told apart by. */
static bool route_labels(unsigned number, char *labels, size_t cap)
{
    char path[ROUTE_PATH_MAX];
    const struct route *route = route_at(number);
    if (!route)
        return false;
    route_path(route, path);
    snprintf(labels, cap, "method=\"%s\",route=\"%s\"", route->method, path);
    return true;
}

static void metrics(struct controller *c, const struct call *call, struct reply *reply)
{
    struct metrics_now now = {.branches = atomic_load(&c->branches_in_flight),
                              .branches_max = c->branch_concurrency,
                              .snapshot_root = c->root};
    fleet_count(&c->fleet, &now.snapshots, &now.sandboxes);
    reply->body = metrics_page(&now, route_labels);
    reply->len = reply->body ? strlen(reply->body) : 0;
    reply->status = reply->body ? 200 : 500;
    reply->type = "text/plain; version=0.0.4";
}

static void openapi(struct controller *c, const struct call *call, struct reply *reply)
{
    reply->body = malloc(openapi_len);
    reply->status = reply->body ? 200 : 500;
    reply->len = reply->body ? openapi_len : 0;
    if (reply->body)
        memcpy(reply->body, openapi_document, openapi_len);
}

static void snapshots_list(struct controller *c, const struct call *call, struct reply *reply)
{
    bool memory = rest_target_flag(call->target, "memory");
    json_t *list = json_array();
    struct snapshot **all = fleet_snapshots(&c->fleet, false);
    for (struct snapshot **s = all; s && *s; s++)
        json_array_append_new(list, snapshot_json(c, *s, memory));
    fleet_snapshots_release(&c->fleet, all);
    reply_json(reply, 200, list);
}

/* What was made can be forked. Whoever waits wants it on the disk. Takes the reference. */
static void reply_made(struct controller *c, struct snapshot *s, bool wait, struct reply *reply)
{
    struct err err;
    if (wait && durable_await(c, s, &err) < 0)
        reply_error(reply, 500, err.text);
    else
        reply_json(reply, wait ? 201 : 202, snapshot_json(c, s, false));
    snapshot_unref(&c->fleet, s);
}

static void snapshots_post(struct controller *c, const struct call *call, struct reply *reply)
{
    struct err err;
    struct rest_snapshot_create rq;
    struct snapshot *s;
    char console[CONSOLE_TAIL_MAX];
    if (rest_parse_snapshot_create(call->body, call->len, &rq, &err) < 0) {
        reply_error(reply, 400, err.text);
        return;
    }
    int rc = snapshot_create(c, &rq, &s, console, &err);
    rest_snapshot_create_free(&rq);
    if (rc == 0) {
        reply_made(c, s, true, reply);
        return;
    }
    own_free char *text = NULL;
    if (*console && asprintf(&text, "%s\nThe console ends with:\n%s", err.text, console) < 0)
        text = NULL;
    reply_error(reply, refusal_status(rc, 500), text ? text : err.text);
}

/* Whether the request is about a tag; a reply where it is not. */
static bool tag_named(const struct call *call, struct reply *reply)
{
    if (rest_tag_valid(call->param))
        return true;
    reply_error(reply, 400, "this is no tag of a snapshot");
    return false;
}

static void snapshot_remove(struct controller *c, const struct call *call, struct reply *reply)
{
    struct err err;
    if (!tag_named(call, reply))
        return;
    if (rest_target_flag(call->target, "cascade") && rest_target_flag(call->target, "force")) {
        reply_error(reply, 400, "cascade and force exclude each other");
        return;
    }
    enum removal how = rest_target_flag(call->target, "cascade") ? REMOVE_CASCADE
                       : rest_target_flag(call->target, "force") ? REMOVE_FORCE
                                                                 : REMOVE_ALONE;
    int rc = snapshot_delete(c, call->param, how, &err);
    reply_done(reply, rc, &err);
}

static void snapshot_post_compact(struct controller *c, const struct call *call, struct reply *reply)
{
    struct err err;
    struct snapshot *made;
    char to[REST_TAG_MAX + 1];
    if (!tag_named(call, reply))
        return;
    if (rest_parse_compact(call->body, call->len, to, &err) < 0) {
        reply_error(reply, 400, err.text);
        return;
    }
    int rc = snapshot_compact(c, call->param, to, &made, &err);
    if (rc < 0) {
        reply_failed(reply, rc, 500, &err);
        return;
    }
    reply_json(reply, 200, snapshot_json(c, made, false));
    snapshot_unref(&c->fleet, made);
}

static void snapshot_get_info(struct controller *c, const struct call *call, struct reply *reply)
{
    char text[256];
    if (!tag_named(call, reply))
        return;
    struct snapshot *s = fleet_snapshot_find(&c->fleet, call->param);
    if (!s) {
        snprintf(text, sizeof text, "snapshot %s not found", call->param);
        reply_error(reply, 404, text);
        return;
    }
    reply_json(reply, 200, snapshot_info_json(c, s));
    snapshot_unref(&c->fleet, s);
}

/* The sandbox that a request is about, with a reference for the caller, or NULL and a reply. */
static struct sandbox *sandbox_named(struct controller *c, const struct call *call, struct reply *reply)
{
    char text[256];
    struct sandbox *b = fleet_sandbox_find(&c->fleet, call->param);
    if (b)
        return b;
    snprintf(text, sizeof text, "sandbox %s not found", call->param);
    reply_error(reply, 404, text);
    return NULL;
}

static void sandboxes_list(struct controller *c, const struct call *call, struct reply *reply)
{
    bool memory = rest_target_flag(call->target, "memory");
    json_t *list = json_array();
    struct sandbox **all = fleet_sandboxes(&c->fleet, false);
    for (struct sandbox **b = all; b && *b; b++)
        json_array_append_new(list, sandbox_json(c, *b, memory));
    fleet_sandboxes_release(&c->fleet, all);
    reply_json(reply, 200, list);
}

static void sandbox_get(struct controller *c, const struct call *call, struct reply *reply)
{
    struct sandbox *b = sandbox_named(c, call, reply);
    if (!b)
        return;
    reply_json(reply, 200, sandbox_json(c, b, rest_target_flag(call->target, "memory")));
    sandbox_unref(&c->fleet, b);
}

static void sandboxes_post(struct controller *c, const struct call *call, struct reply *reply)
{
    struct err err;
    struct rest_spawn rq;
    struct sandbox **made;
    if (rest_parse_spawn(call->body, call->len, &rq, &err) < 0) {
        reply_error(reply, 400, err.text);
        return;
    }
    int rc = sandboxes_spawn(c, &rq, NULL, &made, &err);
    rest_spawn_free(&rq);
    if (rc < 0) {
        reply_failed(reply, rc, 500, &err);
        return;
    }
    json_t *list = json_array();
    for (struct sandbox **b = made; *b; b++)
        json_array_append_new(list, sandbox_json(c, *b, false));
    fleet_sandboxes_release(&c->fleet, made);
    reply_json(reply, 201, list);
}

static void sandbox_delete(struct controller *c, const struct call *call, struct reply *reply)
{
    struct err err;
    int rc = sandbox_kill(c, call->param, &err);
    reply_done(reply, rc, &err);
}

/* What a guest is asked; its answer, or -REFUSED_BAD where the body is at fault. */
typedef int ask_fn(struct controller *c, const struct sandbox *b, const struct call *call, json_t **answer,
                   struct err *err);

static int ask_ping(struct controller *c, const struct sandbox *b, const struct call *call, json_t **answer,
                    struct err *err)
{
    int rc = sandbox_check_runs(c, b, err);
    return rc < 0 ? rc : agent_ping(&c->run, b->vmm.id, answer, err);
}

static int ask_exec(struct controller *c, const struct sandbox *b, const struct call *call, json_t **answer,
                    struct err *err)
{
    struct rest_exec rq;
    if (rest_parse_exec(call->body, call->len, &rq, err) < 0)
        return -REFUSED_BAD;
    int rc = sandbox_check_runs(c, b, err);
    if (rc == 0)
        rc = agent_exec(&c->run, b->vmm.id, &rq, answer, err);
    rest_exec_free(&rq);
    return rc;
}

static int ask_eval(struct controller *c, const struct sandbox *b, const struct call *call, json_t **answer,
                    struct err *err)
{
    struct rest_eval rq;
    if (rest_parse_eval(call->body, call->len, &rq, err) < 0)
        return -REFUSED_BAD;
    int rc = sandbox_check_runs(c, b, err);
    if (rc == 0)
        rc = agent_eval(&c->run, b->vmm.id, &rq, answer, err);
    rest_eval_free(&rq);
    return rc;
}

static void sandbox_ask(struct controller *c, const struct call *call, struct reply *reply, ask_fn *ask)
{
    struct err err;
    json_t *answer = NULL;
    struct sandbox *b = sandbox_named(c, call, reply);
    if (!b)
        return;
    uint64_t began = clock_monotonic_ns();
    int rc = ask(c, b, call, &answer, &err);
    if (rc == 0 && ask != ask_ping)
        metrics_observe(METRIC_EXEC, clock_monotonic_ns() - began);
    /* A guest that stalled meanwhile is why it does not answer. */
    if (rc < 0 && rc != -REFUSED_BAD && sandbox_check_runs(c, b, &err) < 0)
        rc = -REFUSED_CONFLICT;
    if (rc < 0)
        reply_failed(reply, rc, 502, &err);
    else
        reply_json(reply, 200, answer);
    sandbox_unref(&c->fleet, b);
}

static void sandbox_ping(struct controller *c, const struct call *call, struct reply *reply)
{
    sandbox_ask(c, call, reply, ask_ping);
}

static void sandbox_exec(struct controller *c, const struct call *call, struct reply *reply)
{
    sandbox_ask(c, call, reply, ask_exec);
}

static void sandbox_eval(struct controller *c, const struct call *call, struct reply *reply)
{
    sandbox_ask(c, call, reply, ask_eval);
}

static void sandbox_post_resume(struct controller *c, const struct call *call, struct reply *reply)
{
    struct err err;
    struct sandbox *b = sandbox_named(c, call, reply);
    if (!b)
        return;
    int rc = sandbox_resume(c, b, &err);
    if (rc < 0)
        reply_failed(reply, rc, 500, &err);
    else
        reply_json(reply, 200, sandbox_json(c, b, false));
    sandbox_unref(&c->fleet, b);
}

static void sandbox_post_branch(struct controller *c, const struct call *call, struct reply *reply)
{
    struct err err;
    struct rest_branch_create rq;
    struct snapshot *made;
    if (rest_parse_branch(call->body, call->len, &rq, &err) < 0) {
        reply_error(reply, 400, err.text);
        return;
    }
    int rc = sandbox_branch(c, call->param, &rq, &made, &err);
    bool wait = rq.wait;
    rest_branch_create_free(&rq);
    if (rc < 0) {
        reply_failed(reply, rc, 500, &err);
        return;
    }
    reply_made(c, made, wait, reply);
}

/* Reading is for all; what lives and dies with sandboxes is for those who run things; what others' sandboxes are
 * made from is the administrator's. */
static const struct route routes[] = {
    {"GET", {"healthz"}, ROUTE_QUICK, RIGHT_NONE, healthz},
    {"GET", {"metrics"}, ROUTE_QUICK, RIGHT_READ, metrics},
    {"GET", {"openapi.json"}, ROUTE_QUICK, RIGHT_READ, openapi},
    {"GET", {"version"}, ROUTE_QUICK, RIGHT_READ, version},
    {"GET", {"v1", "snapshots"}, ROUTE_ACTING, RIGHT_READ, snapshots_list},
    {"POST", {"v1", "snapshots"}, ROUTE_PATIENT, RIGHT_ADMIN, snapshots_post},
    {"GET", {"v1", "snapshots", ":tag", "info"}, ROUTE_ACTING, RIGHT_READ, snapshot_get_info},
    {"DELETE", {"v1", "snapshots", ":tag"}, ROUTE_ACTING, RIGHT_ADMIN, snapshot_remove},
    {"POST", {"v1", "snapshots", ":tag", "compact"}, ROUTE_PATIENT, RIGHT_ADMIN, snapshot_post_compact},
    {"GET", {"v1", "sandboxes"}, ROUTE_ACTING, RIGHT_READ, sandboxes_list},
    {"POST", {"v1", "sandboxes"}, ROUTE_ACTING, RIGHT_RUN, sandboxes_post},
    {"GET", {"v1", "sandboxes", ":id"}, ROUTE_QUICK, RIGHT_READ, sandbox_get},
    {"DELETE", {"v1", "sandboxes", ":id"}, ROUTE_ACTING, RIGHT_RUN, sandbox_delete},
    {"POST", {"v1", "sandboxes", ":id", "ping"}, ROUTE_PATIENT, RIGHT_RUN, sandbox_ping},
    {"POST", {"v1", "sandboxes", ":id", "exec"}, ROUTE_PATIENT, RIGHT_RUN, sandbox_exec},
    {"POST", {"v1", "sandboxes", ":id", "eval"}, ROUTE_PATIENT, RIGHT_RUN, sandbox_eval},
    {"POST", {"v1", "sandboxes", ":id", "branch"}, ROUTE_ACTING, RIGHT_RUN, sandbox_post_branch},
    {"POST", {"v1", "sandboxes", ":id", "resume"}, ROUTE_ACTING, RIGHT_RUN, sandbox_post_resume},
    {"GET", {"v1", "workspaces"}, ROUTE_QUICK, RIGHT_READ, route_workspaces},
    {"POST", {"v1", "workspaces"}, ROUTE_ACTING, RIGHT_RUN, route_workspace_create},
    {"GET", {"v1", "workspaces", ":name"}, ROUTE_QUICK, RIGHT_READ, route_workspace},
    {"DELETE", {"v1", "workspaces", ":name"}, ROUTE_ACTING, RIGHT_RUN, route_workspace_delete},
    {"POST", {"v1", "workspaces", ":name", "suspend"}, ROUTE_ACTING, RIGHT_RUN, route_workspace_suspend},
    {"POST", {"v1", "workspaces", ":name", "resume"}, ROUTE_ACTING, RIGHT_RUN, route_workspace_resume},
};

enum { ROUTES = sizeof routes / sizeof *routes };
_Static_assert(ROUTES <= (int)METRICS_ROUTES, "every route is counted");

static bool path_matches(const struct route *route, const struct rest_target *target, const char **param)
{
    unsigned i = 0;
    *param = NULL;
    for (; i < 5 && route->path[i]; i++) {
        if (i >= target->parts)
            return false;
        if (*route->path[i] == ':')
            *param = target->part[i];
        else if (strcmp(route->path[i], target->part[i]) != 0)
            return false;
    }
    return i == target->parts && (!*param || **param);
}

const struct route *route_find(const char *method, const struct rest_target *target, const char **param, char *allowed,
                               size_t cap)
{
    size_t len = 0;
    allowed[0] = 0;
    for (size_t i = 0; i < ROUTES; i++) {
        if (!path_matches(&routes[i], target, param))
            continue;
        if (!strcmp(routes[i].method, method))
            return &routes[i];
        len += (size_t)snprintf(allowed + len, cap - len, "%s%s", len ? ", " : "", routes[i].method);
    }
    return NULL;
}

const struct route *route_at(unsigned number)
{
    return number < ROUTES ? &routes[number] : NULL;
}

unsigned route_number(const struct route *route)
{
    return (unsigned)(route - routes);
}

void route_path(const struct route *route, char path[ROUTE_PATH_MAX])
{
    size_t len = 0;
    for (unsigned i = 0; i < 5 && route->path[i]; i++)
        len += (size_t)snprintf(path + len, ROUTE_PATH_MAX - len, "/%s", route->path[i]);
}
