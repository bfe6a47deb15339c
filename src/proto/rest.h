/* rest.h: the bodies of the HTTP API, and what its names may look like.
 *
 * Theory of operation. A request's body is text from a stranger. rest_parse_*() turn it into a struct whose
 * every field was checked: type, range, characters. Unknown fields are ignored, absent ones take their default,
 * null counts as absent. The struct keeps the parsed document, into which its strings point; rest_*_free()
 * releases both. An empty body is an empty object.
 *
 * What goes out is made by rest_json_*(): the one place that knows the order of fields and which of them are
 * left out. All texts are UTF-8; bytes from a guest go through rest_json_bytes(). */
#ifndef FORKD_PROTO_REST_H
#define FORKD_PROTO_REST_H

#include "base/err.h"

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    REST_BODY_MAX = 2 << 20,
    REST_TAG_MAX = 64,
    REST_ID_MAX = 41,
    REST_WORKSPACE_MAX = 53, /* a name of a workspace: ws-NAME-state.2 is a tag */
    REST_SPAWN_MAX = 1000,
    REST_LIST_MAX = 1024,         /* entries of args, env, warmup */
    REST_BOOT_WAIT_MAX = 60,      /* seconds */
    REST_TIMEOUT_MAX = 24 * 3600, /* seconds of exec and eval */
    REST_OUTPUT_DEFAULT = 1 << 20,
    REST_OUTPUT_MAX = 16 << 20,
    REST_MEM_MIN_MIB = 16,
    REST_MEM_MAX_MIB = 64 * 1024,
    REST_VCPUS_MAX = 16,
};

#define REST_GUEST_ADDR "10.42.0.2:8888"

/* `[A-Za-z0-9_][A-Za-z0-9._-]{0,63}`, never "." or "..". */
bool rest_tag_valid(const char *tag);
/* `[A-Za-z0-9_-]{1,41}`. */
bool rest_id_valid(const char *id);

struct rest_snapshot_create {
    json_t *document;
    const char *tag;
    const char *kernel, *rootfs, *image, *initrd; /* NULL where absent */
    const char *ready_cmd;
    const char *warmup_code;
    const char **warmup; /* NULL-terminated module names, or NULL */
    bool rw;
    unsigned boot_wait_secs, mem_size_mib, vcpus;
};

struct rest_spawn {
    json_t *document;
    const char *snapshot_tag;
    unsigned n;
    uint64_t memory_limit_mib; /* 0: none */
};

struct rest_exec {
    json_t *document;
    const char **args, **env; /* NULL-terminated; env as NAME=value */
    const char *cwd;          /* "" where absent */
    const char *stdin_;       /* `stdin_len` bytes, NULL where absent */
    size_t stdin_len;
    unsigned timeout_secs;
    uint32_t output_limit; /* bytes of each stream */
};

struct rest_eval {
    json_t *document;
    const char *code;
    unsigned timeout_secs;
};

struct rest_workspace_create {
    json_t *document;
    const char *name, *snapshot_tag;
    uint64_t memory_limit_mib; /* 0: none */
};

/* What is written of a branch; its pause is the same in every mode. */
enum rest_mode { REST_FULL, REST_DIFF, REST_LIVE };

struct rest_branch_create {
    json_t *document;
    const char *tag, *parent_tag; /* NULL where absent */
    const char *mode;             /* as it was said, NULL where absent */
    bool diff, live, measure_diff, wait;
};

/* All: 0, or -EINVAL with a sentence that names the field. */
int rest_parse_snapshot_create(const char *body, size_t len, struct rest_snapshot_create *rq, struct err *err);
int rest_parse_spawn(const char *body, size_t len, struct rest_spawn *rq, struct err *err);
int rest_parse_exec(const char *body, size_t len, struct rest_exec *rq, struct err *err);
int rest_parse_eval(const char *body, size_t len, struct rest_eval *rq, struct err *err);
int rest_parse_workspace_create(const char *body, size_t len, struct rest_workspace_create *rq, struct err *err);
/* The new tag, in a buffer of REST_TAG_MAX + 1 bytes. */
int rest_parse_compact(const char *body, size_t len, char *to, struct err *err);
int rest_parse_workspace_suspend(const char *body, size_t len, bool *diff, struct err *err);
/* Which values go together is another question: rest_branch_mode(), which is asked later than whether the tag is free.
 */
int rest_parse_branch(const char *body, size_t len, struct rest_branch_create *rq, struct err *err);
int rest_branch_mode(const struct rest_branch_create *rq, enum rest_mode *mode, struct err *err);

void rest_snapshot_create_free(struct rest_snapshot_create *rq);
void rest_spawn_free(struct rest_spawn *rq);
void rest_exec_free(struct rest_exec *rq);
void rest_eval_free(struct rest_eval *rq);
void rest_branch_create_free(struct rest_branch_create *rq);
void rest_workspace_create_free(struct rest_workspace_create *rq);

/* The phases of a branch's pause; what each is: snap/branch.h. */
enum rest_phase { REST_KICK, REST_SAVE, REST_LOG, REST_PAGES, REST_RESUME, REST_PHASES };

/* Where a branch came from, and what making it took. */
struct rest_branch {
    char source[REST_ID_MAX + 1];      /* the sandbox; "": the snapshot is no branch */
    char parent_tag[REST_TAG_MAX + 1]; /* of the snapshot the sandbox was spawned from */
    enum rest_mode mode;
    uint64_t pause_us[REST_PHASES];
    unsigned rounds;
    uint64_t pages_streamed, pages_in_pause;
    uint64_t ready_us; /* from the request until it could be forked; 0: it cannot yet */
};

/* What a diff came to, or would come to. */
struct rest_diff {
    uint64_t ms, physical_bytes, logical_bytes;
};

struct rest_snapshot_info {
    const char *tag, *dir, *status, *warning; /* warning may be NULL */
    const struct rest_branch *branch;         /* NULL: it is none */
    const char *compacted;                    /* the snapshot it is the whole of; NULL: it is not */
    const struct rest_diff *diff;             /* NULL: it is none, and was not measured */
    uint64_t created_at_unix;
    bool bootable;
};

struct rest_sandbox_info {
    const char *id, *snapshot_tag;
    uint64_t created_at_unix;
    uint64_t memory_limit_mib; /* 0: none */
    uint32_t pid;              /* 0: none */
    const char *stalled;       /* why its guest stands still; NULL or "": it runs */
    unsigned branch_count;
    const char *last_branch_memory_path; /* NULL: none that is on the disk */
};

struct rest_workspace_info {
    const char *id, *name, *source_snapshot_tag, *status;
    const char *current_state_tag, *live_sandbox_id, *last_branch_memory_path; /* NULL: none */
    uint64_t created_at_unix, last_active_unix;
};

/* New references, NULL without memory. */
json_t *rest_json_workspace(const struct rest_workspace_info *info);
json_t *rest_json_snapshot(const struct rest_snapshot_info *info);
json_t *rest_json_sandbox(const struct rest_sandbox_info *info);
/* A string of bytes that may be no UTF-8: what is not becomes U+FFFD. */
json_t *rest_json_bytes(const void *bytes, size_t len);
json_t *rest_json_error(const char *text);

/* The parts of a request's target ("/v1/sandboxes/x?memory=true"), decoded. */
enum { REST_TARGET_PARTS = 5, REST_TARGET_PART_MAX = 160, REST_TARGET_ARGS = 8 };

struct rest_target {
    unsigned parts;
    char part[REST_TARGET_PARTS][REST_TARGET_PART_MAX];
    unsigned args;
    struct {
        char name[32], value[96];
    } arg[REST_TARGET_ARGS];
};

/* 0, or -EINVAL for what is no target of ours: bad escapes, control characters, too long or too many parts. One slash
 * at the end is allowed; queries beyond the limits are ignored. */
int rest_parse_target(const char *text, struct rest_target *target, struct err *err);
/* A flag of the query: absent is false; `true`, `1` and an empty value are true. */
bool rest_target_flag(const struct rest_target *target, const char *name);

#endif
