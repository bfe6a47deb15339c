/* agent_client.h: asking a guest's agent (proto/agent.h) through its VMM's vsock socket.
 *
 * Each call makes one connection, asks one thing and waits for the answer until its deadline. What the guest
 * sends is bounded, and taken for hostile: a malformed answer is an error of that call and nothing else.
 * Errors are the host's (-ECONNREFUSED, -ETIMEDOUT, -EPROTO, ...) with a sentence; any thread may call. */
#ifndef FORKD_CONTROLLER_AGENT_CLIENT_H
#define FORKD_CONTROLLER_AGENT_CLIENT_H

#include "base/err.h"
#include "controller/rundir.h"
#include "proto/rest.h"

#include <stdint.h>

/* {pong, numpy_version, pid, agent_lang, warmup_ready}; a new reference. */
int agent_ping(const struct rundir *run, const char *id, json_t **answer, struct err *err);
/* {stdout, stderr, exit_code} and, where true, timed_out, stdout_truncated, stderr_truncated. */
int agent_exec(const struct rundir *run, const char *id, const struct rest_exec *rq, json_t **answer, struct err *err);
/* {result, error, exit_code}, and what was printed: stdout, stderr. */
int agent_eval(const struct rundir *run, const char *id, const struct rest_eval *rq, json_t **answer, struct err *err);

/* Dials the agent of a guest that may not run yet; nothing is waited for. The descriptor is the caller's. */
int agent_dial(const struct rundir *run, const char *id, struct err *err);
/* Makes a fresh fork, dialled before, somebody of its own: entropy, wall clock, hostname, id, token; acknowledged on
 * return. Takes the descriptor. */
int agent_identify(int dialled, const char *id, unsigned secs, struct err *err);

/* Warming up a parent. An exit status other than 0 of the command, a module that is not there: -EINVAL. */
int agent_run_ready(const struct rundir *run, const char *id, const char *command, unsigned secs, struct err *err);
int agent_warm(const struct rundir *run, const char *id, const char *const *modules, const char *code, unsigned secs,
               struct err *err);
int agent_settle(const struct rundir *run, const char *id, unsigned secs, struct err *err);

#endif
