/* ready.c: RUN_READY: a command is run again and again until it succeeds.
 *
 * Between two runs a growing while passes (FIRST_WAIT_MS to LAST_WAIT_MS): a service that is starting has no event
 * to wait for. The time limit is that of all runs together; a run it ends is killed.
 *
 * States of a job: a run is going on (command not IDLE), or the timer of the next is set. When the host hangs up
 * the present run is killed and the job ends with it. */
#include "base/clock.h"
#include "base/own.h"
#include "command.h"
#include "serve.h"
#include "tail.h"

#include <string.h>
#include <sys/socket.h>

enum { FIRST_WAIT_MS = 10, LAST_WAIT_MS = 250 };

struct ready {
    struct command command;
    struct conn_job job;
    struct conn *conn; /* NULL once the host has hung up */
    struct agent *agent;
    struct loop_timer timer;
    uint64_t deadline_ns; /* 0: none */
    unsigned wait_ms;
    struct tail tail;
    char *text;
};

static void ready_free(struct ready *r)
{
    loop_timer_clear(&r->timer);
    free(r->text);
    free(r);
}

static void ready_answer(struct ready *r, struct agent_exit *exit)
{
    char reason[TAIL_MAX + 128];
    if (exit->kind == AGENT_TIMED_OUT) {
        snprintf(reason, sizeof reason, "the readiness command did not succeed in time%s%s", r->tail.len ? ": " : "",
                 r->tail.line);
        exit->reason = agent_text_of(reason);
    }
    struct pack p = conn_pack(r->conn, ERR_TEXT_MAX + 128);
    agent_pack_exit(&p, exit);
    conn_packed(r->conn, &p);
    conn_finish(r->conn);
    ready_free(r);
}

static bool ready_is_late(const struct ready *r)
{
    return r->deadline_ns && clock_monotonic_ns() >= r->deadline_ns;
}

static void ready_run(struct ready *r)
{
    struct err err = {0};
    char *const argv[] = {"sh", "-c", r->text, NULL};
    struct command_spec spec = {.argv = argv, .env = r->agent->env, .output_limit = UINT32_MAX};
    if (r->deadline_ns) {
        int ms = clock_ms_until(r->deadline_ns);
        spec.timeout_ms = ms > 0 ? (uint32_t)ms : 1;
    }
    int rc = command_start(&r->command, r->agent, &spec, &err);
    if (rc < 0) {
        struct agent_exit exit = command_not_started(rc, &err);
        ready_answer(r, &exit);
    }
}

static void ready_timer_fired(struct loop_timer *timer)
{
    struct ready *r = list_entry(timer, struct ready, timer);
    if (ready_is_late(r)) {
        struct agent_exit exit = {.kind = AGENT_TIMED_OUT, .code = 124};
        ready_answer(r, &exit);
    } else if (conn_is_alive(r->conn)) {
        ready_run(r);
    } else {
        shutdown(r->conn->fd, SHUT_RDWR); /* its end will be seen, and ready_gone called */
    }
}

static void ready_ended(struct command *command, const struct agent_exit *exit)
{
    struct ready *r = list_entry(command, struct ready, command);
    struct agent_exit answer = *exit;
    if (!r->conn) {
        ready_free(r);
    } else if ((exit->kind == AGENT_EXITED && exit->code == 0) || exit->kind == AGENT_TIMED_OUT) {
        ready_answer(r, &answer);
    } else {
        uint64_t next = clock_monotonic_ns() + r->wait_ms * NS_PER_MS;
        if (r->deadline_ns && next > r->deadline_ns)
            next = r->deadline_ns;
        loop_timer_set(&r->agent->loop, &r->timer, next);
        r->wait_ms = r->wait_ms * 2 > LAST_WAIT_MS ? LAST_WAIT_MS : r->wait_ms * 2;
    }
}

static void ready_output(struct command *command, bool is_stderr, const uint8_t *bytes, size_t len)
{
    if (is_stderr)
        tail_take(&list_entry(command, struct ready, command)->tail, bytes, len);
}

static void ready_gone(struct conn_job *job)
{
    struct ready *r = list_entry(job, struct ready, job);
    r->conn = NULL;
    if (r->command.state == COMMAND_IDLE)
        ready_free(r);
    else
        command_kill(&r->command);
}

void ready_serve(struct conn *conn, const struct agent_run_ready *request)
{
    struct ready *r = calloc(1, sizeof *r);
    char *text = strndup(request->command.at ? request->command.at : "", request->command.len);
    if (!r || !text) {
        free(r);
        free(text);
        conn_refuse(conn, AGENT_BUSY, "no memory to run the readiness command");
        return;
    }
    *r = (struct ready){.conn = conn, .agent = conn->agent, .text = text, .wait_ms = FIRST_WAIT_MS};
    if (request->timeout_ms)
        r->deadline_ns = clock_monotonic_ns() + request->timeout_ms * NS_PER_MS;
    r->command.output = ready_output;
    r->command.ended = ready_ended;
    r->timer.fn = ready_timer_fired;
    r->job.gone = ready_gone;
    conn_serve(conn, &r->job);
    ready_run(r);
}
