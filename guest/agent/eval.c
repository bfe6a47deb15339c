/* eval.c: EVAL, WARM and SETTLE: requests the warm interpreter works on.
 *
 * The request goes to the helper as it came. Its answer is checked, joined with what the interpreter printed and
 * sent on. A host that hangs up leaves the request running; its answer is dropped. */
#include "base/own.h"
#include "child.h"
#include "serve.h"
#include "warm.h"

#include <string.h>
#include <unistd.h>

struct eval {
    struct agent *agent;
    struct warm_job job;
    struct conn_job conn_job;
    struct conn *conn; /* NULL once the host has hung up */
    struct child sync; /* of SETTLE */
};

static void eval_free(struct eval *eval)
{
    buf_free(&eval->job.request);
    free(eval);
}

static void eval_gone(struct conn_job *job)
{
    list_entry(job, struct eval, conn_job)->conn = NULL;
}

static struct agent_evaluated evaluated_from(const struct warm_answer *answer)
{
    struct agent_evaluated m = {.exit_code = answer->exit_code, .has_error = true};
    if (answer->frame)
        agent_unpack_evaluated(answer->frame, &m, NULL); /* sound: see warm.h */
    else
        m.error = agent_text_of(answer->why);
    /* One that ended in time, just before it was interrupted, has its result. */
    m.timed_out = answer->timed_out && m.has_error;
    if (m.timed_out)
        m.exit_code = 124;
    m.stdout_ = answer->out[0];
    m.stderr_ = answer->out[1];
    m.stdout_cut = answer->cut[0];
    m.stderr_cut = answer->cut[1];
    return m;
}

static void eval_answered(struct warm_job *job, const struct warm_answer *answer)
{
    struct eval *eval = list_entry(job, struct eval, job);
    if (eval->conn) {
        struct agent_evaluated m = evaluated_from(answer);
        struct pack p = conn_pack(eval->conn, AGENT_FRAME_MAX + 4);
        agent_pack_evaluated(&p, &m);
        conn_packed(eval->conn, &p);
        conn_finish(eval->conn);
    }
    eval_free(eval);
}

static void outcome_send(struct conn *conn, enum agent_type type, struct agent_outcome m)
{
    if (m.error.len > AGENT_REASON_MAX)
        m.error.len = AGENT_REASON_MAX;
    struct pack p = conn_pack(conn, AGENT_REASON_MAX + 64);
    agent_pack_outcome(&p, type, &m);
    conn_packed(conn, &p);
    conn_finish(conn);
}

static void warm_answered(struct warm_job *job, const struct warm_answer *answer)
{
    struct eval *eval = list_entry(job, struct eval, job);
    struct agent_outcome m = {0};
    if (answer->frame)
        agent_unpack_outcome(answer->frame, AGENT_WARMED, &m, NULL); /* sound: see warm.h */
    else
        m.error = agent_text_of(answer->why);
    if (answer->timed_out && !m.ok)
        m.error = agent_text_of("the time limit of the warm-up was reached");
    if (eval->conn)
        outcome_send(eval->conn, AGENT_WARMED, m);
    eval_free(eval);
}

static void settle_synced(struct child *child, int status)
{
    struct eval *eval = list_entry(child, struct eval, sync);
    if (eval->conn) {
        struct pack p = conn_pack(eval->conn, AGENT_FRAME_HEAD);
        agent_pack_empty(&p, AGENT_SETTLED);
        conn_packed(eval->conn, &p);
        conn_finish(eval->conn);
    }
    eval_free(eval);
}

/* In a child, so that a slow disk does not hold up the loop. */
static void settle_sync(struct eval *eval, struct agent *agent)
{
    pid_t pid = agent->effects.test_root ? -1 : fork();
    if (pid == 0) {
        sync();
        _exit(0);
    }
    if (pid > 0) {
        eval->sync.ended = settle_synced;
        child_watch(agent, &eval->sync, pid);
        return;
    }
    sync();
    settle_synced(&eval->sync, 0);
}

static void settle_answered(struct warm_job *job, const struct warm_answer *answer)
{
    struct eval *eval = list_entry(job, struct eval, job);
    settle_sync(eval, eval->agent);
}

static struct eval *eval_new(struct conn *conn, void (*answered)(struct warm_job *, const struct warm_answer *))
{
    struct eval *eval = calloc(1, sizeof *eval);
    if (!eval) {
        conn_refuse(conn, AGENT_BUSY, "no memory for the request");
        return NULL;
    }
    eval->agent = conn->agent;
    eval->conn = conn;
    eval->job.answered = answered;
    eval->conn_job.gone = eval_gone;
    return eval;
}

static void eval_submit(struct eval *eval, const uint8_t *frame, size_t len, uint32_t timeout_ms)
{
    struct err err = {0};
    struct conn *conn = eval->conn;
    eval->job.timeout_ms = timeout_ms;
    if (!buf_append(&eval->job.request, frame, len, AGENT_FRAME_MAX + 4))
        err_set(&err, ENOMEM, "keep the request");
    if (!err.code && warm_submit(eval->agent->warm, &eval->job, &err) == 0) {
        conn_serve(conn, &eval->conn_job);
        return;
    }
    eval_free(eval);
    conn_refuse(conn, AGENT_BUSY, "%s", err.text);
}

void eval_serve(struct conn *conn, const struct agent_frame *frame, uint32_t timeout_ms)
{
    struct eval *eval = eval_new(conn, eval_answered);
    if (eval)
        eval_submit(eval, frame->body - AGENT_FRAME_HEAD, frame->len + AGENT_FRAME_HEAD, timeout_ms);
}

void warm_serve(struct conn *conn, const struct agent_frame *frame, uint32_t timeout_ms)
{
    struct eval *eval = eval_new(conn, warm_answered);
    if (eval)
        eval_submit(eval, frame->body - AGENT_FRAME_HEAD, frame->len + AGENT_FRAME_HEAD, timeout_ms);
}

void settle_serve(struct conn *conn)
{
    struct eval *eval = eval_new(conn, settle_answered);
    uint8_t frame[AGENT_FRAME_HEAD];
    if (!eval)
        return;
    if (warm_lives(eval->agent->warm)) {
        struct pack p = pack_into(frame, sizeof frame);
        agent_pack_empty(&p, AGENT_SETTLE);
        eval_submit(eval, frame, p.len, 0);
    } else {
        conn_serve(conn, &eval->conn_job);
        settle_sync(eval, eval->agent);
    }
}
