/* serve.h: from a request to the service that answers it. Each service copies what it keeps of the frame. */
#ifndef FORKD_AGENT_SERVE_H
#define FORKD_AGENT_SERVE_H

#include "conn.h"
#include "proto/agent.h"

/* Answers, refuses, or hands the connection to a service. The connection is in CONN_REQUEST. */
void serve_request(struct conn *conn, const struct agent_frame *frame);

/* exec.c */
void exec_serve(struct conn *conn, const struct agent_exec *request);
/* ready.c */
void ready_serve(struct conn *conn, const struct agent_run_ready *request);
/* identity.c */
void identity_serve(struct conn *conn, const struct agent_identity *request);
/* eval.c */
void eval_serve(struct conn *conn, const struct agent_frame *frame, uint32_t timeout_ms);
void warm_serve(struct conn *conn, const struct agent_frame *frame, uint32_t timeout_ms);
void settle_serve(struct conn *conn);

#endif
