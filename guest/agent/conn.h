/* conn.h: a connection: one request in, its answer out.
 *
 * States.
 * CONN_REQUEST  the request is being read; it must be whole within REQUEST_WAIT_NS. To SERVING by serve_request,
 *               or to CLOSING when it was answered or refused at once
 * CONN_SERVING  a service (`job`) works on the answer and may queue frames. Further frames go to job->frame.
 *               To CLOSING by conn_finish
 * CONN_CLOSING  the answer is complete and is being sent; there is no job. Then to LINGER
 * CONN_LINGER   all is sent and our side is shut down; what still comes is read and dropped until the peer closes
 *               or LINGER_NS passed, so that an unread byte does not turn the answer into a reset
 *
 * Invariants.
 * 1. A connection has a job exactly while SERVING. When the peer hangs up in that state job->gone is called once;
 *    the job must forget the connection then.
 * 2. A connection is freed only from its own events and timer, never inside a call of its job.
 * 3. At most CONN_OUT_MAX bytes are queued; a service that relays stops at conn_is_full and goes on at
 *    job->drained. */
#ifndef FORKD_AGENT_CONN_H
#define FORKD_AGENT_CONN_H

#include "agent.h"
#include "buf.h"
#include "proto/agent.h"

enum {
    CONN_OUT_MAX = 4 * AGENT_FRAME_MAX,
    CONN_OUT_FULL = 256 << 10, /* a relaying service waits from here on */
};

enum conn_state { CONN_REQUEST, CONN_SERVING, CONN_CLOSING, CONN_LINGER };

struct conn_job {
    /* A further frame came: false refuses it, which ends the connection. NULL: none is expected. */
    bool (*frame)(struct conn_job *job, const struct agent_frame *frame);
    void (*input_ended)(struct conn_job *job); /* the peer half-closed; may be NULL */
    void (*drained)(struct conn_job *job);     /* no longer full; may be NULL */
    void (*gone)(struct conn_job *job);        /* the peer hung up */
};

struct conn {
    struct agent *agent;
    enum conn_state state;
    int fd;
    struct loop_source source;
    struct loop_timer timer;
    struct buf in, out;
    struct conn_job *job;
    bool input_ended, input_paused, was_full;
    uint32_t armed; /* what the loop waits for */
    struct list link;
};

/* Takes the accepted, non-blocking socket over. */
void conn_open(struct agent *agent, int fd);

/* To SERVING. */
void conn_serve(struct conn *conn, struct conn_job *job);

/* A packer for at most `most` bytes of frames behind what is queued; conn_packed queues what was packed. What
 * does not fit leaves the packer full, and conn_packed then ends the connection instead. */
struct pack conn_pack(struct conn *conn, size_t most);
void conn_packed(struct conn *conn, const struct pack *pack);

void conn_refuse(struct conn *conn, enum agent_refusal kind, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

/* The answer is complete. The job must not use the connection any more. */
void conn_finish(struct conn *conn);

bool conn_is_full(const struct conn *conn);

/* Stops and resumes reading further frames, so that the peer waits. */
void conn_pause_input(struct conn *conn, bool paused);

/* Whether the peer is still there. A vsock peer that half-closed first and went away later is only noticed so. */
bool conn_is_alive(const struct conn *conn);

#endif
