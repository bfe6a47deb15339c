/* vsock_conn.h: one connection of the vsock device: a client's socket on one side, the guest on the other.
 *
 * States.
 *   greeting   the client has not finished its CONNECT line. The guest knows nothing.
 *   requested  REQUEST is owed or sent, the guest has not answered. The client's bytes stay in its socket.
 *   open       the guest accepted. Bytes go both ways until a side ends its half.
 *   draining   the guest is through with it: what is buffered still goes to the client. RST may be owed.
 *   resetting  the client is gone and its socket closed; RST is owed.
 *   dead       the driver reset the device, or broke it: the socket is shut down, and the loop, which hears of
 *              that as a hang-up, frees the connection. (A reset comes on a vCPU's thread; sources leave the loop
 *              on the loop's.)
 * greeting -> requested -> open -> draining or resetting -> freed; any -> dead -> freed; a client that leaves in
 * `greeting`, or before its REQUEST was sent, is freed at once. From `draining` on the guest's packets are dropped.
 *
 * A socket is watched only for what can be done about it (conn_watch), so a hang-up that cannot be acted upon
 * yet does not wake the loop again and again. */
#ifndef FORKD_DEV_VSOCK_CONN_H
#define FORKD_DEV_VSOCK_CONN_H

#include "dev/vsock_device.h"

enum { VSOCK_LINE_MAX = 32 };

enum vsock_conn_state { CONN_GREETING, CONN_REQUESTED, CONN_OPEN, CONN_DRAINING, CONN_RESETTING, CONN_DEAD };

/* Packets owed to the guest, sent as soon as there are receive buffers. */
/* RST stands alone: after it there is nothing to say. */
enum { OWES_REQUEST = 1, OWES_RST = 2, OWES_SHUTDOWN = 4, OWES_CREDIT = 8 };

struct vsock_conn {
    struct list link;
    struct loop_source client;
    struct vsock *vsock;
    int fd;
    enum vsock_conn_state state;
    uint32_t watched; /* EPOLL* bits the loop waits for; meaningful while client.fd is not -1 */
    unsigned owes;
    uint32_t host_port, guest_port;
    char line[VSOCK_LINE_MAX]; /* of the greeting, as far as it came */
    unsigned line_len;

    /* To the guest. */
    bool client_eof; /* the client has sent its last byte, and it was delivered */
    bool client_hup; /* it is gone altogether; what it sent is still in the socket */
    bool guest_deaf; /* the guest receives no more */
    uint32_t sent;   /* bytes, modulo 2^32, as the credit counts (5.10.6.3) */
    uint32_t peer_buf_alloc, peer_fwd_cnt;

    /* From the guest. */
    bool guest_eof;                               /* the guest sends no more */
    bool eof_told;                                /* and the client was told */
    bool client_deaf;                             /* the client receives no more: what the guest sends is discarded */
    uint32_t received, forwarded, forwarded_told; /* bytes, modulo 2^32 */
    uint32_t buf_at, buf_len;                     /* a ring: received and not forwarded */
    uint8_t buf[VSOCK_BUF];
};

/* Takes the client's socket; closes it if there is no memory. */
void conn_new(struct vsock *vsock, int fd);
void conn_free(struct vsock_conn *conn);
/* Any state -> dead, or freed if the loop does not watch it. From any thread. */
void conn_kill(struct vsock_conn *conn);
/* Whether the guest may know it. */
bool conn_is_known(const struct vsock_conn *conn);
/* The connection of a packet, of those that are known; NULL if there is none. */
struct vsock_conn *conn_find(struct vsock *vsock, uint32_t host_port, uint32_t guest_port);
/* A packet of the guest's to a connection, with hdr->len bytes of payload in the chain behind the header. May
 * free the connection. What it owes after that is the caller's to pay. */
void conn_packet(struct vsock_conn *conn, const struct vsock_hdr *hdr, const struct virtq_chain *chain);
/* What the loop says of the client's socket: EPOLL* bits. May free the connection. What it owes after that is the
 * caller's to pay. */
void conn_event(struct vsock_conn *conn, uint32_t events);
/* Watches the client's socket for what can be done about it now. May free the connection. */
void conn_watch(struct vsock_conn *conn);
/* A packet that was owed is in the receive queue. May free the connection; false if it did. */
bool conn_paid(struct vsock_conn *conn, unsigned owed);

/* The header of a packet of it. */
struct vsock_hdr conn_header(struct vsock_conn *conn, enum vsock_op op, uint32_t len);

#endif
