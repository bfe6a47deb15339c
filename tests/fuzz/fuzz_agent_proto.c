/* fuzz_agent_proto.c: whatever the other side sends, a frame is refused or is the one encoding of its message.
 *
 * The input is taken as what a connection received. Each message unpacked from it is packed again and must give the
 * same bytes; the lists are walked as the agent walks them. */
#include "guest/agent/strv.h"
#include "proto/agent.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static uint8_t again[AGENT_FRAME_MAX + 4];

static void check_lists(struct agent_list argv, struct agent_list env)
{
    char *const base[] = {"PATH=/bin", "HOME=/", NULL};
    char **args = strv_from_list(argv), **vars = strv_env(base, env, "LAST=1");
    size_t count = 0;
    while (args[count])
        count++;
    if (count != argv.count || !strv_env_get(vars, "PATH") || strcmp(strv_env_get(vars, "LAST"), "1") != 0)
        abort();
    free(args);
    free(vars);
}

/* Packs the frame's message again; false when it is refused. */
static bool repack(const struct agent_frame *frame, struct pack *p)
{
    union {
        struct agent_pong pong;
        struct agent_exec exec;
        struct agent_exit exit;
        struct agent_eval eval;
        struct agent_evaluated evaluated;
        struct agent_warm warm;
        struct agent_outcome outcome;
        struct agent_identity identity;
        struct agent_run_ready ready;
        struct agent_refused refused;
    } m;
    switch (frame->type) {
    case AGENT_PING:
    case AGENT_SETTLE:
    case AGENT_SHUTDOWN:
    case AGENT_SETTLED:
    case AGENT_STOPPING:
        agent_pack_empty(p, frame->type);
        return agent_unpack_empty(frame, frame->type, NULL) == 0;
    case AGENT_STDIN:
    case AGENT_STDOUT:
    case AGENT_STDERR:
        agent_pack_data(p, frame->type, frame->body, frame->len);
        return true;
    case AGENT_PONG:
        if (agent_unpack_pong(frame, &m.pong, NULL) < 0)
            return false;
        agent_pack_pong(p, &m.pong);
        return true;
    case AGENT_EXEC:
        if (agent_unpack_exec(frame, &m.exec, NULL) < 0)
            return false;
        check_lists(m.exec.argv, m.exec.env);
        agent_pack_exec(p, &m.exec);
        return true;
    case AGENT_EXIT:
        if (agent_unpack_exit(frame, &m.exit, NULL) < 0)
            return false;
        agent_pack_exit(p, &m.exit);
        return true;
    case AGENT_EVAL:
        if (agent_unpack_eval(frame, &m.eval, NULL) < 0)
            return false;
        agent_pack_eval(p, &m.eval);
        return true;
    case AGENT_EVALUATED:
        if (agent_unpack_evaluated(frame, &m.evaluated, NULL) < 0)
            return false;
        agent_pack_evaluated(p, &m.evaluated);
        return true;
    case AGENT_WARM:
        if (agent_unpack_warm(frame, &m.warm, NULL) < 0)
            return false;
        agent_pack_warm(p, &m.warm);
        return true;
    case AGENT_WARMED:
    case AGENT_IDENTIFIED:
        if (agent_unpack_outcome(frame, frame->type, &m.outcome, NULL) < 0)
            return false;
        agent_pack_outcome(p, frame->type, &m.outcome);
        return true;
    case AGENT_IDENTITY:
        if (agent_unpack_identity(frame, &m.identity, NULL) < 0)
            return false;
        agent_pack_identity(p, &m.identity);
        return true;
    case AGENT_RUN_READY:
        if (agent_unpack_run_ready(frame, &m.ready, NULL) < 0)
            return false;
        agent_pack_run_ready(p, &m.ready);
        return true;
    case AGENT_REFUSED:
        if (agent_unpack_refused(frame, &m.refused, NULL) < 0)
            return false;
        agent_pack_refused(p, &m.refused);
        return true;
    }
    return false;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct agent_frame frame;
    size_t need;
    ssize_t took;
    while ((took = agent_frame_parse(data, size, &frame, &need, NULL)) > 0) {
        struct pack p = pack_into(again, sizeof again);
        if (repack(&frame, &p) && (p.full || p.len != (size_t)took || memcmp(again, data, p.len) != 0))
            abort();
        data += took;
        size -= (size_t)took;
    }
    if (took == 0 && need <= size)
        abort();
    return 0;
}
