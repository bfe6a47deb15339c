/* agent_client.c: see agent_client.h. */
#include "controller/agent_client.h"

#include "base/clock.h"
#include "base/own.h"
#include "controller/refusal.h"
#include "proto/agent.h"

#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>

enum {
    PING_SECS = 10,
    GRACE_SECS = 10, /* beyond the time the agent itself keeps */
    RECEIVE_MIN = 16 * 1024,
    CONNECT_LINE_MAX = 32,
    REQUEST_SMALL = 4096,
    TOKEN_LEN = 32,
};

/* One conversation. `in` grows to what the frame at hand needs, AGENT_FRAME_MAX + 4 at most. */
struct talk {
    int fd;
    uint64_t deadline_ns;
    uint8_t *in;
    size_t in_len, in_cap;
    bool connected; /* the line that answers CONNECT was read */
    size_t taken;   /* bytes at the front of `in` that belong to the frame handed out last */
};

static void talk_end(struct talk *talk)
{
    fd_close(&talk->fd);
    free(talk->in);
    talk->in = NULL;
}

#define own_talk __attribute__((cleanup(talk_end)))

static int talk_wait(const struct talk *talk, short events, struct err *err)
{
    struct pollfd p = {.fd = talk->fd, .events = events};
    for (;;) {
        int n = poll(&p, 1, clock_ms_until(talk->deadline_ns));
        if (n > 0)
            return 0;
        if (n < 0 && errno != EINTR)
            return err_set(err, errno, "poll");
        if (n == 0 && clock_monotonic_ns() >= talk->deadline_ns)
            return err_say(err, ETIMEDOUT, "the guest's agent did not answer in time");
    }
}

static int talk_send(struct talk *talk, const void *bytes, size_t len, struct err *err)
{
    for (size_t put = 0; put < len;) {
        ssize_t n = send(talk->fd, (const char *)bytes + put, len - put, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (n > 0)
            put += (size_t)n;
        else if (errno != EAGAIN && errno != EINTR)
            return err_set(err, errno, "send to the guest's agent");
        else if (talk_wait(talk, POLLOUT, err) < 0)
            return -ETIMEDOUT;
    }
    return 0;
}

/* At most `cap` bytes, at least one; 0 at the end. */
static ssize_t talk_receive(struct talk *talk, void *into, size_t cap, struct err *err)
{
    for (;;) {
        ssize_t n = recv(talk->fd, into, cap, MSG_DONTWAIT);
        if (n >= 0)
            return n;
        if (errno == ECONNRESET)
            return 0;
        if (errno != EAGAIN && errno != EINTR)
            return err_set(err, errno, "receive from the guest's agent");
        int rc = talk_wait(talk, POLLIN, err);
        if (rc < 0)
            return rc;
    }
}

static int talk_grow(struct talk *talk, size_t need, struct err *err)
{
    if (need <= talk->in_cap)
        return 0;
    size_t cap = need < RECEIVE_MIN ? RECEIVE_MIN : need;
    uint8_t *grown = realloc(talk->in, cap);
    if (!grown)
        return err_say(err, ENOMEM, "out of memory");
    talk->in = grown;
    talk->in_cap = cap;
    return 0;
}

/* More of what the agent's side sends; its end is an error. */
static int talk_fill(struct talk *talk, size_t need, struct err *err)
{
    int rc = talk_grow(talk, need, err);
    if (rc < 0)
        return rc;
    ssize_t n = talk_receive(talk, talk->in + talk->in_len, talk->in_cap - talk->in_len, err);
    if (n == 0)
        return talk->connected ? err_say(err, ECONNRESET, "the guest's agent hung up without an answer")
                               : err_say(err, ECONNREFUSED, "no agent listens in the guest");
    if (n < 0)
        return (int)n;
    talk->in_len += (size_t)n;
    return 0;
}

/* The line that answers CONNECT comes before the agent's first frame. */
static int talk_connected(struct talk *talk, struct err *err)
{
    const uint8_t *end;
    while (!(end = talk->in_len ? memchr(talk->in, '\n', talk->in_len) : NULL)) {
        if (talk->in_len > CONNECT_LINE_MAX)
            return err_say(err, EPROTO, "the guest's vsock answered CONNECT with an overlong line");
        int rc = talk_fill(talk, RECEIVE_MIN, err);
        if (rc < 0)
            return rc;
    }
    if (strncmp((const char *)talk->in, "OK ", 3) != 0)
        return err_say(err, EPROTO, "the guest's vsock refused to connect");
    talk->connected = true;
    talk->taken = (size_t)(end - talk->in) + 1;
    return 0;
}

/* The next frame; it lies in the buffer until the next call. REFUSED is an error. */
static int talk_frame(struct talk *talk, struct agent_frame *frame, struct err *err)
{
    int rc = talk->connected ? 0 : talk_connected(talk, err);
    if (rc < 0)
        return rc;
    if (talk->taken) {
        memmove(talk->in, talk->in + talk->taken, talk->in_len - talk->taken);
        talk->in_len -= talk->taken;
        talk->taken = 0;
    }
    for (;;) {
        size_t need;
        ssize_t len = agent_frame_parse(talk->in, talk->in_len, frame, &need, err);
        if (len < 0)
            return err_wrap(err, "the guest's agent");
        if (len > 0) {
            talk->taken = (size_t)len;
            break;
        }
        rc = talk_fill(talk, need, err);
        if (rc < 0)
            return rc;
    }
    struct agent_refused refused;
    if (frame->type != AGENT_REFUSED)
        return 0;
    if (agent_unpack_refused(frame, &refused, err) < 0)
        return -EPROTO;
    int code = refused.kind == AGENT_BUSY ? EBUSY : refused.kind == AGENT_MALFORMED ? EPROTO : EIO;
    return err_say(err, code, "the guest's agent refused: %.*s",
                   (int)(refused.reason.len < 400 ? refused.reason.len : 400), refused.reason.at);
}

int agent_dial(const struct rundir *run, const char *id, struct err *err)
{
    char line[32];
    size_t len = (size_t)snprintf(line, sizeof line, "CONNECT %d\n", AGENT_PORT);
    own_fd int fd = rundir_connect_vsock(run, id, err);
    if (fd < 0)
        return err_wrap(err, "the guest's vsock");
    /* A fresh socket has room for a line. */
    if (send(fd, line, len, MSG_NOSIGNAL | MSG_DONTWAIT) != (ssize_t)len)
        return err_set(err, errno, "dial the guest's agent");
    return steal_fd(&fd);
}

static void talk_begin(struct talk *talk, int dialled, unsigned secs)
{
    *talk = (struct talk){.fd = dialled, .deadline_ns = clock_monotonic_ns() + secs * NS_PER_SEC};
}

/* The request may follow the dialling at once: the VMM holds it back until the guest has accepted. */
static int talk_open(struct talk *talk, const struct rundir *run, const char *id, unsigned secs, struct err *err)
{
    int fd = agent_dial(run, id, err);
    talk_begin(talk, fd, secs);
    return fd < 0 ? fd : 0;
}

/* Sends the packed request and, where one frame is all of the answer, takes it. */
static int talk_ask(struct talk *talk, const struct pack *request, struct err *err)
{
    if (request->full)
        return err_say(err, REFUSED_BAD, "the request is longer than the guest's agent takes (%d bytes)",
                       AGENT_FRAME_MAX);
    return talk_send(talk, request->buf, request->len, err);
}

static int ask_once(struct talk *talk, const struct rundir *run, const char *id, unsigned secs,
                    const struct pack *request, struct agent_frame *frame, struct err *err)
{
    int rc = talk_open(talk, run, id, secs, err);
    if (rc == 0)
        rc = talk_ask(talk, request, err);
    return rc == 0 ? talk_frame(talk, frame, err) : rc;
}

static json_t *text_or_null(bool there, struct agent_text text)
{
    return there ? rest_json_bytes(text.at, text.len) : json_null();
}

int agent_ping(const struct rundir *run, const char *id, json_t **answer, struct err *err)
{
    uint8_t buf[REQUEST_SMALL];
    struct pack request = pack_into(buf, sizeof buf);
    agent_pack_empty(&request, AGENT_PING);
    own_talk struct talk talk = {.fd = -1};
    struct agent_frame frame;
    struct agent_pong pong = {0};
    int rc = ask_once(&talk, run, id, PING_SECS, &request, &frame, err);
    if (rc == 0)
        rc = agent_unpack_pong(&frame, &pong, err);
    if (rc < 0)
        return rc;
    *answer = json_object();
    json_object_set_new(*answer, "pong", json_true());
    json_object_set_new(*answer, "numpy_version", text_or_null(pong.numpy_version.len > 0, pong.numpy_version));
    json_object_set_new(*answer, "pid", json_integer(pong.pid));
    json_object_set_new(*answer, "agent_lang", rest_json_bytes(pong.lang.at, pong.lang.len));
    json_object_set_new(*answer, "warmup_ready", json_boolean(pong.warmup_ready));
    return 0;
}

/* What a command prints, up to its limit whatever the guest says. */
struct output {
    char *bytes;
    size_t len, cap, limit;
    bool cut;
};

static int output_add(struct output *out, const struct agent_frame *frame, struct err *err)
{
    size_t room = out->limit - out->len, n = frame->len < room ? frame->len : room;
    out->cut |= n < frame->len;
    if (out->len + n > out->cap) {
        size_t cap = 2 * (out->len + n);
        char *grown = realloc(out->bytes, cap);
        if (!grown)
            return err_say(err, ENOMEM, "out of memory");
        out->bytes = grown;
        out->cap = cap;
    }
    if (n)
        memcpy(out->bytes + out->len, frame->body, n);
    out->len += n;
    return 0;
}

static json_t *exec_answer(const struct agent_exit *end, const struct output *out, const struct output *errors)
{
    json_t *answer = json_object();
    json_object_set_new(answer, "stdout", rest_json_bytes(out->bytes, out->len));
    json_object_set_new(answer, "stderr", rest_json_bytes(errors->bytes, errors->len));
    json_object_set_new(answer, "exit_code", json_integer(end->code));
    if (end->kind == AGENT_TIMED_OUT)
        json_object_set_new(answer, "timed_out", json_true());
    if (out->cut || end->stdout_cut)
        json_object_set_new(answer, "stdout_truncated", json_true());
    if (errors->cut || end->stderr_cut)
        json_object_set_new(answer, "stderr_truncated", json_true());
    return answer;
}

static int exec_collect(struct talk *talk, uint32_t limit, json_t **answer, struct err *err)
{
    struct output out = {.limit = limit}, errors = {.limit = limit};
    struct agent_frame frame;
    int rc;
    do {
        rc = talk_frame(talk, &frame, err);
        if (rc == 0 && frame.type == AGENT_STDOUT)
            rc = output_add(&out, &frame, err);
        else if (rc == 0 && frame.type == AGENT_STDERR)
            rc = output_add(&errors, &frame, err);
    } while (rc == 0 && (frame.type == AGENT_STDOUT || frame.type == AGENT_STDERR));
    struct agent_exit end;
    if (rc == 0)
        rc = agent_unpack_exit(&frame, &end, err);
    if (rc == 0)
        *answer = exec_answer(&end, &out, &errors);
    free(out.bytes);
    free(errors.bytes);
    return rc;
}

/* The input that the request's own frame has no room for, in frames of its own, and its end. */
static int stdin_send(struct talk *talk, const char *input, size_t len, struct err *err)
{
    own_free uint8_t *buf = malloc(AGENT_DATA_MAX + AGENT_FRAME_HEAD);
    if (!buf)
        return err_say(err, ENOMEM, "out of memory");
    for (;;) {
        size_t n = len < AGENT_DATA_MAX ? len : AGENT_DATA_MAX;
        struct pack p = pack_into(buf, AGENT_DATA_MAX + AGENT_FRAME_HEAD);
        agent_pack_data(&p, AGENT_STDIN, input, n);
        int rc = talk_send(talk, p.buf, p.len, err);
        if (rc < 0 || n == 0)
            return rc == -EPIPE || rc == -ECONNRESET ? 0 : rc; /* a command that reads none of it is no failure */
        input += n;
        len -= n;
    }
}

int agent_exec(const struct rundir *run, const char *id, const struct rest_exec *rq, json_t **answer, struct err *err)
{
    bool stream = rq->stdin_len > AGENT_DATA_MAX;
    struct agent_exec m = {
        .argv = {.strings = rq->args},
        .env = {.strings = rq->env},
        .cwd = agent_text_of(rq->cwd),
        .timeout_ms = rq->timeout_secs * 1000,
        .output_limit = rq->output_limit,
        .stdin_stream = stream,
        .stdin_ = agent_blob_of(rq->stdin_, stream ? 0 : rq->stdin_len),
    };
    own_free uint8_t *buf = malloc(AGENT_FRAME_MAX + 4);
    if (!buf)
        return err_say(err, ENOMEM, "out of memory");
    struct pack request = pack_into(buf, AGENT_FRAME_MAX + 4);
    agent_pack_exec(&request, &m);
    own_talk struct talk talk = {.fd = -1};
    int rc = talk_open(&talk, run, id, rq->timeout_secs + GRACE_SECS, err);
    if (rc == 0)
        rc = talk_ask(&talk, &request, err);
    if (rc == 0 && stream)
        rc = stdin_send(&talk, rq->stdin_, rq->stdin_len, err);
    return rc == 0 ? exec_collect(&talk, rq->output_limit, answer, err) : rc;
}

int agent_eval(const struct rundir *run, const char *id, const struct rest_eval *rq, json_t **answer, struct err *err)
{
    struct agent_eval m = {.code = agent_text_of(rq->code), .timeout_ms = rq->timeout_secs * 1000};
    own_free uint8_t *buf = malloc(AGENT_FRAME_MAX + 4);
    if (!buf)
        return err_say(err, ENOMEM, "out of memory");
    struct pack request = pack_into(buf, AGENT_FRAME_MAX + 4);
    agent_pack_eval(&request, &m);
    own_talk struct talk talk = {.fd = -1};
    struct agent_frame frame;
    struct agent_evaluated e = {0};
    int rc = ask_once(&talk, run, id, rq->timeout_secs + GRACE_SECS, &request, &frame, err);
    if (rc == 0)
        rc = agent_unpack_evaluated(&frame, &e, err);
    if (rc < 0)
        return rc;
    *answer = json_object();
    json_object_set_new(*answer, "result", text_or_null(e.has_result, e.result));
    json_object_set_new(*answer, "error", text_or_null(e.has_error, e.error));
    json_object_set_new(*answer, "exit_code", json_integer(e.exit_code));
    if (e.stdout_.len)
        json_object_set_new(*answer, "stdout", rest_json_bytes(e.stdout_.at, e.stdout_.len));
    if (e.stderr_.len)
        json_object_set_new(*answer, "stderr", rest_json_bytes(e.stderr_.at, e.stderr_.len));
    if (e.timed_out)
        json_object_set_new(*answer, "timed_out", json_true());
    if (e.result_cut || e.error_cut || e.stdout_cut || e.stderr_cut)
        json_object_set_new(*answer, "truncated", json_true());
    return 0;
}

/* The answer of WARM and IDENTITY: done, or the reason. */
static int outcome_of(const struct agent_frame *frame, enum agent_type type, const char *what, int code,
                      struct err *err)
{
    struct agent_outcome outcome;
    int rc = agent_unpack_outcome(frame, type, &outcome, err);
    if (rc < 0 || outcome.ok)
        return rc;
    return err_say(err, code, "%s: %.*s", what, (int)(outcome.error.len < 400 ? outcome.error.len : 400),
                   outcome.error.at);
}

int agent_identify(int dialled, const char *id, unsigned secs, struct err *err)
{
    uint8_t entropy[AGENT_ENTROPY_MIN + TOKEN_LEN], buf[REQUEST_SMALL];
    own_talk struct talk talk;
    talk_begin(&talk, dialled, secs);
    if (getrandom(entropy, sizeof entropy, 0) != sizeof entropy)
        return err_set(err, errno, "getrandom");
    struct agent_identity m = {
        .entropy = agent_blob_of(entropy, AGENT_ENTROPY_MIN),
        .realtime_ns = clock_realtime_ns(),
        .hostname = agent_text_of(id),
        .id = agent_text_of(id),
        .token = agent_blob_of(entropy + AGENT_ENTROPY_MIN, TOKEN_LEN),
    };
    struct pack request = pack_into(buf, sizeof buf);
    agent_pack_identity(&request, &m);
    struct agent_frame frame;
    int rc = talk_ask(&talk, &request, err);
    if (rc == 0)
        rc = talk_frame(&talk, &frame, err);
    return rc == 0 ? outcome_of(&frame, AGENT_IDENTIFIED, "the fork did not take its identity", EIO, err) : rc;
}

int agent_run_ready(const struct rundir *run, const char *id, const char *command, unsigned secs, struct err *err)
{
    own_free uint8_t *buf = malloc(AGENT_FRAME_MAX + 4);
    if (!buf)
        return err_say(err, ENOMEM, "out of memory");
    struct pack request = pack_into(buf, AGENT_FRAME_MAX + 4);
    struct agent_run_ready m = {.command = agent_text_of(command), .timeout_ms = secs * 1000};
    agent_pack_run_ready(&request, &m);
    own_talk struct talk talk = {.fd = -1};
    struct agent_frame frame;
    struct agent_exit end;
    int rc = ask_once(&talk, run, id, secs + GRACE_SECS, &request, &frame, err);
    if (rc == 0)
        rc = agent_unpack_exit(&frame, &end, err);
    if (rc == 0 && (end.kind != AGENT_EXITED || end.code != 0))
        rc = err_say(err, REFUSED_BAD, "ready_cmd ended with %d%s%.*s", end.code, end.reason.len ? ": " : "",
                     (int)(end.reason.len < 300 ? end.reason.len : 300), end.reason.at);
    return rc;
}

int agent_warm(const struct rundir *run, const char *id, const char *const *modules, const char *code, unsigned secs,
               struct err *err)
{
    static const char *const none[] = {NULL};
    own_free uint8_t *buf = malloc(AGENT_FRAME_MAX + 4);
    if (!buf)
        return err_say(err, ENOMEM, "out of memory");
    struct pack request = pack_into(buf, AGENT_FRAME_MAX + 4);
    struct agent_warm m = {.modules = {.strings = modules ? modules : none},
                           .code = agent_text_of(code ? code : ""),
                           .timeout_ms = secs * 1000};
    agent_pack_warm(&request, &m);
    own_talk struct talk talk = {.fd = -1};
    struct agent_frame frame;
    int rc = ask_once(&talk, run, id, secs + GRACE_SECS, &request, &frame, err);
    return rc == 0 ? outcome_of(&frame, AGENT_WARMED, "the warm-up failed", REFUSED_BAD, err) : rc;
}

int agent_settle(const struct rundir *run, const char *id, unsigned secs, struct err *err)
{
    uint8_t buf[REQUEST_SMALL];
    struct pack request = pack_into(buf, sizeof buf);
    agent_pack_empty(&request, AGENT_SETTLE);
    own_talk struct talk talk = {.fd = -1};
    struct agent_frame frame;
    int rc = ask_once(&talk, run, id, secs, &request, &frame, err);
    return rc == 0 ? agent_unpack_empty(&frame, AGENT_SETTLED, err) : rc;
}
