/* sockdir.h: Unix sockets by their name in a directory descriptor.
 *
 * A socket's path has at most 107 bytes, state directories may lie deeper than that. The path used here goes
 * through /proc/self/fd, so only the name in the directory counts. Names have no slash and at most
 * SOCKDIR_NAME_MAX bytes. Descriptors returned are close-on-exec and the caller's. */
#ifndef FORKD_SYS_SOCKDIR_H
#define FORKD_SYS_SOCKDIR_H

#include "base/err.h"

enum { SOCKDIR_NAME_MAX = 80 };

/* A listening socket of mode 0600 at `name`; `type` is SOCK_STREAM or SOCK_SEQPACKET, with SOCK_NONBLOCK if
 * wanted. A name that exists is -EADDRINUSE: sockdir_unlink() it first if it is known to be dead. */
int sockdir_listen(int dirfd, const char *name, int type, int backlog, struct err *err);

/* Connects to the socket at `name`. -ECONNREFUSED: nobody listens there any more; -ETIMEDOUT: who listens there has
 * accepted nobody for so long that its backlog is full, and made no room within `wait_ms`, at least 1. */
int sockdir_connect(int dirfd, const char *name, int type, unsigned wait_ms, struct err *err);

/* Removes the name if it is there. */
int sockdir_unlink(int dirfd, const char *name, struct err *err);

#endif
