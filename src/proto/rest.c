/* rest.c: see rest.h. */
#include "proto/rest.h"

#include "base/utf8.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static bool is_alnum(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
}

bool rest_tag_valid(const char *tag)
{
    size_t len = strlen(tag);
    if (len == 0 || len > REST_TAG_MAX || !(is_alnum(tag[0]) || tag[0] == '_'))
        return false;
    for (const char *c = tag; *c; c++)
        if (!is_alnum(*c) && !strchr("._-", *c))
            return false;
    return true;
}

bool rest_id_valid(const char *id)
{
    size_t len = strlen(id);
    if (len == 0 || len > REST_ID_MAX)
        return false;
    for (const char *c = id; *c; c++)
        if (!is_alnum(*c) && !strchr("_-", *c))
            return false;
    return true;
}

static int load(const char *body, size_t len, json_t **document, struct err *err)
{
    *document = NULL;
    size_t blank = 0;
    while (blank < len && strchr(" \t\r\n", body[blank]) && body[blank])
        blank++;
    if (blank == len) {
        *document = json_object();
        return *document ? 0 : err_say(err, ENOMEM, "out of memory");
    }
    json_error_t why;
    *document = json_loadb(body, len, JSON_REJECT_DUPLICATES, &why);
    if (!*document) {
        /* It quotes what it stumbled over, which a terminal may get to see. */
        for (char *c = why.text; *c; c++)
            if ((unsigned char)*c < 0x20 || *c == 0x7f)
                *c = '?';
        return err_say(err, EINVAL, "the body is no JSON: %s (line %d, column %d)", why.text, why.line, why.column);
    }
    if (!json_is_object(*document)) {
        json_decref(*document);
        *document = NULL;
        return err_say(err, EINVAL, "the body is not a JSON object");
    }
    return 0;
}

/* A field that is there and not null. */
static json_t *field(const json_t *object, const char *name)
{
    json_t *value = json_object_get(object, name);
    return json_is_null(value) ? NULL : value;
}

static int take_string(const json_t *object, const char *name, const char **into, struct err *err)
{
    json_t *value = field(object, name);
    if (!value)
        return 0;
    if (!json_is_string(value))
        return err_say(err, EINVAL, "%s must be a string", name);
    *into = json_string_value(value);
    return 0;
}

static int take_path(const json_t *object, const char *name, const char **into, struct err *err)
{
    int rc = take_string(object, name, into, err);
    if (rc == 0 && *into && !**into)
        return err_say(err, EINVAL, "%s must be the path of a file, not empty", name);
    return rc;
}

static int require_string(const json_t *object, const char *name, const char **into, struct err *err)
{
    *into = NULL;
    int rc = take_string(object, name, into, err);
    if (rc == 0 && !*into)
        return err_say(err, EINVAL, "missing field %s", name);
    return rc;
}

static int take_bool(const json_t *object, const char *name, bool *into, struct err *err)
{
    json_t *value = field(object, name);
    if (!value)
        return 0;
    if (!json_is_boolean(value))
        return err_say(err, EINVAL, "%s must be true or false", name);
    *into = json_is_true(value);
    return 0;
}

static int take_number(const json_t *object, const char *name, uint64_t low, uint64_t high, uint64_t *into,
                       struct err *err)
{
    json_t *value = field(object, name);
    if (!value)
        return 0;
    json_int_t number = json_integer_value(value);
    if (!json_is_integer(value) || number < 0 || (uint64_t)number < low || (uint64_t)number > high)
        return err_say(err, EINVAL, "%s must be a whole number from %llu to %llu", name, (unsigned long long)low,
                       (unsigned long long)high);
    *into = (uint64_t)number;
    return 0;
}

static int take_unsigned(const json_t *object, const char *name, unsigned low, unsigned high, unsigned *into,
                         struct err *err)
{
    uint64_t wide = *into;
    int rc = take_number(object, name, low, high, &wide, err);
    *into = (unsigned)wide;
    return rc;
}

static int take_strings(const json_t *array, const char *name, const char ***into, struct err *err)
{
    size_t count = json_array_size(array);
    if (!json_is_array(array) || count > REST_LIST_MAX)
        return err_say(err, EINVAL, "%s must be a list of at most %d strings", name, REST_LIST_MAX);
    const char **strings = calloc(count + 1, sizeof *strings);
    if (!strings)
        return err_say(err, ENOMEM, "out of memory");
    *into = strings;
    for (size_t i = 0; i < count; i++) {
        strings[i] = json_string_value(json_array_get(array, i));
        if (!strings[i])
            return err_say(err, EINVAL, "%s must be a list of strings", name);
    }
    return 0;
}

/* What the API of the original knows and this version has no network, or no other use, for. */
static int refuse_network(const json_t *object, const char *name, struct err *err)
{
    json_t *value = field(object, name);
    if (!value || json_is_false(value))
        return 0;
    return err_say(err, EINVAL, "%s is not supported: sandboxes of this version have no network", name);
}

static int check_tag(const char *name, const char *tag, struct err *err)
{
    if (rest_tag_valid(tag))
        return 0;
    return err_say(err, EINVAL,
                   "%s must be 1 to %d of the characters A-Z a-z 0-9 . _ - and begin with a letter, a digit or _", name,
                   REST_TAG_MAX);
}

/* A list of module names, or a text of code. */
static int take_warmup(struct rest_snapshot_create *rq, struct err *err)
{
    json_t *value = field(rq->document, "warmup");
    if (!value)
        return 0;
    if (json_is_string(value)) {
        rq->warmup_code = json_string_value(value);
        return 0;
    }
    if (!json_is_array(value))
        return err_say(err, EINVAL, "warmup must be a list of module names or a string of code");
    return take_strings(value, "warmup", &rq->warmup, err);
}

static int read_snapshot_create(struct rest_snapshot_create *rq, struct err *err)
{
    const json_t *d = rq->document;
    int rc = require_string(d, "tag", &rq->tag, err);
    if (rc == 0)
        rc = check_tag("tag", rq->tag, err);
    if (rc == 0)
        rc = take_path(d, "kernel", &rq->kernel, err);
    if (rc == 0)
        rc = take_path(d, "rootfs", &rq->rootfs, err);
    if (rc == 0)
        rc = take_string(d, "image", &rq->image, err);
    if (rc == 0)
        rc = take_path(d, "initrd", &rq->initrd, err);
    if (rc == 0)
        rc = take_string(d, "ready_cmd", &rq->ready_cmd, err);
    if (rc == 0)
        rc = take_bool(d, "rw", &rq->rw, err);
    if (rc == 0)
        rc = refuse_network(d, "tap", err);
    if (rc == 0)
        rc = take_unsigned(d, "boot_wait_secs", 1, REST_BOOT_WAIT_MAX, &rq->boot_wait_secs, err);
    if (rc == 0)
        rc = take_unsigned(d, "mem_size_mib", REST_MEM_MIN_MIB, REST_MEM_MAX_MIB, &rq->mem_size_mib, err);
    if (rc == 0)
        rc = take_unsigned(d, "vcpus", 1, REST_VCPUS_MAX, &rq->vcpus, err);
    if (rc == 0)
        rc = take_warmup(rq, err);
    if (rc == 0 && !rq->kernel && !rq->image)
        rc = err_say(err, EINVAL, "missing field kernel (or image, the name of a built guest image)");
    return rc;
}

int rest_parse_snapshot_create(const char *body, size_t len, struct rest_snapshot_create *rq, struct err *err)
{
    *rq = (struct rest_snapshot_create){.boot_wait_secs = 10, .mem_size_mib = 512, .vcpus = 1};
    int rc = load(body, len, &rq->document, err);
    if (rc == 0)
        rc = read_snapshot_create(rq, err);
    if (rc < 0)
        rest_snapshot_create_free(rq);
    return rc;
}

int rest_parse_spawn(const char *body, size_t len, struct rest_spawn *rq, struct err *err)
{
    *rq = (struct rest_spawn){.n = 1};
    bool ignored = false;
    int rc = load(body, len, &rq->document, err);
    const json_t *d = rq->document;
    if (rc == 0)
        rc = require_string(d, "snapshot_tag", &rq->snapshot_tag, err);
    if (rc == 0)
        rc = check_tag("snapshot_tag", rq->snapshot_tag, err);
    if (rc == 0)
        rc = take_unsigned(d, "n", 1, REST_SPAWN_MAX, &rq->n, err);
    if (rc == 0)
        rc = refuse_network(d, "per_child_netns", err);
    if (rc == 0)
        rc = take_number(d, "memory_limit_mib", 1, 1 << 30, &rq->memory_limit_mib, err);
    /* Wishes that every spawn of ours meets, or that have no meaning here. */
    if (rc == 0)
        rc = take_bool(d, "prewarm", &ignored, err);
    if (rc == 0)
        rc = take_bool(d, "live_fork", &ignored, err);
    if (rc == 0)
        rc = take_bool(d, "hugepages", &ignored, err);
    if (rc < 0)
        rest_spawn_free(rq);
    return rc;
}

/* {"NAME": "value"}, kept as NAME=value in strings of our own. */
static int take_env(struct rest_exec *rq, struct err *err)
{
    json_t *env = field(rq->document, "env");
    if (!env)
        return 0;
    if (!json_is_object(env) || json_object_size(env) > REST_LIST_MAX)
        return err_say(err, EINVAL, "env must be an object of at most %d strings", REST_LIST_MAX);
    rq->env = calloc(json_object_size(env) + 1, sizeof *rq->env);
    if (!rq->env)
        return err_say(err, ENOMEM, "out of memory");
    const char *name;
    json_t *value;
    size_t count = 0;
    json_object_foreach(env, name, value)
    {
        if (!json_is_string(value))
            return err_say(err, EINVAL, "env must hold strings only");
        if (!*name || strchr(name, '='))
            return err_say(err, EINVAL, "a name in env must not be empty or hold '='");
        char *pair;
        if (asprintf(&pair, "%s=%s", name, json_string_value(value)) < 0)
            return err_say(err, ENOMEM, "out of memory");
        rq->env[count++] = pair;
    }
    return 0;
}

static int read_exec(struct rest_exec *rq, struct err *err)
{
    json_t *args = field(rq->document, "args");
    if (!args || (json_is_array(args) && json_array_size(args) == 0))
        return err_say(err, EINVAL, "args must hold at least the program's name");
    int rc = take_strings(args, "args", &rq->args, err);
    if (rc == 0 && !*rq->args[0]) /* NOLINT(clang-analyzer-core.NullDereference): there is one, the list is not empty */
        rc = err_say(err, EINVAL, "the program's name in args is empty");
    if (rc == 0)
        rc = take_env(rq, err);
    if (rc == 0)
        rc = take_string(rq->document, "cwd", &rq->cwd, err);
    if (rc == 0)
        rc = take_string(rq->document, "stdin", &rq->stdin_, err);
    if (rc == 0 && rq->stdin_)
        rq->stdin_len = json_string_length(json_object_get(rq->document, "stdin"));
    if (rc == 0)
        rc = take_unsigned(rq->document, "timeout_secs", 1, REST_TIMEOUT_MAX, &rq->timeout_secs, err);
    if (rc == 0)
        rc = take_unsigned(rq->document, "output_limit", 0, REST_OUTPUT_MAX, &rq->output_limit, err);
    return rc;
}

int rest_parse_exec(const char *body, size_t len, struct rest_exec *rq, struct err *err)
{
    *rq = (struct rest_exec){.cwd = "", .timeout_secs = 30, .output_limit = REST_OUTPUT_DEFAULT};
    int rc = load(body, len, &rq->document, err);
    if (rc == 0)
        rc = read_exec(rq, err);
    if (rc < 0)
        rest_exec_free(rq);
    return rc;
}

int rest_parse_eval(const char *body, size_t len, struct rest_eval *rq, struct err *err)
{
    *rq = (struct rest_eval){.timeout_secs = 30};
    int rc = load(body, len, &rq->document, err);
    if (rc == 0)
        rc = require_string(rq->document, "code", &rq->code, err);
    if (rc == 0)
        rc = take_unsigned(rq->document, "timeout_secs", 1, REST_TIMEOUT_MAX, &rq->timeout_secs, err);
    if (rc < 0)
        rest_eval_free(rq);
    return rc;
}

static int read_workspace(struct rest_workspace_create *rq, struct err *err)
{
    const json_t *d = rq->document;
    int rc = require_string(d, "name", &rq->name, err);
    if (rc == 0 && (!rest_tag_valid(rq->name) || strlen(rq->name) > REST_WORKSPACE_MAX))
        rc = err_say(err, EINVAL,
                     "name must be 1 to %d of the characters A-Z a-z 0-9 . _ - and begin with a letter, a digit or _",
                     REST_WORKSPACE_MAX);
    if (rc == 0)
        rc = require_string(d, "snapshot_tag", &rq->snapshot_tag, err);
    if (rc == 0)
        rc = check_tag("snapshot_tag", rq->snapshot_tag, err);
    if (rc == 0)
        rc = refuse_network(d, "per_child_netns", err);
    if (rc == 0)
        rc = take_number(d, "memory_limit_mib", 1, 1 << 30, &rq->memory_limit_mib, err);
    return rc;
}

int rest_parse_workspace_create(const char *body, size_t len, struct rest_workspace_create *rq, struct err *err)
{
    *rq = (struct rest_workspace_create){0};
    int rc = load(body, len, &rq->document, err);
    if (rc == 0)
        rc = read_workspace(rq, err);
    if (rc < 0)
        rest_workspace_create_free(rq);
    return rc;
}

int rest_parse_workspace_suspend(const char *body, size_t len, bool *diff, struct err *err)
{
    json_t *document;
    *diff = false;
    int rc = load(body, len, &document, err);
    if (rc == 0)
        rc = take_bool(document, "diff", diff, err);
    json_decref(document);
    return rc;
}

int rest_parse_compact(const char *body, size_t len, char *to, struct err *err)
{
    json_t *document;
    const char *tag = NULL;
    int rc = load(body, len, &document, err);
    if (rc == 0)
        rc = take_string(document, "to", &tag, err);
    if (rc == 0 && !tag)
        rc = err_say(err, EINVAL, "to is missing");
    if (rc == 0)
        rc = check_tag("to", tag, err);
    if (rc == 0)
        snprintf(to, REST_TAG_MAX + 1, "%s", tag);
    json_decref(document);
    return rc;
}

static int read_branch(struct rest_branch_create *rq, struct err *err)
{
    const json_t *d = rq->document;
    int rc = take_string(d, "tag", &rq->tag, err);
    if (rc == 0 && rq->tag)
        rc = check_tag("tag", rq->tag, err);
    if (rc == 0)
        rc = take_string(d, "mode", &rq->mode, err);
    if (rc == 0)
        rc = take_bool(d, "diff", &rq->diff, err);
    if (rc == 0)
        rc = take_bool(d, "live", &rq->live, err);
    if (rc == 0)
        rc = take_bool(d, "measure_diff", &rq->measure_diff, err);
    if (rc == 0)
        rc = take_bool(d, "wait", &rq->wait, err);
    if (rc == 0)
        rc = take_string(d, "parent_tag", &rq->parent_tag, err);
    return rc;
}

int rest_parse_branch(const char *body, size_t len, struct rest_branch_create *rq, struct err *err)
{
    *rq = (struct rest_branch_create){.wait = true};
    int rc = load(body, len, &rq->document, err);
    if (rc == 0)
        rc = read_branch(rq, err);
    if (rc < 0)
        rest_branch_create_free(rq);
    return rc;
}

static const char *const mode_names[] = {[REST_FULL] = "full", [REST_DIFF] = "diff", [REST_LIVE] = "live"};

int rest_branch_mode(const struct rest_branch_create *rq, enum rest_mode *mode, struct err *err)
{
    enum { MODES = sizeof mode_names / sizeof *mode_names };
    unsigned named = REST_FULL;
    if (rq->mode && (rq->diff || rq->live))
        return err_say(err, EINVAL, "mode goes with neither diff nor live, which say the same");
    while (rq->mode && named < MODES && strcmp(rq->mode, mode_names[named]) != 0)
        named++;
    if (named == MODES)
        return err_say(err, EINVAL, "mode must be full, diff or live");
    bool diff = rq->diff || named == REST_DIFF, live = rq->live || named == REST_LIVE;
    if (diff + live + rq->measure_diff > 1)
        return err_say(err, EINVAL, "measure_diff, diff and live exclude each other");
    *mode = diff ? REST_DIFF : live ? REST_LIVE : REST_FULL;
    return 0;
}

void rest_snapshot_create_free(struct rest_snapshot_create *rq)
{
    free(rq->warmup);
    json_decref(rq->document);
    *rq = (struct rest_snapshot_create){0};
}

void rest_spawn_free(struct rest_spawn *rq)
{
    json_decref(rq->document);
    *rq = (struct rest_spawn){0};
}

void rest_exec_free(struct rest_exec *rq)
{
    for (const char **pair = rq->env; pair && *pair; pair++)
        free((char *)*pair);
    free(rq->env);
    free(rq->args);
    json_decref(rq->document);
    *rq = (struct rest_exec){0};
}

void rest_eval_free(struct rest_eval *rq)
{
    json_decref(rq->document);
    *rq = (struct rest_eval){0};
}

void rest_workspace_create_free(struct rest_workspace_create *rq)
{
    json_decref(rq->document);
    *rq = (struct rest_workspace_create){0};
}

void rest_branch_create_free(struct rest_branch_create *rq)
{
    json_decref(rq->document);
    *rq = (struct rest_branch_create){0};
}

/* "field": value, left out when there is none. */
static void set_some(json_t *object, const char *name, const char *text)
{
    if (text)
        json_object_set_new(object, name, rest_json_bytes(text, strlen(text)));
}

static void set_number(json_t *object, const char *name, uint64_t number)
{
    json_object_set_new(object, name, json_integer((json_int_t)number));
}

static uint64_t round_ms(uint64_t us)
{
    return (us + 500) / 1000;
}

static void set_pause(json_t *object, const struct rest_branch *branch)
{
    static const char *const phase_names[] = {[REST_KICK] = "kick",
                                              [REST_SAVE] = "save",
                                              [REST_LOG] = "log",
                                              [REST_PAGES] = "pages",
                                              [REST_RESUME] = "resume"};
    _Static_assert(sizeof phase_names / sizeof *phase_names == REST_PHASES, "every phase has a name");
    json_t *pause = json_object();
    uint64_t total = 0;
    for (unsigned i = 0; i < REST_PHASES; i++) {
        set_number(pause, phase_names[i], branch->pause_us[i]);
        total += branch->pause_us[i];
    }
    set_number(pause, "total", total);
    set_number(object, "pause_ms", round_ms(total));
    json_object_set_new(object, "pause_us", pause);
    set_number(object, "rounds", branch->rounds);
    set_number(object, "pages_streamed", branch->pages_streamed);
    set_number(object, "pages_in_pause", branch->pages_in_pause);
    set_number(object, "ready_ms", round_ms(branch->ready_us));
}

static void set_branch(json_t *object, const struct rest_branch *branch)
{
    set_some(object, "branched_from", branch->source);
    set_some(object, "parent_tag", branch->parent_tag);
    set_some(object, "mode", mode_names[branch->mode]);
    if (branch->ready_us)
        set_pause(object, branch);
}

json_t *rest_json_snapshot(const struct rest_snapshot_info *info)
{
    json_t *object = json_object();
    if (!object)
        return NULL;
    set_some(object, "tag", info->tag);
    set_some(object, "dir", info->dir);
    json_object_set_new(object, "created_at_unix", json_integer((json_int_t)info->created_at_unix));
    if (info->branch)
        set_branch(object, info->branch);
    else if (info->compacted)
        json_object_set_new(object, "branched_from", json_sprintf("compact:%s", info->compacted));
    if (info->diff) {
        set_number(object, "diff_ms", info->diff->ms);
        set_number(object, "diff_physical_bytes", info->diff->physical_bytes);
        set_number(object, "diff_logical_bytes", info->diff->logical_bytes);
    }
    set_some(object, "warning", info->warning);
    set_some(object, "status", info->status);
    json_object_set_new(object, "bootable", json_boolean(info->bootable));
    return object;
}

json_t *rest_json_sandbox(const struct rest_sandbox_info *info)
{
    json_t *object = json_object();
    if (!object)
        return NULL;
    set_some(object, "id", info->id);
    set_some(object, "snapshot_tag", info->snapshot_tag);
    json_object_set_new(object, "netns", json_null());
    set_some(object, "guest_addr", REST_GUEST_ADDR);
    json_object_set_new(object, "created_at_unix", json_integer((json_int_t)info->created_at_unix));
    json_object_set_new(object, "pid", info->pid ? json_integer(info->pid) : json_null());
    json_object_set_new(object, "memory_limit_mib",
                        info->memory_limit_mib ? json_integer((json_int_t)info->memory_limit_mib) : json_null());
    json_object_set_new(object, "last_branch_memory_path",
                        info->last_branch_memory_path
                            ? rest_json_bytes(info->last_branch_memory_path, strlen(info->last_branch_memory_path))
                            : json_null());
    json_object_set_new(object, "has_branched", json_boolean(info->branch_count > 0));
    set_number(object, "branch_count", info->branch_count);
    if (info->stalled && *info->stalled)
        set_some(object, "stalled", info->stalled);
    return object;
}

json_t *rest_json_workspace(const struct rest_workspace_info *info)
{
    json_t *object = json_object();
    if (!object)
        return NULL;
    set_some(object, "id", info->id);
    set_some(object, "name", info->name);
    set_some(object, "source_snapshot_tag", info->source_snapshot_tag);
    set_some(object, "current_state_tag", info->current_state_tag);
    set_some(object, "status", info->status);
    set_some(object, "live_sandbox_id", info->live_sandbox_id);
    if (info->last_branch_memory_path)
        json_object_set_new(object, "last_branch_memory_path",
                            rest_json_bytes(info->last_branch_memory_path, strlen(info->last_branch_memory_path)));
    set_number(object, "created_at_unix", info->created_at_unix);
    set_number(object, "last_active_unix", info->last_active_unix);
    return object;
}

json_t *rest_json_error(const char *text)
{
    json_t *object = json_object();
    set_some(object, "error", text);
    return object;
}

json_t *rest_json_bytes(const void *bytes, size_t len)
{
    static const char replacement[] = "\xef\xbf\xbd";
    const uint8_t *in = bytes;
    char *out = malloc(3 * len + 1);
    if (!out)
        return NULL;
    size_t put = 0;
    for (size_t i = 0; i < len;) {
        size_t n = utf8_length(in + i, len - i);
        memcpy(out + put, n ? (const char *)in + i : replacement, n ? n : 3);
        put += n ? n : 3;
        i += n ? n : 1;
    }
    json_t *text = json_stringn_nocheck(out, put);
    free(out);
    return text;
}

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    c |= 0x20;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* Decodes up to one of the `ends` or the end of the text; returns where it stopped, NULL when it is bad or long. */
static const char *decode(const char *text, const char *ends, bool plus, char *into, size_t cap)
{
    size_t put = 0;
    for (; *text && !strchr(ends, *text); text++) {
        char c = plus && *text == '+' ? ' ' : *text;
        if (c == '%') {
            int high = hex_digit(text[1]), low = high < 0 ? -1 : hex_digit(text[2]);
            if (low < 0)
                return NULL;
            c = (char)(high << 4 | low);
            text += 2;
        }
        /* Names of things are printed, in answers and in logs. */
        bool control = (unsigned char)c < 0x20 || c == 0x7f;
        if (control || put + 1 >= cap)
            return NULL;
        into[put++] = c;
    }
    into[put] = 0;
    return text;
}

static const char *skip_argument(const char *text)
{
    return text + strcspn(text, "&");
}

int rest_parse_target(const char *text, struct rest_target *target, struct err *err)
{
    memset(target, 0, sizeof *target);
    while (*text == '/') {
        if (!*++text || *text == '?')
            break;
        if (target->parts == REST_TARGET_PARTS)
            return err_say(err, EINVAL, "the path has too many parts");
        text = decode(text, "/?", false, target->part[target->parts++], REST_TARGET_PART_MAX);
        if (!text)
            return err_say(err, EINVAL, "the path is malformed or too long");
    }
    if (*text && *text != '?')
        return err_say(err, EINVAL, "the path does not begin with a slash");
    while (*text && target->args < REST_TARGET_ARGS) {
        const char *at = text + 1;
        unsigned i = target->args;
        const char *end = decode(at, "=&", true, target->arg[i].name, sizeof target->arg[i].name);
        if (end && *end == '=')
            end = decode(end + 1, "&", true, target->arg[i].value, sizeof target->arg[i].value);
        if (end)
            target->args++;
        text = skip_argument(at);
    }
    return 0;
}

bool rest_target_flag(const struct rest_target *target, const char *name)
{
    for (unsigned i = 0; i < target->args; i++) {
        const char *value = target->arg[i].value;
        if (!strcmp(target->arg[i].name, name))
            return !*value || !strcmp(value, "true") || !strcmp(value, "1");
    }
    return false;
}
