/* fuzz_routes.c: a whole request, from its line to its answer: "METHOD TARGET\nBODY". The routes and the fleet are the
 * controller's; what would act on this host is replaced by functions that check what they rely on. The fleet has one
 * snapshot, py, and one sandbox, sb-1. */
#include "base/own.h"
#include "controller/agent_client.h"
#include "controller/branches.h"
#include "controller/durable.h"
#include "controller/refusal.h"
#include "controller/routes.h"
#include "controller/sandbox_watch.h"
#include "controller/sandboxes.h"
#include "controller/snapshot_info.h"
#include "controller/snapshots.h"
#include "controller/trees.h"
#include "controller/workspaces.h"

#include <string.h>

static struct controller controller;
static struct snapshot *snapshot;
static struct sandbox *sandbox;
static unsigned turn; /* every other call of a lifecycle fails */

static void check(bool claim)
{
    if (!claim)
        abort();
}

static bool fails(void)
{
    return ++turn % 4 == 0;
}

static void take_sandbox(void)
{
    pthread_mutex_lock(&controller.fleet.lock);
    sandbox->refs++;
    pthread_mutex_unlock(&controller.fleet.lock);
}

static void take_snapshot(void)
{
    pthread_mutex_lock(&controller.fleet.lock);
    snapshot->refs++;
    pthread_mutex_unlock(&controller.fleet.lock);
}

int snapshot_create(struct controller *c, const struct rest_snapshot_create *rq, struct snapshot **made, char *console,
                    struct err *err)
{
    check(rest_tag_valid(rq->tag) && (rq->kernel || rq->image) && rq->boot_wait_secs <= REST_BOOT_WAIT_MAX);
    snprintf(console, CONSOLE_TAIL_MAX, "%s", turn % 8 == 3 ? "Linux version\nKernel panic" : "");
    if (fails())
        return err_say(err, EIO, "the guest ended");
    take_snapshot();
    *made = snapshot;
    return 0;
}

int snapshot_delete(struct controller *c, const char *tag, enum removal how, struct err *err)
{
    check(rest_tag_valid(tag));
    return fails() ? err_say(err, REFUSED_MISSING, "snapshot %s not found", tag) : 0;
}

int durable_await(struct controller *c, struct snapshot *s, struct err *err)
{
    return fails() ? err_say(err, EIO, "snapshot %s can be forked, but the disk is full", s->tag) : 0;
}

int snapshot_compact(struct controller *c, const char *tag, const char *to, struct snapshot **made, struct err *err)
{
    check(rest_tag_valid(tag) && rest_tag_valid(to));
    if (fails())
        return err_say(err, REFUSED_CONFLICT, "snapshot %s exists already", to);
    take_snapshot();
    *made = snapshot;
    return 0;
}

json_t *snapshot_info_json(struct controller *c, struct snapshot *s)
{
    return snapshot_json(c, s, false);
}

int sandboxes_spawn(struct controller *c, const struct rest_spawn *rq, const char *workspace, struct sandbox ***made,
                    struct err *err)
{
    check(rest_tag_valid(rq->snapshot_tag) && rq->n >= 1 && rq->n <= REST_SPAWN_MAX);
    if (fails())
        return err_say(err, REFUSED_CONFLICT, "snapshot %s is not bootable", rq->snapshot_tag);
    *made = calloc(3, sizeof **made);
    check(*made != NULL);
    for (int i = 0; i < 2; i++) {
        take_sandbox();
        (*made)[i] = sandbox;
    }
    return 0;
}

int sandbox_kill(struct controller *c, const char *id, struct err *err)
{
    check(*id);
    return fails() ? err_say(err, REFUSED_MISSING, "sandbox %s not found", id) : 0;
}

int sandbox_branch(struct controller *c, const char *id, const struct rest_branch_create *rq, struct snapshot **made,
                   struct err *err)
{
    check(*id);
    if (fails())
        return err_say(err, REFUSED_BUSY, "too many branches");
    take_snapshot();
    *made = snapshot;
    return 0;
}

int sandbox_check_runs(struct controller *c, const struct sandbox *b, struct err *err)
{
    return fails() ? err_say(err, REFUSED_CONFLICT, "sandbox %s is stalled", b->vmm.id) : 0;
}

int sandbox_resume(struct controller *c, struct sandbox *b, struct err *err)
{
    return sandbox_check_runs(c, b, err);
}

json_t *snapshot_json(struct controller *c, struct snapshot *s, bool memory)
{
    return json_pack("{s:s}", "tag", s->tag);
}

json_t *sandbox_json(struct controller *c, struct sandbox *b, bool memory)
{
    return json_pack("{s:s}", "id", b->vmm.id);
}

static int answer_of(json_t **answer, struct err *err)
{
    if (fails())
        return err_say(err, EPROTO, "the agent hung up");
    *answer = json_object();
    return 0;
}

int agent_ping(const struct rundir *run, const char *id, json_t **answer, struct err *err)
{
    return answer_of(answer, err);
}

int agent_exec(const struct rundir *run, const char *id, const struct rest_exec *rq, json_t **answer, struct err *err)
{
    check(rq->args[0] && *rq->args[0] && rq->output_limit <= REST_OUTPUT_MAX && rq->timeout_secs <= REST_TIMEOUT_MAX);
    return answer_of(answer, err);
}

int agent_eval(const struct rundir *run, const char *id, const struct rest_eval *rq, json_t **answer, struct err *err)
{
    check(rq->code && rq->timeout_secs <= REST_TIMEOUT_MAX);
    return answer_of(answer, err);
}

int workspace_create(struct controller *c, const struct rest_workspace_create *rq, json_t **json, struct err *err)
{
    check(*rq->name && strlen(rq->name) <= REST_WORKSPACE_MAX && rest_tag_valid(rq->name));
    check(rest_tag_valid(rq->snapshot_tag));
    return answer_of(json, err);
}

int workspace_suspend(struct controller *c, const char *name, bool diff, json_t **json, struct err *err)
{
    return workspace_get(c, name, json, err);
}

int workspace_resume(struct controller *c, const char *name, json_t **json, struct err *err)
{
    return workspace_get(c, name, json, err);
}

int workspace_delete(struct controller *c, const char *name, struct err *err)
{
    return fails() ? err_say(err, REFUSED_MISSING, "workspace %s not found", name) : 0;
}

int workspace_get(struct controller *c, const char *name, json_t **json, struct err *err)
{
    if (workspace_delete(c, name, err) < 0)
        return -err->code;
    return answer_of(json, err);
}

json_t *workspaces_json(struct controller *c)
{
    return json_array();
}

void vmm_release(struct vmm *vmm)
{
}

void tree_unref(struct tree *tree)
{
}

/* Of an error: one field, in words, without what a terminal would act on but for the lines of a console. */
static void check_error(const struct reply *reply)
{
    json_error_t why;
    json_t *answer = json_loadb(reply->body, reply->len, 0, &why);
    const char *text = json_string_value(json_object_get(answer, "error"));
    check(json_object_size(answer) == 1 && text && *text);
    for (const char *c = text; *c; c++)
        check(*c == '\n' || ((unsigned char)*c >= 0x20 && *c != 0x7f));
    json_decref(answer);
}

static void check_reply(const struct reply *reply)
{
    check(reply->status >= 200 && reply->status < 600 && (reply->body || !reply->len));
    if (reply->status >= 400) {
        check_error(reply);
    } else if (reply->len && !reply->type) {
        json_t *answer = json_loadb(reply->body, reply->len, 0, NULL);
        check(answer != NULL);
        json_decref(answer);
    }
}

static void request(const char *method, const char *target_text, const char *body, size_t len)
{
    struct rest_target target;
    struct err err;
    char allowed[64];
    const char *param;
    if (rest_parse_target(target_text, &target, &err) < 0) {
        check(err.code == EINVAL && *err.text);
        return;
    }
    const struct route *route = route_find(method, &target, &param, allowed, sizeof allowed);
    if (!route)
        return;
    struct call call = {.target = &target, .param = param, .body = body, .len = len};
    struct reply reply = {0};
    route->fn(&controller, &call, &reply);
    check_reply(&reply);
    reply_free(&reply);
}

static void prepare(void)
{
    static struct tree tree = {.cgroup = -1};
    fleet_init(&controller.fleet);
    snapshot = snapshot_new("py");
    check(snapshot != NULL);
    snapshot->tree = &tree;
    check(fleet_snapshot_add(&controller.fleet, snapshot, NULL) == 0);
    sandbox = sandbox_new(&controller.fleet, snapshot);
    check(sandbox != NULL);
    snprintf(sandbox->vmm.id, sizeof sandbox->vmm.id, "sb-1");
    fleet_sandbox_add(&controller.fleet, sandbox);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    if (!sandbox)
        prepare();
    turn = 0;
    own_free char *line = strndup((const char *)data, len);
    size_t head = strcspn(line, "\n"), begin = head + 1 < len ? head + 1 : len;
    line[head] = 0;
    char *target = strchr(line, ' ');
    if (target) {
        *target++ = 0;
        request(line, target, (const char *)data + begin, len - begin);
    }
    return 0;
}
