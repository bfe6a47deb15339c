/* fdpass.h: messages with descriptors over Unix sockets.
 *
 * A message is one SOCK_SEQPACKET record of at least one byte and at most FDPASS_MAX descriptors. It arrives
 * whole or it is an error: of a record cut short, or with more descriptors than the receiver asked for, every
 * descriptor is closed and nothing is delivered. Descriptors arrive close-on-exec.
 * A peer that went away is an error of the sender (EPIPE, never SIGPIPE) and the value 0 at the receiver.
 *
 * Threads: a socket may be used by one sender and one receiver at once. */
#ifndef FORKD_BASE_FDPASS_H
#define FORKD_BASE_FDPASS_H

#include "base/err.h"

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

enum { FDPASS_MAX = 253 }; /* SCM_MAX_FD */

/* Sends `len` bytes and `count` descriptors; the descriptors stay the caller's. Blocks as the socket does. */
int fdpass_send(int sock, const void *bytes, size_t len, const int *fds, size_t count, struct err *err);

/* Receives one message into `buf`. `fds` has room for *count descriptors, which is set to how many came; they
 * are the caller's. Returns the length in bytes, or 0 when the peer closed. Blocks as the socket does; a
 * socket that would block gives -EAGAIN. */
ssize_t fdpass_recv(int sock, void *buf, size_t cap, int *fds, size_t *count, struct err *err);

/* The same, but -ETIMEDOUT at a deadline (CLOCK_MONOTONIC, ns), whether the socket blocks or not. */
int fdpass_send_by(int sock, const void *bytes, size_t len, const int *fds, size_t count, uint64_t deadline_ns,
                   struct err *err);
ssize_t fdpass_recv_by(int sock, void *buf, size_t cap, int *fds, size_t *count, uint64_t deadline_ns, struct err *err);

#endif
