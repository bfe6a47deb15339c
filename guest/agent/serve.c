/* serve.c: see serve.h. */
#include "serve.h"

#include "base/clock.h"
#include "warm.h"

#include <errno.h>
#include <unistd.h>

static void serve_ping(struct conn *conn)
{
    struct agent *agent = conn->agent;
    char hostname[AGENT_HOSTNAME_MAX + 1] = "";
    gethostname(hostname, sizeof hostname - 1);
    struct agent_pong m = {.version = agent_text_of(FORKD_VERSION),
                           .pid = (uint32_t)getpid(),
                           .lang = agent_text_of("c"),
                           .numpy_version = agent_text_of(""),
                           .hostname = agent_text_of(hostname),
                           .uptime_ns = clock_read(CLOCK_BOOTTIME)};
    warm_describe(agent->warm, &m);
    struct pack p = conn_pack(conn, 1024);
    agent_pack_pong(&p, &m);
    conn_packed(conn, &p);
    conn_finish(conn);
}

static void serve_shutdown(struct conn *conn)
{
    struct agent *agent = conn->agent;
    struct pack p = conn_pack(conn, AGENT_FRAME_HEAD);
    agent_pack_empty(&p, AGENT_STOPPING);
    conn_packed(conn, &p);
    conn_finish(conn);
    agent_stop(agent, true);
}

static int serve_known(struct conn *conn, const struct agent_frame *frame, struct err *err)
{
    union {
        struct agent_exec exec;
        struct agent_eval eval;
        struct agent_warm warm;
        struct agent_identity identity;
        struct agent_run_ready ready;
    } m;
    int rc;
    switch (frame->type) {
    case AGENT_PING:
        if ((rc = agent_unpack_empty(frame, AGENT_PING, err)) == 0)
            serve_ping(conn);
        return rc;
    case AGENT_EXEC:
        if ((rc = agent_unpack_exec(frame, &m.exec, err)) == 0)
            exec_serve(conn, &m.exec);
        return rc;
    case AGENT_EVAL:
        if ((rc = agent_unpack_eval(frame, &m.eval, err)) == 0)
            eval_serve(conn, frame, m.eval.timeout_ms);
        return rc;
    case AGENT_WARM:
        if ((rc = agent_unpack_warm(frame, &m.warm, err)) == 0)
            warm_serve(conn, frame, m.warm.timeout_ms);
        return rc;
    case AGENT_IDENTITY:
        if ((rc = agent_unpack_identity(frame, &m.identity, err)) == 0)
            identity_serve(conn, &m.identity);
        return rc;
    case AGENT_SETTLE:
        if ((rc = agent_unpack_empty(frame, AGENT_SETTLE, err)) == 0)
            settle_serve(conn);
        return rc;
    case AGENT_RUN_READY:
        if ((rc = agent_unpack_run_ready(frame, &m.ready, err)) == 0)
            ready_serve(conn, &m.ready);
        return rc;
    case AGENT_SHUTDOWN:
        if ((rc = agent_unpack_empty(frame, AGENT_SHUTDOWN, err)) == 0)
            serve_shutdown(conn);
        return rc;
    default:
        return err_say(err, EPROTO, "%s is no request", agent_type_name(frame->type));
    }
}

void serve_request(struct conn *conn, const struct agent_frame *frame)
{
    struct err err = {0};
    if (conn->agent->stopping)
        conn_refuse(conn, AGENT_BUSY, "the guest is powering off");
    else if (serve_known(conn, frame, &err) < 0)
        conn_refuse(conn, AGENT_MALFORMED, "%s", err.text);
}
