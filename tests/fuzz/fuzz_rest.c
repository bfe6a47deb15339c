/* fuzz_rest.c: what a client of the API sends. The first byte chooses the parser; what it accepts must be within
 * the limits that its callers rely on, and what it makes of bytes must be JSON. */
#include "proto/rest.h"

#include <stdlib.h>
#include <string.h>

static void check(bool claim)
{
    if (!claim)
        abort();
}

static void fuzz_snapshot(const char *body, size_t len)
{
    struct rest_snapshot_create rq;
    struct err err;
    if (rest_parse_snapshot_create(body, len, &rq, &err) < 0) {
        check(err.code > 0 && *err.text);
        return;
    }
    check(rest_tag_valid(rq.tag) && (rq.kernel || rq.image));
    check(rq.mem_size_mib >= REST_MEM_MIN_MIB && rq.mem_size_mib <= REST_MEM_MAX_MIB);
    check(rq.vcpus >= 1 && rq.vcpus <= REST_VCPUS_MAX);
    check(rq.boot_wait_secs >= 1 && rq.boot_wait_secs <= REST_BOOT_WAIT_MAX);
    for (const char **m = rq.warmup; m && *m; m++)
        check(strlen(*m) <= len);
    rest_snapshot_create_free(&rq);
}

static void fuzz_spawn(const char *body, size_t len)
{
    struct rest_spawn rq;
    if (rest_parse_spawn(body, len, &rq, NULL) < 0)
        return;
    check(rest_tag_valid(rq.snapshot_tag) && rq.n >= 1 && rq.n <= REST_SPAWN_MAX);
    check(rq.memory_limit_mib <= 1 << 30);
    rest_spawn_free(&rq);
}

static void fuzz_exec(const char *body, size_t len)
{
    struct rest_exec rq;
    if (rest_parse_exec(body, len, &rq, NULL) < 0)
        return;
    check(rq.args[0] && *rq.args[0] && rq.cwd);
    check(rq.timeout_secs >= 1 && rq.timeout_secs <= REST_TIMEOUT_MAX && rq.output_limit <= REST_OUTPUT_MAX);
    for (const char **e = rq.env; e && *e; e++)
        check(strchr(*e, '=') > *e);
    rest_exec_free(&rq);
}

static void fuzz_eval(const char *body, size_t len)
{
    struct rest_eval rq;
    if (rest_parse_eval(body, len, &rq, NULL) < 0)
        return;
    check(rq.code && rq.timeout_secs >= 1);
    rest_eval_free(&rq);
}

static void fuzz_branch(const char *body, size_t len)
{
    struct rest_branch_create rq;
    enum rest_mode mode = REST_LIVE;
    if (rest_parse_branch(body, len, &rq, NULL) < 0)
        return;
    check(!rq.tag || rest_tag_valid(rq.tag));
    if (rest_branch_mode(&rq, &mode, NULL) == 0) {
        check(mode == REST_FULL || mode == REST_DIFF || mode == REST_LIVE);
        check(!rq.measure_diff || mode == REST_FULL);
        check(rq.diff ? mode == REST_DIFF : !rq.live || mode == REST_LIVE);
    }
    rest_branch_create_free(&rq);
}

/* Its states' tags are tags. */
static void fuzz_workspace(const char *body, size_t len)
{
    struct rest_workspace_create rq;
    char tag[256];
    bool diff;
    rest_parse_workspace_suspend(body, len, &diff, NULL);
    if (rest_parse_workspace_create(body, len, &rq, NULL) < 0)
        return;
    snprintf(tag, sizeof tag, "ws-%s-state.2", rq.name);
    check(rest_tag_valid(tag) && rest_tag_valid(rq.snapshot_tag) && rq.memory_limit_mib <= 1 << 30);
    rest_workspace_create_free(&rq);
}

static void fuzz_target(const char *body, size_t len)
{
    struct rest_target target;
    char *text = strndup(body, len);
    if (text && rest_parse_target(text, &target, NULL) == 0) {
        check(target.parts <= REST_TARGET_PARTS && target.args <= REST_TARGET_ARGS);
        for (unsigned i = 0; i < target.parts; i++)
            check(strlen(target.part[i]) < REST_TARGET_PART_MAX);
        rest_target_flag(&target, "memory");
    }
    free(text);
}

static void fuzz_bytes(const char *body, size_t len)
{
    json_t *text = rest_json_bytes(body, len);
    check(text != NULL);
    char *dumped = json_dumps(text, JSON_ENCODE_ANY);
    json_t *again = dumped ? json_loads(dumped, JSON_DECODE_ANY | JSON_ALLOW_NUL, NULL) : NULL;
    check(again && json_equal(text, again));
    json_decref(again);
    json_decref(text);
    free(dumped);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    static void (*const targets[])(const char *body, size_t len) = {
        fuzz_snapshot, fuzz_spawn, fuzz_exec, fuzz_eval, fuzz_target, fuzz_bytes, fuzz_branch, fuzz_workspace};
    if (len)
        targets[data[0] % (sizeof targets / sizeof *targets)]((const char *)data + 1, len - 1);
    return 0;
}
