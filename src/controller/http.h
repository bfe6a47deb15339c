/* http.h: the HTTP server.
 *
 * Theory of operation. libmicrohttpd's one thread accepts, parses and sends. A request is judged as soon as its
 * head is there: who asks, what for, how much is to come; what is refused is still read (and dropped) up to the
 * limit, so that the client sees the answer. When the body is there, a quick route is answered at once; for any
 * other the connection is suspended, a worker finds the answer and resumes it.
 *
 *     RECEIVING --(body complete)--> WORKING --(worker done)--> ANSWERED --(sent)--> freed
 *
 * A client that is slow is dropped (connections.h); what the bodies of all requests take together is bounded. What is
 * no HTTP at all never gets here: libmicrohttpd answers it with a page of its own.
 *
 * Invariants.
 * 1. In WORKING the request belongs to its worker; libmicrohttpd does not touch a suspended connection.
 * 2. Nothing is kept of a body that will not be used.
 * 3. A request that is not there wholly has done nothing. */
#ifndef FORKD_CONTROLLER_HTTP_H
#define FORKD_CONTROLLER_HTTP_H

#include "controller/audit.h"
#include "controller/auth.h"
#include "controller/controller.h"

struct http;

struct http_config {
    int listen_fd;     /* taken over */
    bool over_unix;    /* the peers have no address */
    bool tls;          /* as tls.h has it */
    struct auth *auth; /* NULL: no token is asked for */
    struct audit *audit;
    unsigned request_secs; /* a client has for sending a request, and for taking its answer */
};

int http_start(struct controller *c, const struct http_config *config, struct http **http, struct err *err);
/* To be called every few seconds: hangs up on whoever takes longer. */
void http_sweep(struct http *http);
/* No new connections from here on, and no new work on those there are (503); waits at most `secs` for the requests that
 * are being worked on. Returns how many were not done by then. */
unsigned http_drain(struct http *http, unsigned secs);
/* The workers must have ended. */
void http_stop(struct http *http);

/* A listening socket for "ADDRESS:PORT", "[ADDRESS]:PORT" or "unix:/path"; *loopback tells whether only this host
 * can reach it. A socket file that is there and that nobody listens on is replaced. */
int http_listen(const char *bind, bool *loopback, bool *over_unix, struct err *err);

#endif
