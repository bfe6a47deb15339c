/* agent.h: what the parts of forkd-agent share.
 *
 * Theory of operation. One process, one thread, one loop. A connection (conn.h) reads a request and hands it to
 * the service that answers it (serve.c): a command with its output relayed (exec.c), the warm interpreter
 * (warm.h), the identity of a fork (identity.c), the readiness command (ready.c). Commands are processes with
 * pipes, a time limit and a bounded output (command.h). Children of all kinds end in child.h, which also reaps
 * what was orphaned. What changes the machine goes through effects.h, so that tests can record it instead.
 *
 * Nothing blocks the loop longer than a fork takes: every descriptor is non-blocking, sync(2) runs in a child. */
#ifndef FORKD_AGENT_AGENT_H
#define FORKD_AGENT_AGENT_H

#include "base/err.h"
#include "base/list.h"
#include "effects.h"
#include "sys/loop.h"

#include <stdbool.h>
#include <sys/types.h>

enum {
    AGENT_COMMANDS_MAX = 64, /* commands running at once; one more is refused */
    AGENT_CONNS_MAX = 192,   /* connections at once */
};

struct warm;

struct agent {
    struct loop loop;
    struct effects effects;
    bool is_init; /* pid 1 */
    bool stopping, power_off;
    struct loop_timer stop_timer;
    char **env; /* of what is started; ends with NULL, owned */

    int listen_fd;
    struct loop_source listener;
    int doorbell_fd; /* until the host has refused it */
    struct loop_source doorbell;
    struct list conns;
    unsigned conn_count;

    struct loop_source child_signals;
    int child_fd; /* signalfd */
    struct list children;

    unsigned command_count;
    uint64_t command_serial;

    struct list sinks; /* read ends nobody listens to any more; see sink.h */
    unsigned sink_count;

    struct warm *warm;
    bool identity_running;
};

/* Begins the end of the program, and with power_off, or as pid 1, of the machine: what SHUTDOWN, SIGTERM and SIGINT
 * ask for. Answers that are under way get a second. */
void agent_stop(struct agent *agent, bool power_off);

/* For conn.c: there is a connection less. */
void agent_conn_closed(struct agent *agent);

#endif
