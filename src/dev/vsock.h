/* vsock.h: virtio-vsock (virtio 1.2, section 5.10), streams between programs of the host and of the guest.
 *
 * Theory of operation. On the host there is one listening Unix stream socket. A client connects, writes
 * "CONNECT <port>\n" and gets "OK <host port>\n" once a program of the guest accepted on that port, or its
 * connection is closed. From then on bytes go both ways, and so do half-closes. The guest itself connects to
 * nobody: every such attempt is refused (RST), but one to port VSOCK_DOORBELL of the host is told to the owner.
 *
 * Flow is bounded on both sides. What the guest sends waits in a buffer of VSOCK_BUF bytes per connection, which
 * is the credit the guest is told of; what the client sends stays in its socket until the guest has credit and a
 * receive buffer. Packets of the device's own making (RST and the like) are bits of a connection, or entries of
 * a short list of refusals; when that list is full the guest's packets wait in their ring.
 *
 * Forks. The state of a connection is half in a program of the host, so no connection survives in a fork: its
 * device has none, and puts a TRANSPORT_RESET event into the event queue, on which the guest's driver resets
 * the sockets it believes connected. Until the driver has taken that event in, nothing is delivered to the guest
 * (the device is *gated*): a new connection must not be reset with the old ones. The driver has taken it in when
 * every buffer it lends to the event queue is back there. If it lends none at the moment of the fork, the event
 * is pending until it does. Clients that connect meanwhile wait. The source of the fork notices nothing. Where the
 * guest knew of no connection there is none to reset, and a client of the fork is served at once.
 *
 * Invariants.
 * 1. While gated there is no connection that the guest knows of, and nothing is put into the receive queue.
 * 2. A reset that is pending is delivered before the gate opens, whatever number of forks lies between.
 * 3. Host ports are not used twice in the lives of a fork tree until they wrap: packets of an old life belong to
 *    no connection.
 * 4. At most VSOCK_CONNS_MAX connections, VSOCK_BUF bytes each, whatever guest or clients do.
 *
 * Threads: as virtio.h. */
#ifndef FORKD_DEV_VSOCK_H
#define FORKD_DEV_VSOCK_H

#include "dev/vsock_device.h"

/* on_doorbell is set by the machine after. */
void vsock_init(struct vsock *vsock, struct gmem *gmem);
/* `listen_fd` is a listening Unix stream socket, non-blocking; it stays the caller's, and open until
 * vsock_detach(). -1: nobody can connect. */
int vsock_attach(struct vsock *vsock, struct loop *loop, int listen_fd, struct err *err);
/* Closes all connections; when it is attached again the guest is told first, as after a fork. */
void vsock_detach(struct vsock *vsock);

#endif
