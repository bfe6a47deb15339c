/* agent: a guest that speaks the agent's protocol over vsock, so that all of forkd but Linux itself can be tried
 * at full speed on any KVM. See src/proto/agent.h for the protocol and shell.c for what EXEC can do.
 *
 *   fill=N    bytes of memory it writes before it listens, as an interpreter and its modules would
 *   storm=N   all of N CPUs but the first are busy for good (storm.h)
 *
 * It sleeps in HLT whenever there is nothing to do. */
#include "proto/agent.h"
#include "blk.h"
#include "rt.h"
#include "shell.h"
#include "vsock.h"

#include <string.h>

enum phase { REQUEST, RUNNING, OVER };

/* What a connection is doing; same index as conns[]. */
static struct work {
    enum phase phase;
    bool stdin_open;
    uint32_t timeout_ms, output_limit;
    uint64_t deadline;
    uint64_t out_total, err_total;
    bool out_cut, err_cut;
    struct command command;
} works[CONN_MAX];

static HOT bool warm;
/* How the guest ends, when the peer has taken in the answer to who asked for it, or not in time. */
static HOT struct {
    void (*act)(void);
    struct conn *conn;
    uint64_t at;
} final;

enum { FINAL_MS = 200 };

static struct work *work_of(struct conn *c)
{
    return &works[c - conns];
}

static struct pack pack_begin(struct conn *c)
{
    return pack_into(c->out + c->out_len, conn_space(c));
}

static void pack_end(struct conn *c, const struct pack *p)
{
    if (!p->full)
        c->out_len += (uint32_t)p->len;
}

static void refuse(struct conn *c, enum agent_refusal kind, const char *why)
{
    struct pack p = pack_begin(c);
    agent_pack_refused(&p, &(struct agent_refused){kind, agent_text_of(why)});
    pack_end(c, &p);
    work_of(c)->phase = OVER;
    conn_finish(c);
}

static void answer(struct conn *c, const struct pack *p)
{
    pack_end(c, p);
    work_of(c)->phase = OVER;
    conn_finish(c);
}

/* Output of the command, as far as the limit allows. */
static void write_out(struct conn *c, bool err, const void *bytes, size_t len)
{
    struct work *w = work_of(c);
    uint64_t *total = err ? &w->err_total : &w->out_total;
    size_t room = *total < w->output_limit ? w->output_limit - *total : 0;
    *total += len;
    if (len > room) {
        *(err ? &w->err_cut : &w->out_cut) = true;
        len = room;
    }
    if (!len)
        return;
    struct pack p = pack_begin(c);
    agent_pack_data(&p, err ? AGENT_STDERR : AGENT_STDOUT, bytes, len);
    pack_end(c, &p);
}

static void exit_send(struct conn *c, enum agent_exit_kind kind, int32_t code, const char *reason)
{
    struct work *w = work_of(c);
    struct pack p = pack_begin(c);
    agent_pack_exit(&p, &(struct agent_exit){
                            .kind = kind,
                            .code = code,
                            .reason = agent_text_of(reason),
                            .stdout_cut = w->out_cut,
                            .stdout_total = w->out_total,
                            .stderr_cut = w->err_cut,
                            .stderr_total = w->err_total,
                        });
    answer(c, &p);
}

static void finally(struct conn *c, void (*act)(void))
{
    final.act = act;
    final.conn = c;
    final.at = rdtsc() + FINAL_MS * (tsc_hz() / 1000);
}

/* --- commands that take time --- */
static void reset_machine(void)
{
    out8(PORT_RESET, 0xfe);
}

static void poweroff_machine(void)
{
    guest_poweroff();
}

static void crash_machine(void)
{
    guest_crash();
}

static void spew(struct conn *c, struct command *cmd)
{
    static char junk[4096];
    if (!junk[0])
        memset(junk, 'x', sizeof junk);
    while (cmd->left && conn_space(c) > 2 * sizeof junk) {
        size_t n = cmd->left < sizeof junk ? cmd->left : sizeof junk;
        write_out(c, false, junk, n);
        cmd->left -= n;
    }
}

/* Goes on with a command; true if it did something. */
static bool command_poll(struct conn *c)
{
    struct work *w = work_of(c);
    struct command *cmd = &w->command;
    if (cmd->state == COMMAND_SPEWS) {
        spew(c, cmd);
        if (!cmd->left)
            cmd->state = COMMAND_DONE;
    }
    if (cmd->state == COMMAND_SLEEPS && rdtsc() >= cmd->wake)
        cmd->state = COMMAND_DONE;
    if (cmd->state == COMMAND_DONE) {
        write_out(c, cmd->to_stderr, cmd->output.at, cmd->output.len);
        exit_send(c, cmd->kind, cmd->code, "");
        return true;
    }
    if (cmd->state >= COMMAND_POWEROFF) {
        finally(c, cmd->state == COMMAND_POWEROFF ? poweroff_machine
                   : cmd->state == COMMAND_RESET  ? reset_machine
                                                  : crash_machine);
        exit_send(c, AGENT_EXITED, 0, "");
        return true;
    }
    if (w->deadline && rdtsc() >= w->deadline) {
        command_drop(cmd);
        exit_send(c, AGENT_TIMED_OUT, 124, "the command took longer than it may");
        return true;
    }
    return false;
}

/* --- requests --- */
static void on_ping(struct conn *c)
{
    struct pack p = pack_begin(c);
    agent_pack_pong(&p, &(struct agent_pong){
                            .version = agent_text_of(FORKD_VERSION),
                            .pid = 1,
                            .lang = agent_text_of("c"),
                            .warmup_ready = warm,
                            .numpy_version = agent_text_of(""),
                            .hostname = {identity.hostname, identity.hostname_len},
                            .uptime_ns = rdtsc() / (tsc_hz() / 1000000) * 1000,
                        });
    answer(c, &p);
}

static void command_begin(struct conn *c, uint32_t timeout_ms, uint32_t output_limit)
{
    struct work *w = work_of(c);
    w->phase = RUNNING;
    w->output_limit = output_limit;
    w->deadline = timeout_ms ? rdtsc() + timeout_ms * (tsc_hz() / 1000) : 0;
}

static void on_exec(struct conn *c, const struct agent_frame *frame)
{
    struct agent_exec m;
    struct work *w = work_of(c);
    if (agent_unpack_exec(frame, &m, NULL) < 0) {
        refuse(c, AGENT_MALFORMED, "no EXEC");
        return;
    }
    command_begin(c, m.timeout_ms, m.output_limit);
    w->stdin_open = m.stdin_stream;
    command_start(&w->command, m.argv);
    if (w->command.state == COMMAND_COPIES) {
        write_out(c, false, m.stdin_.at, m.stdin_.len);
        if (!m.stdin_stream)
            w->command.state = COMMAND_DONE;
    }
}

static void on_run_ready(struct conn *c, const struct agent_frame *frame)
{
    struct agent_run_ready m;
    if (agent_unpack_run_ready(frame, &m, NULL) < 0) {
        refuse(c, AGENT_MALFORMED, "no RUN_READY");
        return;
    }
    command_begin(c, m.timeout_ms, 4096);
    command_start_line(&work_of(c)->command, m.command);
}

static void on_eval(struct conn *c, const struct agent_frame *frame)
{
    struct agent_eval m;
    char buf[24];
    int64_t value;
    if (agent_unpack_eval(frame, &m, NULL) < 0) {
        refuse(c, AGENT_MALFORMED, "no EVAL");
        return;
    }
    struct agent_evaluated e = {0};
    struct text text = {.at = buf, .cap = sizeof buf};
    if (expression_value(m.code, &value)) {
        text_dec(&text, value);
        e.has_result = true;
        e.result = (struct agent_text){text.at, text.len};
    } else {
        e.has_error = true;
        e.error = agent_text_of("this guest evaluates sums and products of numbers only");
        e.exit_code = 1;
    }
    struct pack p = pack_begin(c);
    agent_pack_evaluated(&p, &e);
    answer(c, &p);
}

static void on_warm(struct conn *c)
{
    warm = true;
    struct pack p = pack_begin(c);
    agent_pack_outcome(&p, AGENT_WARMED, &(struct agent_outcome){.ok = true});
    answer(c, &p);
}

static size_t keep(char *into, size_t cap, const void *from, size_t len)
{
    len = len < cap ? len : cap;
    memcpy(into, from, len);
    return len;
}

static void on_identity(struct conn *c, const struct agent_frame *frame)
{
    struct agent_identity m;
    struct agent_text line;
    if (agent_unpack_identity(frame, &m, NULL) < 0) {
        refuse(c, AGENT_MALFORMED, "no IDENTITY");
        return;
    }
    identity.hostname_len = keep(identity.hostname, sizeof identity.hostname, m.hostname.at, m.hostname.len);
    identity.id_len = keep(identity.id, sizeof identity.id, m.id.at, m.id.len);
    identity.token_len = keep(identity.token, sizeof identity.token, m.token.at, m.token.len);
    struct text env = {.at = identity.env, .cap = sizeof identity.env};
    while (agent_list_next(&m.env, &line)) {
        text_add(&env, line.at, line.len);
        text_str(&env, "\n");
    }
    identity.env_len = env.len;
    identity.realtime_ns = m.realtime_ns;
    identity.at_tsc = rdtsc();
    struct pack p = pack_begin(c);
    agent_pack_outcome(&p, AGENT_IDENTIFIED, &(struct agent_outcome){.ok = true});
    answer(c, &p);
}

static void on_empty(struct conn *c, enum agent_type type)
{
    struct pack p = pack_begin(c);
    agent_pack_empty(&p, type);
    if (type == AGENT_STOPPING)
        finally(c, poweroff_machine);
    answer(c, &p);
}

static void request_serve(struct conn *c, const struct agent_frame *frame)
{
    switch (frame->type) {
    case AGENT_PING:
        on_ping(c);
        break;
    case AGENT_EXEC:
        on_exec(c, frame);
        break;
    case AGENT_EVAL:
        on_eval(c, frame);
        break;
    case AGENT_WARM:
        on_warm(c);
        break;
    case AGENT_IDENTITY:
        on_identity(c, frame);
        break;
    case AGENT_SETTLE:
        on_empty(c, AGENT_SETTLED);
        break;
    case AGENT_RUN_READY:
        on_run_ready(c, frame);
        break;
    case AGENT_SHUTDOWN:
        on_empty(c, AGENT_STOPPING);
        break;
    default:
        refuse(c, AGENT_MALFORMED, "this is no request");
    }
}

/* A STDIN frame of a command that copies; others do not read. */
static void stdin_serve(struct conn *c, const struct agent_frame *frame)
{
    struct work *w = work_of(c);
    if (frame->type != AGENT_STDIN || w->command.state != COMMAND_COPIES)
        return;
    if (frame->len)
        write_out(c, false, frame->body, frame->len);
    else
        w->command.state = COMMAND_DONE;
}

void conn_input(struct conn *c)
{
    struct work *w = work_of(c);
    struct agent_frame frame;
    size_t need;
    ssize_t n = 0;
    while (w->phase != OVER) {
        /* A frame is copied out only where there is room for its echo. */
        n = agent_frame_parse(c->in, c->in_len, &frame, &need, NULL);
        if (n < 0 || (!n && need > CONN_IN)) {
            refuse(c, AGENT_MALFORMED, "a frame this guest cannot take");
            return;
        }
        if (!n || frame.len + 64 > conn_space(c))
            break;
        if (w->phase == REQUEST)
            request_serve(c, &frame);
        else
            stdin_serve(c, &frame);
        conn_consume(c, (size_t)n);
    }
    if (!c->peer_done)
        return;
    if (w->phase == REQUEST)
        conn_finish(c);
    else if (w->phase == RUNNING && w->command.state == COMMAND_COPIES && !n)
        w->command.state = COMMAND_DONE;
}

void conn_room(struct conn *c)
{
    conn_input(c);
}

void conn_gone(struct conn *c)
{
    struct work *w = work_of(c);
    command_drop(&w->command);
    if (final.conn == c)
        final.conn = NULL;
    w->phase = REQUEST;
    w->stdin_open = false;
    w->deadline = w->out_total = w->err_total = 0;
    w->out_cut = w->err_cut = false;
    w->command.state = COMMAND_DONE;
}

/* --- the guest --- */
static bool commands_poll(uint64_t *wake)
{
    bool any = false;
    *wake = 0;
    conn_for_each (c) {
        struct work *w = work_of(c);
        if (c->state != CONN_OPEN || w->phase != RUNNING)
            continue;
        any |= command_poll(c);
        if (w->phase != RUNNING)
            continue;
        if (w->command.state == COMMAND_SLEEPS && (!*wake || w->command.wake < *wake))
            *wake = w->command.wake;
        if (w->deadline && (!*wake || w->deadline < *wake))
            *wake = w->deadline;
    }
    return any;
}

static void memory_fill(uint64_t bytes)
{
    uint64_t start, end;
    for (unsigned n = 0; bytes && memory_range(n, &start, &end); n++) {
        if (end <= (uintptr_t)guest_end)
            continue;
        if (start < (uintptr_t)guest_end)
            start = (uintptr_t)guest_end;
        for (; start < end && bytes; start += 4096, bytes = bytes > 4096 ? bytes - 4096 : 0)
            *(volatile uint64_t *)start = start | 1;
    }
}

void guest_main(unsigned cpu)
{
    uint64_t wake, armed = 0;
    if (cpu)
        storm_forever(cpu);
    tsc_hz();
    memory_map();
    cpus_start(storm_cpus());
    memory_fill(option("fill", 0));
    blk_start();
    if (!vsock_start(AGENT_PORT, AGENT_DOORBELL_PORT))
        guest_crash();
    for (;;) {
        uint32_t seen = irq_any;
        bool any = blk_poll();
        any |= vsock_poll();
        any |= commands_poll(&wake);
        if (any)
            continue;
        if (final.act && (!final.conn || rdtsc() >= final.at))
            final.act();
        if (final.act && (!wake || final.at < wake))
            wake = final.at;
        if (wake && wake != armed)
            timer_deadline(armed = wake);
        vsock_ack();
        blk_ack();
        irq_wait(&irq_any, seen);
    }
}
