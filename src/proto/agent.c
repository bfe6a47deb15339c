/* agent.c: see agent.h. Each message has its two functions side by side; they read in the same order. */
#include "proto/agent.h"

#include <errno.h>
#include <string.h>

static const struct {
    enum agent_type type;
    const char *name;
} type_names[] = {
    {AGENT_PING, "PING"},           {AGENT_EXEC, "EXEC"},
    {AGENT_EVAL, "EVAL"},           {AGENT_WARM, "WARM"},
    {AGENT_IDENTITY, "IDENTITY"},   {AGENT_SETTLE, "SETTLE"},
    {AGENT_RUN_READY, "RUN_READY"}, {AGENT_SHUTDOWN, "SHUTDOWN"},
    {AGENT_STDIN, "STDIN"},         {AGENT_PONG, "PONG"},
    {AGENT_EXIT, "EXIT"},           {AGENT_EVALUATED, "EVALUATED"},
    {AGENT_WARMED, "WARMED"},       {AGENT_IDENTIFIED, "IDENTIFIED"},
    {AGENT_SETTLED, "SETTLED"},     {AGENT_STOPPING, "STOPPING"},
    {AGENT_STDOUT, "STDOUT"},       {AGENT_STDERR, "STDERR"},
    {AGENT_REFUSED, "REFUSED"},
};
_Static_assert(sizeof type_names / sizeof *type_names == AGENT_STDIN + (AGENT_REFUSED - AGENT_PONG + 1),
               "every type has a name");
_Static_assert(4 * AGENT_EVAL_TEXT_MAX + 64 <= AGENT_FRAME_MAX, "EVALUATED fits a frame");

struct agent_text agent_text_of(const char *s)
{
    return (struct agent_text){s, strlen(s)};
}

struct agent_blob agent_blob_of(const void *bytes, size_t len)
{
    return (struct agent_blob){bytes, len};
}

const char *agent_type_name(unsigned type)
{
    for (size_t i = 0; i < sizeof type_names / sizeof *type_names; i++)
        if (type_names[i].type == type)
            return type_names[i].name;
    return "unknown frame";
}

bool agent_list_next(struct agent_list *list, struct agent_text *text)
{
    if (!list->count)
        return false;
    struct unpack u = unpack_from(list->at, list->len);
    text->at = (const char *)unpack_blob(&u, &text->len);
    list->count--;
    list->at += u.at;
    list->len -= u.at;
    return !u.bad;
}

ssize_t agent_frame_parse(const uint8_t *buf, size_t len, struct agent_frame *frame, size_t *need, struct err *err)
{
    size_t missing = AGENT_FRAME_HEAD;
    struct unpack u = unpack_from(buf, len);
    if (len >= 4) {
        size_t follows = unpack_u32(&u);
        if (follows < AGENT_FRAME_HEAD - 4 || follows > AGENT_FRAME_MAX)
            return err_say(err, EPROTO, "a frame of %zu bytes is outside the limits", follows);
        missing = 4 + follows;
    }
    /* The head is judged as soon as it is there, so that a stranger is not listened to for a mebibyte. */
    if (len >= AGENT_FRAME_HEAD) {
        unsigned version = unpack_u8(&u), type = unpack_u8(&u);
        if (version != AGENT_VERSION)
            return err_say(err, EPROTO, "a frame of protocol version %u, this side speaks %d", version, AGENT_VERSION);
        *frame = (struct agent_frame){.type = type, .body = buf + AGENT_FRAME_HEAD, .len = missing - AGENT_FRAME_HEAD};
    }
    if (need)
        *need = missing;
    return len < missing ? 0 : (ssize_t)missing;
}

static size_t frame_begin(struct pack *p, enum agent_type type)
{
    size_t at = p->len;
    pack_u32(p, 0);
    pack_u8(p, AGENT_VERSION);
    pack_u8(p, (uint8_t)type);
    return at;
}

static void frame_end(struct pack *p, size_t at)
{
    if (p->full || p->len - at - 4 > AGENT_FRAME_MAX) {
        p->full = true;
        return;
    }
    struct pack head = pack_into(p->buf + at, 4);
    pack_u32(&head, (uint32_t)(p->len - at - 4));
}

static void pack_text(struct pack *p, struct agent_text text)
{
    if (text.len && memchr(text.at, 0, text.len))
        p->full = true;
    pack_blob(p, text.at, text.len);
}

static void pack_data(struct pack *p, struct agent_blob blob)
{
    pack_blob(p, blob.at, blob.len);
}

static void pack_flag(struct pack *p, bool flag)
{
    pack_u8(p, flag);
}

static void pack_list(struct pack *p, const struct agent_list *list)
{
    uint32_t count = list->count;
    if (list->strings)
        for (count = 0; list->strings[count] && count <= AGENT_LIST_MAX;)
            count++;
    if (count > AGENT_LIST_MAX)
        p->full = true;
    pack_u32(p, count);
    if (!list->strings)
        pack_bytes(p, list->at, list->len);
    else
        for (uint32_t i = 0; i < count; i++)
            pack_str(p, list->strings[i]);
}

static struct unpack body_of(const struct agent_frame *frame)
{
    return unpack_from(frame->body, frame->len);
}

static struct agent_text unpack_text(struct unpack *u)
{
    struct agent_text text;
    text.at = (const char *)unpack_blob(u, &text.len);
    if (text.len && memchr(text.at, 0, text.len))
        u->bad = true;
    return text;
}

static struct agent_blob unpack_data(struct unpack *u)
{
    struct agent_blob blob;
    blob.at = unpack_blob(u, &blob.len);
    return blob;
}

static unsigned unpack_below(struct unpack *u, unsigned limit)
{
    unsigned v = unpack_u8(u);
    if (v >= limit)
        u->bad = true;
    return v;
}

static bool unpack_flag(struct unpack *u)
{
    return unpack_below(u, 2);
}

static struct agent_list unpack_list(struct unpack *u)
{
    struct agent_list list = {.count = unpack_u32(u)};
    list.at = u->buf + u->at;
    if (list.count > AGENT_LIST_MAX)
        u->bad = true;
    for (uint32_t i = 0; i < list.count && !u->bad; i++)
        unpack_text(u);
    list.len = (size_t)(u->buf + u->at - list.at);
    return list;
}

static int done(const struct unpack *u, const struct agent_frame *frame, enum agent_type type, struct err *err)
{
    if (frame->type != type)
        return err_say(err, EPROTO, "%s where %s was expected", agent_type_name(frame->type), agent_type_name(type));
    if (!unpack_done(u))
        return err_say(err, EPROTO, "a malformed %s", agent_type_name(type));
    return 0;
}

void agent_pack_empty(struct pack *p, enum agent_type type)
{
    frame_end(p, frame_begin(p, type));
}

int agent_unpack_empty(const struct agent_frame *frame, enum agent_type type, struct err *err)
{
    struct unpack u = body_of(frame);
    return done(&u, frame, type, err);
}

void agent_pack_data(struct pack *p, enum agent_type type, const void *bytes, size_t len)
{
    size_t at = frame_begin(p, type);
    pack_bytes(p, bytes, len);
    frame_end(p, at);
}

void agent_pack_pong(struct pack *p, const struct agent_pong *m)
{
    size_t at = frame_begin(p, AGENT_PONG);
    pack_text(p, m->version);
    pack_u32(p, m->pid);
    pack_text(p, m->lang);
    pack_flag(p, m->warmup_ready);
    pack_text(p, m->numpy_version);
    pack_text(p, m->hostname);
    pack_u64(p, m->uptime_ns);
    frame_end(p, at);
}

int agent_unpack_pong(const struct agent_frame *frame, struct agent_pong *m, struct err *err)
{
    struct unpack u = body_of(frame);
    m->version = unpack_text(&u);
    m->pid = unpack_u32(&u);
    m->lang = unpack_text(&u);
    m->warmup_ready = unpack_flag(&u);
    m->numpy_version = unpack_text(&u);
    m->hostname = unpack_text(&u);
    m->uptime_ns = unpack_u64(&u);
    return done(&u, frame, AGENT_PONG, err);
}

void agent_pack_exec(struct pack *p, const struct agent_exec *m)
{
    size_t at = frame_begin(p, AGENT_EXEC);
    pack_list(p, &m->argv);
    pack_list(p, &m->env);
    pack_text(p, m->cwd);
    pack_u32(p, m->timeout_ms);
    pack_u32(p, m->output_limit);
    pack_flag(p, m->stdin_stream);
    pack_data(p, m->stdin_);
    frame_end(p, at);
}

int agent_unpack_exec(const struct agent_frame *frame, struct agent_exec *m, struct err *err)
{
    struct unpack u = body_of(frame);
    m->argv = unpack_list(&u);
    m->env = unpack_list(&u);
    m->cwd = unpack_text(&u);
    m->timeout_ms = unpack_u32(&u);
    m->output_limit = unpack_u32(&u);
    m->stdin_stream = unpack_flag(&u);
    m->stdin_ = unpack_data(&u);
    int rc = done(&u, frame, AGENT_EXEC, err);
    if (!rc && !m->argv.count)
        return err_say(err, EPROTO, "an EXEC without a command");
    return rc;
}

void agent_pack_exit(struct pack *p, const struct agent_exit *m)
{
    size_t at = frame_begin(p, AGENT_EXIT);
    pack_u8(p, (uint8_t)m->kind);
    pack_u32(p, (uint32_t)m->code);
    pack_text(p, m->reason);
    pack_flag(p, m->stdout_cut);
    pack_u64(p, m->stdout_total);
    pack_flag(p, m->stderr_cut);
    pack_u64(p, m->stderr_total);
    frame_end(p, at);
}

int agent_unpack_exit(const struct agent_frame *frame, struct agent_exit *m, struct err *err)
{
    struct unpack u = body_of(frame);
    m->kind = unpack_below(&u, AGENT_EXIT_KINDS);
    m->code = (int32_t)unpack_u32(&u);
    m->reason = unpack_text(&u);
    m->stdout_cut = unpack_flag(&u);
    m->stdout_total = unpack_u64(&u);
    m->stderr_cut = unpack_flag(&u);
    m->stderr_total = unpack_u64(&u);
    return done(&u, frame, AGENT_EXIT, err);
}

void agent_pack_eval(struct pack *p, const struct agent_eval *m)
{
    size_t at = frame_begin(p, AGENT_EVAL);
    pack_text(p, m->code);
    pack_u32(p, m->timeout_ms);
    frame_end(p, at);
}

int agent_unpack_eval(const struct agent_frame *frame, struct agent_eval *m, struct err *err)
{
    struct unpack u = body_of(frame);
    m->code = unpack_text(&u);
    m->timeout_ms = unpack_u32(&u);
    return done(&u, frame, AGENT_EVAL, err);
}

void agent_pack_evaluated(struct pack *p, const struct agent_evaluated *m)
{
    size_t at = frame_begin(p, AGENT_EVALUATED);
    pack_flag(p, m->has_result);
    pack_text(p, m->result);
    pack_flag(p, m->has_error);
    pack_text(p, m->error);
    pack_data(p, m->stdout_);
    pack_data(p, m->stderr_);
    pack_u32(p, (uint32_t)m->exit_code);
    pack_flag(p, m->result_cut);
    pack_flag(p, m->error_cut);
    pack_flag(p, m->stdout_cut);
    pack_flag(p, m->stderr_cut);
    pack_flag(p, m->timed_out);
    frame_end(p, at);
}

int agent_unpack_evaluated(const struct agent_frame *frame, struct agent_evaluated *m, struct err *err)
{
    struct unpack u = body_of(frame);
    m->has_result = unpack_flag(&u);
    m->result = unpack_text(&u);
    m->has_error = unpack_flag(&u);
    m->error = unpack_text(&u);
    m->stdout_ = unpack_data(&u);
    m->stderr_ = unpack_data(&u);
    m->exit_code = (int32_t)unpack_u32(&u);
    m->result_cut = unpack_flag(&u);
    m->error_cut = unpack_flag(&u);
    m->stdout_cut = unpack_flag(&u);
    m->stderr_cut = unpack_flag(&u);
    m->timed_out = unpack_flag(&u);
    return done(&u, frame, AGENT_EVALUATED, err);
}

void agent_pack_warm(struct pack *p, const struct agent_warm *m)
{
    size_t at = frame_begin(p, AGENT_WARM);
    pack_list(p, &m->modules);
    pack_text(p, m->code);
    pack_u32(p, m->timeout_ms);
    frame_end(p, at);
}

int agent_unpack_warm(const struct agent_frame *frame, struct agent_warm *m, struct err *err)
{
    struct unpack u = body_of(frame);
    m->modules = unpack_list(&u);
    m->code = unpack_text(&u);
    m->timeout_ms = unpack_u32(&u);
    return done(&u, frame, AGENT_WARM, err);
}

void agent_pack_outcome(struct pack *p, enum agent_type type, const struct agent_outcome *m)
{
    size_t at = frame_begin(p, type);
    pack_flag(p, m->ok);
    pack_text(p, m->error);
    frame_end(p, at);
}

int agent_unpack_outcome(const struct agent_frame *frame, enum agent_type type, struct agent_outcome *m,
                         struct err *err)
{
    struct unpack u = body_of(frame);
    m->ok = unpack_flag(&u);
    m->error = unpack_text(&u);
    return done(&u, frame, type, err);
}

static bool identity_within_limits(const struct agent_identity *m)
{
    return m->entropy.len >= AGENT_ENTROPY_MIN && m->entropy.len <= AGENT_ENTROPY_MAX && m->hostname.len > 0 &&
           m->hostname.len <= AGENT_HOSTNAME_MAX && m->id.len > 0 && m->id.len <= AGENT_ID_MAX &&
           m->token.len <= AGENT_TOKEN_MAX;
}

void agent_pack_identity(struct pack *p, const struct agent_identity *m)
{
    if (!identity_within_limits(m))
        p->full = true;
    size_t at = frame_begin(p, AGENT_IDENTITY);
    pack_data(p, m->entropy);
    pack_u64(p, m->realtime_ns);
    pack_text(p, m->hostname);
    pack_text(p, m->id);
    pack_data(p, m->token);
    pack_list(p, &m->env);
    frame_end(p, at);
}

int agent_unpack_identity(const struct agent_frame *frame, struct agent_identity *m, struct err *err)
{
    struct unpack u = body_of(frame);
    m->entropy = unpack_data(&u);
    m->realtime_ns = unpack_u64(&u);
    m->hostname = unpack_text(&u);
    m->id = unpack_text(&u);
    m->token = unpack_data(&u);
    m->env = unpack_list(&u);
    int rc = done(&u, frame, AGENT_IDENTITY, err);
    if (!rc && !identity_within_limits(m))
        return err_say(err, EPROTO, "an IDENTITY outside the limits");
    return rc;
}

void agent_pack_run_ready(struct pack *p, const struct agent_run_ready *m)
{
    size_t at = frame_begin(p, AGENT_RUN_READY);
    pack_text(p, m->command);
    pack_u32(p, m->timeout_ms);
    frame_end(p, at);
}

int agent_unpack_run_ready(const struct agent_frame *frame, struct agent_run_ready *m, struct err *err)
{
    struct unpack u = body_of(frame);
    m->command = unpack_text(&u);
    m->timeout_ms = unpack_u32(&u);
    return done(&u, frame, AGENT_RUN_READY, err);
}

void agent_pack_refused(struct pack *p, const struct agent_refused *m)
{
    size_t at = frame_begin(p, AGENT_REFUSED);
    pack_u8(p, (uint8_t)m->kind);
    pack_text(p, m->reason);
    frame_end(p, at);
}

int agent_unpack_refused(const struct agent_frame *frame, struct agent_refused *m, struct err *err)
{
    struct unpack u = body_of(frame);
    m->kind = unpack_below(&u, AGENT_REFUSALS);
    m->reason = unpack_text(&u);
    return done(&u, frame, AGENT_REFUSED, err);
}
