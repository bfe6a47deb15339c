/* conn.c: see conn.h. */
#include "conn.h"

#include "base/clock.h"
#include "base/own.h"
#include "serve.h"

#include <stdarg.h>
#include <sys/socket.h>

#define REQUEST_WAIT_NS (30 * NS_PER_SEC)
#define LINGER_NS       (2 * NS_PER_SEC)

enum { READ_SIZE = 64 << 10, IN_MAX = AGENT_FRAME_MAX + 4 + READ_SIZE };

static void assert_conn_state(const struct conn *c)
{
    if ((c->job != NULL) != (c->state == CONN_SERVING))
        abort();
}

static void conn_arm(struct conn *c)
{
    uint32_t events = 0;
    if (!c->input_ended && !c->input_paused)
        events |= EPOLLIN;
    if (c->out.len || c->state == CONN_CLOSING)
        events |= EPOLLOUT;
    if (events != c->armed && loop_change(&c->agent->loop, &c->source, events, NULL) == 0)
        c->armed = events;
}

/* The peer is gone or has broken the rules. */
static void conn_close(struct conn *c)
{
    struct conn_job *job = c->job;
    c->job = NULL;
    c->state = CONN_LINGER;
    if (job)
        job->gone(job);
    loop_remove(&c->agent->loop, &c->source);
    loop_timer_clear(&c->timer);
    list_remove(&c->link);
    c->agent->conn_count--;
    buf_free(&c->in);
    buf_free(&c->out);
    close(c->fd);
    agent_conn_closed(c->agent);
    free(c);
}

struct pack conn_pack(struct conn *c, size_t most)
{
    uint8_t *at = buf_room(&c->out, most, CONN_OUT_MAX);
    return pack_into(at, at ? most : 0);
}

void conn_packed(struct conn *c, const struct pack *p)
{
    if (p->full) {
        /* The peer has let its answer pile up, or the answer outgrew its frame: it gets an end, not a half. */
        shutdown(c->fd, SHUT_RDWR);
        return;
    }
    buf_grown(&c->out, p->len);
    c->was_full = c->was_full || conn_is_full(c);
    conn_arm(c);
}

void conn_refuse(struct conn *c, enum agent_refusal kind, const char *fmt, ...)
{
    char reason[ERR_TEXT_MAX];
    va_list args;
    va_start(args, fmt);
    vsnprintf(reason, sizeof reason, fmt, args);
    va_end(args);
    struct agent_refused m = {kind, agent_text_of(reason)};
    struct pack p = conn_pack(c, sizeof reason + 64);
    agent_pack_refused(&p, &m);
    conn_packed(c, &p);
    conn_finish(c);
}

void conn_serve(struct conn *c, struct conn_job *job)
{
    c->state = CONN_SERVING;
    c->job = job;
    loop_timer_clear(&c->timer);
    assert_conn_state(c);
}

/* What there is room for goes at once, without a turn of the loop; that learns of errors, too. */
void conn_finish(struct conn *c)
{
    c->job = NULL;
    c->state = CONN_CLOSING;
    c->input_paused = false;
    loop_timer_clear(&c->timer);
    assert_conn_state(c);
    ssize_t n = c->out.len ? send(c->fd, buf_at(&c->out), c->out.len, MSG_NOSIGNAL | MSG_DONTWAIT) : 0;
    buf_consume(&c->out, n > 0 ? (size_t)n : 0);
    conn_arm(c);
}

bool conn_is_full(const struct conn *c)
{
    return c->out.len >= CONN_OUT_FULL;
}

bool conn_is_alive(const struct conn *c)
{
    return send(c->fd, "", 0, MSG_NOSIGNAL | MSG_DONTWAIT) == 0 || errno == EAGAIN;
}

/* Gives out the frames that are whole, as long as they are wanted. False when the connection is to be closed. */
static bool conn_frames(struct conn *c)
{
    while (!c->input_paused && c->in.len && (c->state == CONN_REQUEST || c->state == CONN_SERVING)) {
        struct agent_frame frame;
        struct err err = {0};
        ssize_t size = agent_frame_parse(buf_at(&c->in), c->in.len, &frame, NULL, &err);
        if (size == 0)
            return true;
        if (c->state == CONN_REQUEST) {
            if (size < 0)
                conn_refuse(c, AGENT_MALFORMED, "%s", err.text);
            else
                serve_request(c, &frame);
        } else if (size < 0 || !c->job->frame || !c->job->frame(c->job, &frame)) {
            return false;
        }
        if (size > 0)
            buf_consume(&c->in, (size_t)size);
    }
    return true;
}

void conn_pause_input(struct conn *c, bool paused)
{
    if (c->input_paused == paused)
        return;
    c->input_paused = paused;
    if (!conn_frames(c)) /* those that were read before the pause */
        shutdown(c->fd, SHUT_RDWR);
    conn_arm(c);
}

/* The peer will send nothing more. That alone is no hang-up: it may be waiting for its answer. */
static bool conn_input_ended(struct conn *c)
{
    c->input_ended = true;
    if (c->state == CONN_REQUEST || c->state == CONN_LINGER)
        return false;
    if (c->job && c->job->input_ended)
        c->job->input_ended(c->job);
    return conn_is_alive(c);
}

static bool conn_read(struct conn *c)
{
    uint8_t *at = buf_room(&c->in, READ_SIZE, IN_MAX);
    ssize_t n = at ? recv(c->fd, at, READ_SIZE, MSG_DONTWAIT) : -1;
    if (n < 0)
        return at && (errno == EAGAIN || errno == EINTR);
    if (n == 0)
        return conn_input_ended(c);
    if (c->state == CONN_CLOSING || c->state == CONN_LINGER)
        return true; /* dropped */
    buf_grown(&c->in, (size_t)n);
    return conn_frames(c);
}

static bool conn_write(struct conn *c)
{
    ssize_t n = c->out.len ? send(c->fd, buf_at(&c->out), c->out.len, MSG_NOSIGNAL | MSG_DONTWAIT) : 0;
    if (n < 0)
        return errno == EAGAIN || errno == EINTR;
    buf_consume(&c->out, (size_t)n);
    if (c->was_full && !conn_is_full(c)) {
        c->was_full = false;
        if (c->job && c->job->drained)
            c->job->drained(c->job);
    }
    if (c->out.len || c->state != CONN_CLOSING)
        return true;
    c->state = CONN_LINGER;
    shutdown(c->fd, SHUT_WR);
    loop_timer_set(&c->agent->loop, &c->timer, clock_monotonic_ns() + LINGER_NS);
    return !c->input_ended;
}

static void conn_ready(struct loop_source *source, uint32_t events)
{
    struct conn *c = list_entry(source, struct conn, source);
    bool open = true;
    if (events & EPOLLIN && !c->input_ended)
        open = conn_read(c);
    if (open && events & EPOLLOUT)
        open = conn_write(c);
    if (!open || events & (EPOLLERR | EPOLLHUP)) {
        conn_close(c);
        return;
    }
    assert_conn_state(c);
    conn_arm(c);
}

static void conn_timer_fired(struct loop_timer *timer)
{
    conn_close(list_entry(timer, struct conn, timer));
}

void conn_open(struct agent *agent, int fd)
{
    struct conn *c = calloc(1, sizeof *c);
    if (!c) {
        close(fd);
        return;
    }
    c->agent = agent;
    c->fd = fd;
    c->source = (struct loop_source){.fd = -1, .fn = conn_ready};
    c->timer.fn = conn_timer_fired;
    c->armed = EPOLLIN;
    if (loop_add(&agent->loop, &c->source, fd, c->armed, NULL) < 0) {
        close(fd);
        free(c);
        return;
    }
    list_append(&agent->conns, &c->link);
    loop_timer_set(&agent->loop, &c->timer, clock_monotonic_ns() + REQUEST_WAIT_NS);
    if (++agent->conn_count > AGENT_CONNS_MAX)
        conn_refuse(c, AGENT_BUSY, "%u connections are open already", AGENT_CONNS_MAX);
}
