/* connections.h: how long a client may take.
 *
 * Theory of operation. libmicrohttpd hangs up on silence, and a client that sends a byte a minute is never silent. So
 * each connection has a time by which what it is at must be over: the next request must be there, or the answer taken.
 * While a worker looks for an answer there is none: a command may run for a day. Whoever is late has his socket shut
 * down by connections_sweep(), which libmicrohttpd finds as it finds any client that went away.
 *
 * Invariant. A socket is in the table while libmicrohttpd has it open, so what is shut down is never another's. */
#ifndef FORKD_CONTROLLER_CONNECTIONS_H
#define FORKD_CONTROLLER_CONNECTIONS_H

#include "base/list.h"

#include <pthread.h>
#include <stdint.h>

struct connections {
    pthread_mutex_t lock; /* guards the list and what is in it */
    struct list all;
    unsigned secs;
};

struct connection {
    struct list link;
    int fd;
    uint64_t due_ns; /* 0: it may take as long as it likes */
};

/* `secs` is how long one thing may take. */
void connections_init(struct connections *connections, unsigned secs);
void connections_destroy(struct connections *connections);

/* NULL without memory, which the others take: that connection may take its time. */
struct connection *connection_add(struct connections *connections, int fd);
void connection_remove(struct connections *connections, struct connection *connection);
/* What it is at begins now; or it waits for us. */
void connection_begins(struct connections *connections, struct connection *connection);
void connection_waits(struct connections *connections, struct connection *connection);

/* From any thread; how many were late. */
unsigned connections_sweep(struct connections *connections);

#endif
