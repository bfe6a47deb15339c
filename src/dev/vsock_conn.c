/* vsock_conn.c: the side of the vsock device that clients see: their sockets and the bytes that go through.
 * See vsock_conn.h.
 *
 * SECCOMP: recvfrom - a client says which port it wants
 * SECCOMP: sendto - and hears that it is connected
 * SECCOMP: readv - from a client's socket into guest memory
 * SECCOMP: sendmsg - from guest memory into a client's socket
 * SECCOMP: shutdown - the guest ended its half, or all, of a connection */
#include "dev/vsock_conn.h"

#include "base/log.h"
#include "base/own.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>

enum { READS_AT_ONCE = 16 };

/* Below so much of its credit a guest that sends is told what was forwarded since. */
enum { CREDIT_LOW = VSOCK_BUF / 2 };

void conn_new(struct vsock *vsock, int fd)
{
    own_fd int owned = fd;
    if (vsock->conn_count == VSOCK_CONNS_MAX || !virtio_is_running(&vsock->virtio))
        return;
    struct vsock_conn *conn = malloc(sizeof *conn);
    if (!conn)
        return;
    /* Not the buffer: it is touched as it is used. */
    memset(conn, 0, offsetof(struct vsock_conn, buf));
    conn->vsock = vsock;
    conn->fd = steal_fd(&owned);
    conn->client = (struct loop_source){.fd = -1, .fn = vsock->on_client};
    conn->state = CONN_GREETING;
    list_append(&vsock->conns, &conn->link);
    vsock->conn_count++;
    conn_watch(conn);
}

static void client_close(struct vsock_conn *conn)
{
    loop_remove(conn->vsock->loop, &conn->client);
    fd_close(&conn->fd);
}

void conn_free(struct vsock_conn *conn)
{
    client_close(conn);
    list_remove(&conn->link);
    conn->vsock->conn_count--;
    free(conn);
}

void conn_kill(struct vsock_conn *conn)
{
    if (conn->client.fd < 0) {
        conn_free(conn);
        return;
    }
    if (conn->state == CONN_DEAD)
        return;
    conn->state = CONN_DEAD;
    conn->owes = 0;
    conn->buf_len = 0;
    shutdown(conn->fd, SHUT_RDWR);
}

bool conn_is_known(const struct vsock_conn *conn)
{
    return conn->state != CONN_GREETING && conn->state != CONN_DEAD && !(conn->owes & OWES_REQUEST);
}

struct vsock_conn *conn_find(struct vsock *vsock, uint32_t host_port, uint32_t guest_port)
{
    list_for_each (n, &vsock->conns) {
        struct vsock_conn *conn = list_entry(n, struct vsock_conn, link);
        if (conn_is_known(conn) && conn->host_port == host_port && conn->guest_port == guest_port)
            return conn;
    }
    return NULL;
}

/* Ends a connection whose client is gone, or whose guest broke its rules: the guest is told if it knows of it.
 * False if it was freed. */
static bool conn_reset(struct vsock_conn *conn)
{
    bool known = conn->state == CONN_OPEN || (conn->state == CONN_REQUESTED && !(conn->owes & OWES_REQUEST));
    if (!known) {
        conn_free(conn);
        return false;
    }
    client_close(conn);
    conn->state = CONN_RESETTING;
    conn->owes = OWES_RST;
    return true;
}

/* The guest is through. What is buffered goes to the client, then the connection ends. False if it was freed. */
static bool conn_drain(struct vsock_conn *conn)
{
    conn->state = CONN_DRAINING;
    if (conn->buf_len)
        return true;
    if (!(conn->owes & OWES_RST)) {
        conn_free(conn);
        return false;
    }
    client_close(conn);
    conn->state = CONN_RESETTING;
    return true;
}

bool conn_paid(struct vsock_conn *conn, unsigned owed)
{
    conn->owes &= ~owed;
    if (owed == OWES_RST && conn->state == CONN_RESETTING) {
        conn_free(conn);
        return false;
    }
    return true;
}

struct vsock_hdr conn_header(struct vsock_conn *conn, enum vsock_op op, uint32_t len)
{
    struct vsock_hdr hdr = vsock_header(conn->host_port, conn->guest_port, op);
    hdr.len = len;
    hdr.buf_alloc = VSOCK_BUF;
    hdr.fwd_cnt = conn->forwarded_told = conn->forwarded;
    conn->owes &= ~(unsigned)OWES_CREDIT; /* every packet carries it */
    return hdr;
}

/* Watching */

/* 5.10.6.3: what the guest still has room for. A guest that lies about it gets nothing, or what it cannot hold. */
static uint32_t guest_credit(const struct vsock_conn *conn)
{
    uint32_t in_flight = conn->sent - conn->peer_fwd_cnt;
    return in_flight < conn->peer_buf_alloc ? conn->peer_buf_alloc - in_flight : 0;
}

static bool may_read(const struct vsock_conn *conn)
{
    return conn->state == CONN_OPEN && !conn->client_eof && !conn->guest_deaf && guest_credit(conn) > 0 &&
           vsock_can_deliver(conn->vsock);
}

static uint32_t wanted(const struct vsock_conn *conn)
{
    uint32_t events = 0;
    if (conn->state == CONN_GREETING || may_read(conn))
        events |= EPOLLIN;
    if (conn->buf_len)
        events |= EPOLLOUT;
    return events;
}

void conn_watch(struct vsock_conn *conn)
{
    uint32_t events = wanted(conn);
    struct loop *loop = conn->vsock->loop;
    int rc = 0;
    if (conn->fd < 0 || conn->state == CONN_DEAD)
        return;
    if (conn->client_hup && !(events & EPOLLIN)) { /* else the hang-up would be reported without end */
        loop_remove(loop, &conn->client);
        return;
    }
    if (conn->client.fd < 0)
        rc = loop_add(loop, &conn->client, conn->fd, events, NULL);
    else if (events != conn->watched)
        rc = loop_change(loop, &conn->client, events, NULL);
    conn->watched = events;
    if (rc < 0) {
        log_warn("vsock: a client cannot be watched: %s", strerror(-rc));
        conn_reset(conn);
    }
}

/* From guest to client */

static void credit_check(struct vsock_conn *conn)
{
    uint32_t believed_free = VSOCK_BUF - (conn->received - conn->forwarded_told);
    if (conn->state == CONN_OPEN && believed_free < CREDIT_LOW && conn->forwarded != conn->forwarded_told)
        conn->owes |= OWES_CREDIT;
}

static void client_went_deaf(struct vsock_conn *conn)
{
    conn->client_deaf = true;
    conn->forwarded += conn->buf_len;
    conn->buf_len = 0;
    if (conn->state == CONN_OPEN)
        conn->owes |= OWES_SHUTDOWN;
}

/* Bytes written, 0 if the socket takes none now or the client is gone. */
static uint32_t client_write(struct vsock_conn *conn, struct iovec *iov, unsigned count)
{
    struct msghdr msg = {.msg_iov = iov, .msg_iovlen = count};
    for (;;) {
        ssize_t n = sendmsg(conn->fd, &msg, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (n >= 0) {
            conn->forwarded += (uint32_t)n;
            return (uint32_t)n;
        }
        if (errno == EINTR)
            continue;
        if (errno != EAGAIN)
            client_went_deaf(conn);
        return 0;
    }
}

static void buf_flush(struct vsock_conn *conn)
{
    while (conn->buf_len) {
        uint32_t head = VSOCK_BUF - conn->buf_at;
        struct iovec iov[2] = {{conn->buf + conn->buf_at, conn->buf_len < head ? conn->buf_len : head}, {0}};
        iov[1] = (struct iovec){conn->buf, conn->buf_len - iov[0].iov_len};
        uint32_t n = client_write(conn, iov, iov[1].iov_len ? 2 : 1);
        if (!n)
            break;
        conn->buf_at = (conn->buf_at + n) % VSOCK_BUF;
        conn->buf_len -= n;
    }
    if (!conn->buf_len && conn->guest_eof && !conn->eof_told) {
        shutdown(conn->fd, SHUT_WR);
        conn->eof_told = true;
    }
    credit_check(conn);
}

/* Appends the chain's bytes from `at`; there is room for them. */
static void buf_append(struct vsock_conn *conn, const struct virtq_chain *chain, uint32_t at, uint32_t len)
{
    while (len) {
        uint32_t tail = (conn->buf_at + conn->buf_len) % VSOCK_BUF;
        uint32_t part = VSOCK_BUF - tail < len ? VSOCK_BUF - tail : len;
        virtq_chain_read(chain, conn->vsock->virtio.gmem, at, conn->buf + tail, part);
        conn->buf_len += part;
        at += part;
        len -= part;
    }
}

/* False if the guest sent what it had no credit for, or after its end. */
static bool guest_data(struct vsock_conn *conn, const struct virtq_chain *chain, uint32_t len)
{
    struct iovec iov[VIRTQ_CHAIN_MAX];
    uint32_t at = sizeof(struct vsock_hdr), written = 0;
    if (conn->guest_eof || len > VSOCK_BUF - conn->buf_len)
        return false;
    conn->received += len;
    if (len && !conn->buf_len && !conn->client_deaf) {
        unsigned count = virtq_chain_iov(chain, conn->vsock->virtio.gmem, false, at, len, iov);
        written = client_write(conn, iov, count);
    }
    if (conn->client_deaf)
        conn->forwarded += len - written;
    else
        buf_append(conn, chain, at + written, len - written);
    credit_check(conn);
    return true;
}

/* False if the connection was freed. */
static bool guest_shutdown(struct vsock_conn *conn, uint32_t flags)
{
    if (flags & VSOCK_SHUTDOWN_RECEIVE && !conn->guest_deaf) {
        conn->guest_deaf = true;
        shutdown(conn->fd, SHUT_RD);
    }
    if (flags & VSOCK_SHUTDOWN_SEND)
        conn->guest_eof = true;
    if (conn->guest_eof && conn->guest_deaf) { /* 5.10.6.5: closed; the answer lets it forget the port */
        conn->owes = OWES_RST;
        return conn_drain(conn);
    }
    buf_flush(conn);
    return true;
}

static bool guest_accepted(struct vsock_conn *conn)
{
    char line[VSOCK_LINE_MAX];
    int len = snprintf(line, sizeof line, "OK %u\n", conn->host_port);
    /* Nothing was written to this socket yet, so it takes so little as a whole or the client is gone. */
    if (send(conn->fd, line, (size_t)len, MSG_DONTWAIT | MSG_NOSIGNAL) != len)
        return conn_reset(conn);
    conn->state = CONN_OPEN;
    return true;
}

static bool packet_open(struct vsock_conn *conn, const struct vsock_hdr *hdr, const struct virtq_chain *chain)
{
    switch (hdr->op) {
    case VSOCK_OP_RW:
        return guest_data(conn, chain, hdr->len) ? true : conn_reset(conn);
    case VSOCK_OP_SHUTDOWN:
        return guest_shutdown(conn, hdr->flags);
    case VSOCK_OP_RST:
        conn->owes = 0;
        return conn_drain(conn);
    case VSOCK_OP_CREDIT_REQUEST:
        conn->owes |= OWES_CREDIT;
        return true;
    case VSOCK_OP_CREDIT_UPDATE:
        return true;
    default:
        return conn_reset(conn);
    }
}

static bool packet_requested(struct vsock_conn *conn, const struct vsock_hdr *hdr)
{
    if (hdr->op == VSOCK_OP_RESPONSE)
        return guest_accepted(conn);
    if (hdr->op != VSOCK_OP_RST)
        return conn_reset(conn);
    conn_free(conn);
    return false;
}

void conn_packet(struct vsock_conn *conn, const struct vsock_hdr *hdr, const struct virtq_chain *chain)
{
    bool alive = true;
    conn->peer_buf_alloc = hdr->buf_alloc;
    conn->peer_fwd_cnt = hdr->fwd_cnt;
    if (conn->state == CONN_REQUESTED)
        alive = packet_requested(conn, hdr);
    else if (conn->state == CONN_OPEN)
        alive = packet_open(conn, hdr, chain);
    if (alive)
        conn_watch(conn);
}

/* From client to guest */

static uint32_t host_port_take(struct vsock *vsock)
{
    for (;;) {
        uint32_t port = vsock->next_host_port;
        vsock->next_host_port = port == VSOCK_LAST_HOST_PORT ? VSOCK_FIRST_HOST_PORT : port + 1;
        bool used = false;
        list_for_each (n, &vsock->conns)
            used |= list_entry(n, struct vsock_conn, link)->host_port == port;
        if (!used)
            return port;
    }
}

/* The port of "CONNECT <port>", in decimal and nothing else. */
static bool line_parse(const char *line, uint32_t *port)
{
    static const char verb[] = "CONNECT ";
    uint64_t v = 0;
    if (strncmp(line, verb, sizeof verb - 1) != 0 || !line[sizeof verb - 1])
        return false;
    for (const char *c = line + sizeof verb - 1; *c; c++) {
        if (*c < '0' || *c > '9')
            return false;
        v = v * 10 + (uint64_t)(*c - '0');
        if (v > UINT32_MAX)
            return false;
    }
    *port = (uint32_t)v;
    return true;
}

/* Takes the client's bytes up to the end of its line and none behind it. 1: the line is whole and terminated;
 * 0: more is to come; -1: it is too long, or the client left. */
static int line_take(struct vsock_conn *conn)
{
    char *at = conn->line + conn->line_len;
    size_t room = sizeof conn->line - conn->line_len;
    ssize_t n = recv(conn->fd, at, room, MSG_PEEK | MSG_DONTWAIT);
    if (n < 0)
        return errno == EAGAIN || errno == EINTR ? 0 : -1;
    char *end = memchr(at, '\n', (size_t)n);
    if (end)
        n = end + 1 - at;
    if (n == 0 || recv(conn->fd, at, (size_t)n, MSG_DONTWAIT) != n)
        return -1;
    conn->line_len += (unsigned)n;
    if (end) {
        *end = 0;
        return 1;
    }
    return conn->line_len < sizeof conn->line ? 0 : -1;
}

/* False if the connection was freed. */
static bool greeting_read(struct vsock_conn *conn)
{
    int rc = line_take(conn);
    if (rc == 0)
        return true;
    if (rc < 0 || !line_parse(conn->line, &conn->guest_port)) {
        conn_free(conn);
        return false;
    }
    conn->host_port = host_port_take(conn->vsock);
    conn->state = CONN_REQUESTED;
    conn->owes = OWES_REQUEST;
    return true;
}

static bool client_ended(struct vsock_conn *conn)
{
    conn->client_eof = true;
    conn->owes |= OWES_SHUTDOWN;
    return conn->client_deaf ? conn_reset(conn) : true;
}

/* Reads one packet's worth straight into a receive buffer. 1: there may be more; 0: not now; -1: the connection
 * is gone. */
static int client_read_packet(struct vsock_conn *conn)
{
    struct vsock *vsock = conn->vsock;
    struct virtq_chain chain;
    struct iovec iov[VIRTQ_CHAIN_MAX];
    const uint32_t at = sizeof(struct vsock_hdr);
    if (!vsock_take_buffer(vsock, &chain, 1))
        return virtio_is_running(&vsock->virtio) ? 0 : -1;
    uint32_t room = chain.writable_len - at, credit = guest_credit(conn);
    unsigned count = virtq_chain_iov(&chain, vsock->virtio.gmem, true, at, room < credit ? room : credit, iov);
    ssize_t n = readv(conn->fd, iov, (int)count);
    if (n <= 0) {
        virtq_unpop(&vsock->virtio.queue[VSOCK_QUEUE_RX]);
        if (n == 0)
            return client_ended(conn) ? 0 : -1;
        if (errno == EAGAIN || errno == EINTR)
            return 0;
        return conn_reset(conn) ? 0 : -1;
    }
    virtq_chain_mark(&chain, vsock->virtio.gmem, at, (uint32_t)n);
    conn->sent += (uint32_t)n;
    struct vsock_hdr hdr = conn_header(conn, VSOCK_OP_RW, (uint32_t)n);
    vsock_deliver(vsock, &chain, &hdr);
    return 1;
}

/* False if the connection was freed. */
static bool client_read(struct vsock_conn *conn)
{
    struct vsock *vsock = conn->vsock;
    int rc = 1, packets = 0;
    while (packets < READS_AT_ONCE && may_read(conn) && (rc = client_read_packet(conn)) > 0)
        packets++;
    if (packets)
        virtio_interrupt(&vsock->virtio, VSOCK_QUEUE_RX);
    return rc >= 0;
}

/* The client of an open connection: bytes of it, room for bytes, or its end. False if it was freed. */
static bool open_event(struct vsock_conn *conn, uint32_t events)
{
    bool hup = events & (EPOLLHUP | EPOLLERR);
    if (events & EPOLLOUT || (hup && conn->buf_len))
        buf_flush(conn);
    if (may_read(conn))
        return events & EPOLLIN || hup ? client_read(conn) : true;
    if (!hup)
        return true;
    if (conn->client_eof || conn->guest_deaf) /* nothing can go either way any more */
        return conn_reset(conn);
    conn->client_hup = true; /* what it sent before it left waits for the guest */
    return true;
}

/* False if the connection was freed. */
static bool client_event(struct vsock_conn *conn, uint32_t events)
{
    switch (conn->state) {
    case CONN_GREETING:
        return greeting_read(conn);
    case CONN_REQUESTED:
        return events & (EPOLLHUP | EPOLLERR) ? conn_reset(conn) : true;
    case CONN_OPEN:
        return open_event(conn, events);
    case CONN_DRAINING:
        buf_flush(conn);
        return conn_drain(conn);
    case CONN_RESETTING:
        return true;
    case CONN_DEAD:
        break;
    }
    conn_free(conn);
    return false;
}

void conn_event(struct vsock_conn *conn, uint32_t events)
{
    if (client_event(conn, events))
        conn_watch(conn);
}
