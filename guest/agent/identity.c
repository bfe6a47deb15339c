/* identity.c: IDENTITY: what was one machine a moment ago becomes a machine of its own.
 *
 * In this order, because each step relies on those before: the kernel's generator draws from fresh entropy; the
 * clock is set; host name, id and token are in place; the warm interpreter reseeds (from the kernel); the
 * executables of /etc/forkd/fork.d run, one after the other, in the order of their names. It is acknowledged when
 * all is done; the first step that fails is the answer, and the host then hands nobody this fork.
 *
 * States: STEP_RESEED the interpreter has been told; STEP_HOOK a hook runs; then the job is over. One IDENTITY at a
 * time. A host that hangs up does not stop it: half an identity is worse than one nobody was told of. */
#include "base/own.h"
#include "command.h"
#include "serve.h"
#include "strv.h"
#include "tail.h"
#include "warm.h"

#include <string.h>
#include <sys/stat.h>

#define HOOK_DIR   "/etc/forkd/fork.d"
#define RUN_DIR    "/run/forkd"
#define TOKEN_FILE RUN_DIR "/token"

enum { HOOK_WAIT_MS = 30000, HOOKS_MAX = 256 };

enum step { STEP_RESEED, STEP_HOOK };

struct identity {
    struct agent *agent;
    struct conn_job job;
    struct conn *conn; /* NULL once the host has hung up */
    enum step step;
    struct command hook;
    struct tail tail; /* of the hook's standard error */
    char **env;       /* of the hooks */
    char *hooks[HOOKS_MAX];
    size_t hook_count, hook_next;
};

static void identity_over(struct identity *id, const struct err *err)
{
    id->agent->identity_running = false;
    if (id->conn) {
        struct agent_outcome m = {.ok = !err, .error = agent_text_of(err ? err->text : "")};
        struct pack p = conn_pack(id->conn, ERR_TEXT_MAX + 64);
        agent_pack_outcome(&p, AGENT_IDENTIFIED, &m);
        conn_packed(id->conn, &p);
        conn_finish(id->conn);
    }
    for (size_t i = 0; i < id->hook_count; i++)
        free(id->hooks[i]);
    free(id->env);
    free(id);
}

static void identity_gone(struct conn_job *job)
{
    list_entry(job, struct identity, job)->conn = NULL;
}

static bool name_is_made_of(struct agent_text name, const char *more)
{
    for (size_t i = 0; i < name.len; i++) {
        char c = name.at[i];
        bool plain = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
        if (!plain && (!c || !strchr(more, c)))
            return false;
    }
    return name.len > 0;
}

/* What the kernel and the files of this machine say. */
static int identity_of_machine(struct agent *agent, const struct agent_identity *m, struct err *err)
{
    char hostname[AGENT_HOSTNAME_MAX + 1] = "";
    if (!name_is_made_of(m->hostname, "-.") || !name_is_made_of(m->id, "-_"))
        return err_say(err, EINVAL, "a host name or id with characters that are not allowed");
    memcpy(hostname, m->hostname.at, m->hostname.len);
    int rc = effects_entropy(&agent->effects, m->entropy.at, m->entropy.len, err);
    if (rc == 0 && m->realtime_ns)
        rc = effects_clock(&agent->effects, m->realtime_ns, err);
    if (rc == 0)
        rc = effects_hostname(&agent->effects, hostname, err);
    if (rc == 0)
        rc = effects_file(&agent->effects, RUN_DIR "/id", m->id.at, m->id.len, 0644, err);
    if (rc == 0)
        rc = effects_file(&agent->effects, TOKEN_FILE, m->token.at, m->token.len, 0600, err);
    if (rc < 0)
        return rc;
    char **env = strv_env(agent->env, m->env, NULL);
    if (!env)
        return err_set(err, ENOMEM, "set the environment");
    free(agent->env);
    agent->env = env;
    return 0;
}

static int identity_hook_env(struct identity *id, const struct agent_identity *m, struct err *err)
{
    uint8_t bytes[AGENT_HOSTNAME_MAX + AGENT_ID_MAX + EFFECTS_PATH_MAX + 64];
    char line[EFFECTS_PATH_MAX + 32], path[EFFECTS_PATH_MAX];
    struct pack p = pack_into(bytes, sizeof bytes);
    snprintf(line, sizeof line, "FORKD_ID=%.*s", (int)m->id.len, m->id.at);
    pack_str(&p, line);
    snprintf(line, sizeof line, "FORKD_HOSTNAME=%.*s", (int)m->hostname.len, m->hostname.at);
    pack_str(&p, line);
    snprintf(line, sizeof line, "FORKD_TOKEN_FILE=%s", effects_path(&id->agent->effects, TOKEN_FILE, path));
    pack_str(&p, line);
    struct agent_list extra = {.count = 3, .at = bytes, .len = p.len};
    id->env = p.full ? NULL : strv_env(id->agent->env, extra, NULL);
    return id->env ? 0 : err_set(err, ENOMEM, "prepare the hooks' environment");
}

static int by_name(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

/* Executables whose names begin with a letter or digit and hold no dot or tilde, as run-parts(8) has it: what
 * editors and package managers leave beside them is no hook. */
static int identity_find_hooks(struct identity *id, struct err *err)
{
    char dir[EFFECTS_PATH_MAX], path[EFFECTS_PATH_MAX + 256];
    effects_path(&id->agent->effects, HOOK_DIR, dir);
    own_dir DIR *d = opendir(dir);
    if (!d)
        return errno == ENOENT || errno == ENOTDIR ? 0 : err_set(err, errno, "open %s", dir);
    for (struct dirent *e; (e = readdir(d));) {
        struct stat st;
        if (!name_is_made_of(agent_text_of(e->d_name), "-_"))
            continue;
        snprintf(path, sizeof path, "%s/%s", dir, e->d_name);
        if (stat(path, &st) < 0 || !S_ISREG(st.st_mode) || !(st.st_mode & 0111))
            continue;
        if (id->hook_count == HOOKS_MAX)
            return err_say(err, E2BIG, "more than %d hooks in %s", HOOKS_MAX, dir);
        if (!(id->hooks[id->hook_count] = strdup(path)))
            return err_set(err, ENOMEM, "list the hooks of %s", dir);
        id->hook_count++;
    }
    qsort(id->hooks, id->hook_count, sizeof *id->hooks, by_name);
    return 0;
}

static void identity_next_hook(struct identity *id)
{
    struct err err = {0};
    if (id->hook_next == id->hook_count) {
        identity_over(id, NULL);
        return;
    }
    char *const argv[] = {id->hooks[id->hook_next], NULL};
    struct command_spec spec = {.argv = argv, .env = id->env, .timeout_ms = HOOK_WAIT_MS, .output_limit = UINT32_MAX};
    id->step = STEP_HOOK;
    id->tail = (struct tail){0};
    if (command_start(&id->hook, id->agent, &spec, &err) < 0) {
        err_wrap(&err, "the hook %s cannot start", argv[0]);
        identity_over(id, &err);
    }
}

static void identity_hook_output(struct command *hook, bool is_stderr, const uint8_t *bytes, size_t len)
{
    if (is_stderr)
        tail_take(&list_entry(hook, struct identity, hook)->tail, bytes, len);
}

static void identity_hook_ended(struct command *hook, const struct agent_exit *exit)
{
    struct identity *id = list_entry(hook, struct identity, hook);
    struct err err = {0};
    if (exit->kind == AGENT_EXITED && exit->code == 0) {
        id->hook_next++;
        identity_next_hook(id);
        return;
    }
    const char *name = id->hooks[id->hook_next], *colon = id->tail.len ? ": " : "";
    if (exit->kind == AGENT_EXITED)
        err_say(&err, EIO, "the hook %s failed with exit status %d%s%s", name, exit->code, colon, id->tail.line);
    else if (exit->kind == AGENT_TIMED_OUT)
        err_say(&err, ETIMEDOUT, "the hook %s did not end within %d s and was killed%s%s", name, HOOK_WAIT_MS / 1000,
                colon, id->tail.line);
    else
        err_say(&err, EIO, "the hook %s was %.*s%s%s", name, (int)exit->reason.len, exit->reason.at, colon,
                id->tail.line);
    identity_over(id, &err);
}

static void identity_reseeded(void *arg, const struct err *err)
{
    struct identity *id = arg;
    if (err)
        identity_over(id, err);
    else
        identity_next_hook(id);
}

void identity_serve(struct conn *conn, const struct agent_identity *m)
{
    struct agent *agent = conn->agent;
    struct err err = {0};
    if (agent->identity_running) {
        conn_refuse(conn, AGENT_BUSY, "another identity is being taken on");
        return;
    }
    struct identity *id = calloc(1, sizeof *id);
    if (!id) {
        conn_refuse(conn, AGENT_BUSY, "no memory to take on an identity");
        return;
    }
    id->agent = agent;
    id->conn = conn;
    id->job.gone = identity_gone;
    id->hook.output = identity_hook_output;
    id->hook.ended = identity_hook_ended;
    agent->identity_running = true;
    conn_serve(conn, &id->job);
    int rc = identity_of_machine(agent, m, &err);
    if (rc == 0)
        rc = identity_hook_env(id, m, &err);
    if (rc == 0)
        rc = identity_find_hooks(id, &err);
    if (rc < 0) {
        identity_over(id, &err);
        return;
    }
    id->step = STEP_RESEED;
    warm_reseed(agent->warm, m, identity_reseeded, id);
}
