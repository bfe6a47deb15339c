/* warm.h: the warm interpreter: one helper process that keeps its modules and names between requests.
 *
 * Theory of operation. The helper (forkd-warm.py) holds two sockets. On the work socket the agent sends EVAL, WARM
 * and SETTLE frames of proto/agent.h as they came from the host, one at a time, and the helper answers each with
 * EVALUATED, WARMED or SETTLED, preceded by a PONG whenever what a ping tells about it has changed. On the control
 * socket, one message each, go IDENTITY and IDENTIFIED: after RESEED_SIGNAL the helper takes it between two
 * bytecodes, even while an evaluation runs. Its standard output and error are pipes of the agent's, so that what
 * child processes and C code print comes as well, and what was printed before a crash is not lost.
 *
 * The helper runs code of users, who hold its sockets: all it says is as hostile as what a client says.
 *
 * States.
 * WARM_NONE         no helper; the first job starts one
 * WARM_STARTING     it was started and has not said its first PONG, which makes it IDLE; jobs wait
 * WARM_IDLE         it waits for a job
 * WARM_BUSY         it works on `current`. Over time to INTERRUPTED
 * WARM_INTERRUPTED  it gets SIGINT, again and again for a grace time; an answer ends the job as timed out.
 *                   After the grace to KILLED
 * WARM_KILLED       it got SIGKILL. To NONE when it is reaped; `current` is answered then, and a helper that is
 *                   started again first repeats the last successful WARM
 *
 * Invariants.
 * 1. `current` is set exactly while BUSY or INTERRUPTED, or KILLED with a job unanswered.
 * 2. Each job is answered exactly once, and never from inside warm_submit. */
#ifndef FORKD_AGENT_WARM_H
#define FORKD_AGENT_WARM_H

#include "agent.h"
#include "buf.h"
#include "proto/agent.h"

enum { WARM_QUEUE_MAX = 64 };

struct warm_answer {
    const struct agent_frame *frame; /* EVALUATED, WARMED or SETTLED, well made; NULL when the helper gave none */
    const char *why;                 /* then: a sentence */
    int32_t exit_code;               /* and what an exit_code should say */
    bool timed_out;
    struct agent_blob out[2]; /* what it printed meanwhile */
    bool cut[2];
};

struct warm_job {
    struct buf request; /* a whole frame, owned by the job */
    uint32_t timeout_ms;
    void (*answered)(struct warm_job *job, const struct warm_answer *answer);
    struct list link;
};

struct warm_options {
    const char *python; /* NULL: found in PATH */
    const char *helper;
};

int warm_init(struct agent *agent, const struct warm_options *options, struct err *err);

/* Queues the job. -EBUSY with a sentence when too many wait. */
int warm_submit(struct warm *warm, struct warm_job *job, struct err *err);

/* Whether there is a helper, or one is starting. */
bool warm_lives(const struct warm *warm);

/* Fills what a ping tells about the interpreter. The texts live until the loop goes on. */
void warm_describe(const struct warm *warm, struct agent_pong *pong);

/* Makes the helper of a fork its own: `done` is called once, at once when there is no helper. The texts of `m` are
 * copied; entropy and token are not given to the helper. */
void warm_reseed(struct warm *warm, const struct agent_identity *m, void (*done)(void *arg, const struct err *err),
                 void *arg);

/* Kills the helper and what it started. */
void warm_stop(struct warm *warm);

#endif
