/* vsock.c: claims about src/dev/vsock.c and vsock_conn.c: streams, their ends, credit, forks, and guests that lie. */
#include "dev/vsock.h"
#include "dev/vsock_conn.h"
#include "driver.h"
#include "sys/loop.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cmocka.h>

enum { RX, TX, EVENT };
enum { RX_BUFFERS = 16, RX_ROOM = 4096, EVENT_BUFFERS = 8 };

/* One life of a guest with its device and host. */
struct life {
    struct driver d;
    struct vsock vsock;
    struct loop loop;
    int listen_fd;
    char path[80];
    unsigned rang;
    uint32_t rang_port;
    uint64_t rx_gpa[DRIVER_QUEUE_SIZE]; /* by head */
    uint64_t event_gpa[DRIVER_QUEUE_SIZE];
    uint64_t tx_gpa;
};

struct packet {
    struct vsock_hdr hdr;
    uint8_t body[RX_ROOM];
};

static unsigned lives;

static void on_doorbell(struct vsock *vsock, uint32_t port)
{
    struct life *l = (struct life *)((char *)vsock - offsetof(struct life, vsock));
    l->rang++;
    l->rang_port = port;
}

static void host_up(struct life *l)
{
    struct sockaddr_un addr = {.sun_family = AF_UNIX};
    snprintf(l->path, sizeof l->path, "/tmp/unit-vsock-%d-%u", getpid(), lives++);
    strcpy(addr.sun_path, l->path);
    unlink(l->path);
    l->listen_fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    assert_true(l->listen_fd >= 0);
    assert_int_equal(bind(l->listen_fd, (struct sockaddr *)&addr, sizeof addr), 0);
    assert_int_equal(listen(l->listen_fd, 512), 0);
    assert_int_equal(loop_init(&l->loop, NULL), 0);
    assert_int_equal(vsock_attach(&l->vsock, &l->loop, l->listen_fd, NULL), 0);
    l->vsock.on_doorbell = on_doorbell;
}

static void life_end(struct life *l)
{
    vsock_detach(&l->vsock);
    assert_int_equal(l->vsock.conn_count, 0);
    loop_destroy(&l->loop);
    close(l->listen_fd);
    unlink(l->path);
    driver_destroy(&l->d);
    free(l);
}

static void lend(struct life *l, unsigned queue, uint64_t gpa, uint32_t len)
{
    uint16_t head = driver_add(&l->d, queue, (struct driver_buf[]){{gpa, len, true}}, 1);
    (queue == RX ? l->rx_gpa : l->event_gpa)[head] = gpa;
}

/* Delivers what is ready until nothing is: a busy loop fails. */
static void settle(struct life *l)
{
    driver_settle(&l->d, &l->loop);
}

static struct life *life_new(void)
{
    struct life *l = calloc(1, sizeof *l);
    assert_non_null(l);
    driver_init(&l->d, DRIVER_RAM);
    vsock_init(&l->vsock, &l->d.gmem);
    host_up(l);
    driver_probe(&l->d, &l->vsock.virtio);
    l->tx_gpa = driver_alloc(&l->d, 128 << 10);
    for (int i = 0; i < RX_BUFFERS; i++)
        lend(l, RX, driver_alloc(&l->d, 44 + RX_ROOM), 44 + RX_ROOM);
    for (int i = 0; i < EVENT_BUFFERS; i++)
        lend(l, EVENT, driver_alloc(&l->d, 8), 4);
    driver_kick(&l->d, RX);
    driver_kick(&l->d, EVENT);
    return l;
}

/* The same guest and device in another process: state by save and load, a host of its own, running. */
static struct life *life_fork(struct life *l)
{
    static uint8_t state[4096];
    struct pack p = pack_into(state, sizeof state);
    virtio_save(&l->vsock.virtio, &p);
    assert_false(p.full);
    struct life *child = calloc(1, sizeof *child);
    assert_non_null(child);
    driver_fork(&child->d, &l->d);
    memcpy(child->rx_gpa, l->rx_gpa, sizeof l->rx_gpa);
    memcpy(child->event_gpa, l->event_gpa, sizeof l->event_gpa);
    child->tx_gpa = l->tx_gpa;
    vsock_init(&child->vsock, &child->d.gmem);
    driver_connect(&child->d, &child->vsock.virtio);
    struct unpack u = unpack_from(state, p.len);
    struct err err = {0};
    assert_int_equal(virtio_load(&child->vsock.virtio, &u, &err), 0);
    assert_true(unpack_done(&u));
    host_up(child);
    virtio_resume(&child->vsock.virtio);
    settle(child);
    return child;
}

/* The guest */

static bool guest_take(struct life *l, struct packet *packet)
{
    uint16_t head;
    uint32_t len;
    if (!driver_take(&l->d, RX, &head, &len))
        return false;
    assert_true(len >= 44 && len <= 44 + RX_ROOM);
    memcpy(packet, driver_at(&l->d, l->rx_gpa[head], len), len);
    assert_int_equal(packet->hdr.len, len - 44);
    lend(l, RX, l->rx_gpa[head], 44 + RX_ROOM);
    driver_kick(&l->d, RX);
    return true;
}

static struct packet guest_expect(struct life *l, enum vsock_op op)
{
    struct packet packet = {0};
    settle(l);
    assert_true(guest_take(l, &packet));
    assert_int_equal(packet.hdr.op, op);
    assert_int_equal(packet.hdr.src_cid, 2);
    assert_int_equal(packet.hdr.dst_cid, 3);
    return packet;
}

static void guest_expect_nothing(struct life *l)
{
    uint16_t head;
    uint32_t len;
    settle(l);
    assert_false(driver_take(&l->d, RX, &head, &len));
}

static struct vsock_hdr hdr_of(enum vsock_op op, uint32_t host_port, uint32_t guest_port)
{
    return (struct vsock_hdr){.src_cid = 3,
                              .dst_cid = 2,
                              .src_port = guest_port,
                              .dst_port = host_port,
                              .type = 1,
                              .op = (uint16_t)op,
                              .buf_alloc = 256 << 10};
}

/* Puts a packet into the transmit queue, and waits until the device took it (it may leave it there). */
static void guest_send(struct life *l, struct vsock_hdr hdr, const void *body)
{
    memcpy(driver_at(&l->d, l->tx_gpa, 44), &hdr, 44);
    if (hdr.len)
        memcpy(driver_at(&l->d, l->tx_gpa + 44, hdr.len), body, hdr.len);
    driver_add(&l->d, TX, (struct driver_buf[]){{l->tx_gpa, 44, false}, {l->tx_gpa + 44, hdr.len, false}},
               hdr.len ? 2 : 1);
    driver_kick(&l->d, TX);
    settle(l);
}

/* Takes the events in, as Linux does: acts, gives the buffer back, notifies at the end. Returns their number. */
static unsigned guest_events(struct life *l)
{
    uint16_t head;
    uint32_t len;
    unsigned n = 0;
    for (; driver_take(&l->d, EVENT, &head, &len); n++) {
        assert_int_equal(len, 4);
        assert_int_equal(*(uint32_t *)driver_at(&l->d, l->event_gpa[head], 4), 0);
        lend(l, EVENT, l->event_gpa[head], 4);
    }
    driver_kick(&l->d, EVENT);
    settle(l);
    return n;
}

/* The client */

static int client_connect(struct life *l, const char *line)
{
    struct sockaddr_un addr = {.sun_family = AF_UNIX};
    strcpy(addr.sun_path, l->path);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    assert_true(fd >= 0);
    assert_int_equal(connect(fd, (struct sockaddr *)&addr, sizeof addr), 0);
    assert_int_equal(send(fd, line, strlen(line), MSG_NOSIGNAL), strlen(line));
    settle(l);
    return fd;
}

static void client_expect(int fd, const char *text)
{
    char got[256] = {0};
    assert_int_equal(recv(fd, got, strlen(text), 0), strlen(text));
    assert_string_equal(got, text);
}

static void client_expect_end(int fd)
{
    char c;
    ssize_t n = recv(fd, &c, 1, 0);
    assert_true(n == 0 || (n < 0 && errno == ECONNRESET));
}

static void client_expect_nothing(int fd)
{
    char c;
    assert_int_equal(recv(fd, &c, 1, 0), -1);
    assert_int_equal(errno, EAGAIN);
}

/* A connection to the guest's port 52; `credit` is what the guest says it has room for. */
static int open_stream(struct life *l, uint32_t *host_port, uint32_t credit)
{
    char ok[32];
    int fd = client_connect(l, "CONNECT 52\n");
    struct packet request = guest_expect(l, VSOCK_OP_REQUEST);
    assert_int_equal(request.hdr.dst_port, 52);
    assert_int_equal(request.hdr.buf_alloc, VSOCK_BUF);
    client_expect_nothing(fd);
    *host_port = request.hdr.src_port;
    struct vsock_hdr response = hdr_of(VSOCK_OP_RESPONSE, *host_port, 52);
    response.buf_alloc = credit;
    guest_send(l, response, NULL);
    snprintf(ok, sizeof ok, "OK %u\n", *host_port);
    client_expect(fd, ok);
    return fd;
}

static void guest_write(struct life *l, uint32_t host_port, const void *body, uint32_t len)
{
    struct vsock_hdr hdr = hdr_of(VSOCK_OP_RW, host_port, 52);
    hdr.len = len;
    guest_send(l, hdr, body);
}

static void guest_shut(struct life *l, uint32_t host_port, uint32_t flags)
{
    struct vsock_hdr hdr = hdr_of(VSOCK_OP_SHUTDOWN, host_port, 52);
    hdr.flags = flags;
    guest_send(l, hdr, NULL);
}

/* Claims */

static void bytes_go_both_ways_once_the_guest_accepted(void **state)
{
    struct life *l = life_new();
    uint32_t port;
    int fd = open_stream(l, &port, 1 << 16);
    guest_write(l, port, "from guest", 10);
    client_expect(fd, "from guest");
    assert_int_equal(send(fd, "from client", 11, 0), 11);
    struct packet p = guest_expect(l, VSOCK_OP_RW);
    assert_int_equal(p.hdr.len, 11);
    assert_memory_equal(p.body, "from client", 11);
    assert_int_equal(p.hdr.fwd_cnt, 10);
    close(fd);
    life_end(l);
}

static void what_follows_the_greeting_at_once_is_not_lost(void **state)
{
    struct life *l = life_new();
    int fd = client_connect(l, "CONNECT 52\nearly");
    struct packet p = guest_expect(l, VSOCK_OP_REQUEST);
    guest_send(l, hdr_of(VSOCK_OP_RESPONSE, p.hdr.src_port, 52), NULL);
    p = guest_expect(l, VSOCK_OP_RW);
    assert_int_equal(p.hdr.len, 5);
    assert_memory_equal(p.body, "early", 5);
    close(fd);
    life_end(l);
}

static void a_greeting_may_come_in_pieces(void **state)
{
    struct life *l = life_new();
    int fd = client_connect(l, "CONN");
    const char *rest = "ECT 52\n";
    for (; *rest; rest++) {
        assert_int_equal(send(fd, rest, 1, 0), 1);
        settle(l);
    }
    guest_expect(l, VSOCK_OP_REQUEST);
    close(fd);
    life_end(l);
}

static void a_greeting_that_is_none_closes_the_connection(void **state)
{
    static const char *const lines[] = {"\n",
                                        "CONNECT\n",
                                        "CONNECT \n",
                                        "CONNECT 5x\n",
                                        "CONNECT -1\n",
                                        "CONNECT 4294967296\n",
                                        "connect 52\n",
                                        "CONNECT 52 \n",
                                        "CONNECT 00000000000000000000000000000052\n",
                                        "a line without an end, which is longer than any greeting"};
    struct life *l = life_new();
    for (size_t i = 0; i < sizeof lines / sizeof *lines; i++) {
        int fd = client_connect(l, lines[i]);
        client_expect_end(fd);
        close(fd);
    }
    guest_expect_nothing(l);
    assert_int_equal(l->vsock.conn_count, 0);
    life_end(l);
}

static void a_guest_that_refuses_closes_the_connection(void **state)
{
    struct life *l = life_new();
    int fd = client_connect(l, "CONNECT 99\n");
    struct packet p = guest_expect(l, VSOCK_OP_REQUEST);
    guest_send(l, hdr_of(VSOCK_OP_RST, p.hdr.src_port, 99), NULL);
    client_expect_end(fd);
    assert_int_equal(l->vsock.conn_count, 0);
    close(fd);
    life_end(l);
}

static void a_client_that_leaves_early_is_forgotten(void **state)
{
    struct life *l = life_new();
    close(client_connect(l, "CONNECT 5"));
    settle(l);
    assert_int_equal(l->vsock.conn_count, 0);
    guest_expect_nothing(l);
    close(client_connect(l, "CONNECT 52\n"));
    guest_expect(l, VSOCK_OP_REQUEST);
    guest_expect(l, VSOCK_OP_RST); /* the guest knew of this one */
    assert_int_equal(l->vsock.conn_count, 0);
    life_end(l);
}

static void many_bytes_arrive_whole_through_small_credit(void **state)
{
    enum { TOTAL = 1 << 20, CREDIT = 5000 };
    struct life *l = life_new();
    uint32_t port, got = 0, given = 0;
    int fd = open_stream(l, &port, CREDIT);
    uint8_t *data = malloc(TOTAL);
    assert_non_null(data);
    for (uint32_t i = 0; i < TOTAL; i++)
        data[i] = (uint8_t)(i * 2654435761u >> 24);
    while (got < TOTAL) {
        if (given < TOTAL) {
            ssize_t n = send(fd, data + given, TOTAL - given, MSG_DONTWAIT);
            given += n > 0 ? (uint32_t)n : 0;
        }
        settle(l);
        struct packet p;
        uint32_t round = 0;
        while (guest_take(l, &p)) {
            assert_int_equal(p.hdr.op, VSOCK_OP_RW);
            assert_memory_equal(p.body, data + got + round, p.hdr.len);
            round += p.hdr.len;
        }
        assert_true(round > 0 && round <= CREDIT);
        got += round;
        struct vsock_hdr update = hdr_of(VSOCK_OP_CREDIT_UPDATE, port, 52);
        update.buf_alloc = CREDIT;
        update.fwd_cnt = got;
        guest_send(l, update, NULL);
    }
    free(data);
    close(fd);
    life_end(l);
}

static void credit_is_counted_across_its_wrap(void **state)
{
    struct life *l = life_new();
    uint32_t port;
    int fd = open_stream(l, &port, 0);
    struct vsock_conn *conn = conn_find(&l->vsock, port, 52);
    conn->sent = UINT32_MAX - 5;
    struct vsock_hdr update = hdr_of(VSOCK_OP_CREDIT_UPDATE, port, 52);
    update.buf_alloc = 10;
    update.fwd_cnt = UINT32_MAX - 5;
    assert_int_equal(send(fd, "0123456789abcdef", 16, 0), 16);
    guest_send(l, update, NULL);
    assert_int_equal(guest_expect(l, VSOCK_OP_RW).hdr.len, 10);
    guest_expect_nothing(l);
    update.fwd_cnt = 2; /* 8 of the 10 */
    guest_send(l, update, NULL);
    assert_int_equal(guest_expect(l, VSOCK_OP_RW).hdr.len, 6);
    update.buf_alloc = UINT32_MAX;
    update.fwd_cnt = 0x80000000; /* a lie: more than was sent */
    guest_send(l, update, NULL);
    close(fd);
    settle(l);
    life_end(l);
}

static void a_client_that_does_not_read_costs_the_guest_its_credit_alone(void **state)
{
    static uint8_t chunk[16 << 10];
    struct life *l = life_new();
    uint32_t port, sent = 0, fwd = 0, got = 0;
    int fd = open_stream(l, &port, 1 << 16);
    struct packet p;
    /* As long as credit lasts; the client's own socket takes some before the buffer fills. */
    while (sent - fwd + sizeof chunk <= VSOCK_BUF) {
        memset(chunk, (int)(sent / sizeof chunk), sizeof chunk);
        guest_write(l, port, chunk, sizeof chunk);
        sent += (uint32_t)sizeof chunk;
        while (guest_take(l, &p)) {
            assert_int_equal(p.hdr.op, VSOCK_OP_CREDIT_UPDATE);
            fwd = p.hdr.fwd_cnt;
        }
    }
    settle(l); /* and the loop is at rest */
    while (got < sent) {
        uint8_t part[4096];
        ssize_t n = recv(fd, part, sizeof part, 0);
        assert_true(n > 0);
        for (ssize_t i = 0; i < n; i++, got++)
            assert_int_equal(part[i], (uint8_t)(got / sizeof chunk));
        settle(l);
        while (guest_take(l, &p))
            fwd = p.hdr.fwd_cnt;
    }
    assert_true(sent - fwd < VSOCK_BUF); /* it may send again */
    close(fd);
    life_end(l);
}

static void a_guest_beyond_its_credit_is_reset(void **state)
{
    static uint8_t chunk[64 << 10];
    struct life *l = life_new();
    uint32_t port;
    int fd = open_stream(l, &port, 1 << 16);
    struct packet p = {0};
    for (int i = 0; i < 100 && p.hdr.op != VSOCK_OP_RST; i++) { /* it never waits */
        guest_write(l, port, chunk, sizeof chunk);
        while (p.hdr.op != VSOCK_OP_RST && guest_take(l, &p))
            ;
    }
    assert_int_equal(p.hdr.op, VSOCK_OP_RST);
    settle(l);
    assert_int_equal(l->vsock.conn_count, 0);
    assert_true(virtio_is_running(&l->vsock.virtio));
    close(fd);
    life_end(l);
}

static void a_credit_request_is_answered(void **state)
{
    struct life *l = life_new();
    uint32_t port;
    int fd = open_stream(l, &port, 1 << 16);
    guest_write(l, port, "abc", 3);
    guest_expect_nothing(l);
    guest_send(l, hdr_of(VSOCK_OP_CREDIT_REQUEST, port, 52), NULL);
    assert_int_equal(guest_expect(l, VSOCK_OP_CREDIT_UPDATE).hdr.fwd_cnt, 3);
    close(fd);
    life_end(l);
}

static void a_client_may_end_its_half(void **state)
{
    struct life *l = life_new();
    uint32_t port;
    int fd = open_stream(l, &port, 1 << 16);
    assert_int_equal(send(fd, "last", 4, 0), 4);
    assert_int_equal(shutdown(fd, SHUT_WR), 0);
    guest_expect(l, VSOCK_OP_RW);
    assert_int_equal(guest_expect(l, VSOCK_OP_SHUTDOWN).hdr.flags, VSOCK_SHUTDOWN_SEND);
    guest_write(l, port, "answer", 6);
    client_expect(fd, "answer");
    guest_shut(l, port, VSOCK_SHUTDOWN_SEND | VSOCK_SHUTDOWN_RECEIVE);
    guest_expect(l, VSOCK_OP_RST);
    client_expect_end(fd);
    settle(l);
    assert_int_equal(l->vsock.conn_count, 0);
    close(fd);
    life_end(l);
}

static void a_guest_may_end_its_half(void **state)
{
    struct life *l = life_new();
    uint32_t port;
    int fd = open_stream(l, &port, 1 << 16);
    guest_write(l, port, "last", 4);
    guest_shut(l, port, VSOCK_SHUTDOWN_SEND);
    client_expect(fd, "last");
    client_expect_end(fd);
    assert_int_equal(send(fd, "still", 5, 0), 5);
    assert_memory_equal(guest_expect(l, VSOCK_OP_RW).body, "still", 5);
    close(fd);
    assert_int_equal(guest_expect(l, VSOCK_OP_SHUTDOWN).hdr.flags, VSOCK_SHUTDOWN_SEND);
    guest_expect(l, VSOCK_OP_RST);
    assert_int_equal(l->vsock.conn_count, 0);
    life_end(l);
}

static void a_guest_that_receives_no_more_stops_the_client(void **state)
{
    struct life *l = life_new();
    uint32_t port;
    int fd = open_stream(l, &port, 1 << 16);
    guest_shut(l, port, VSOCK_SHUTDOWN_RECEIVE);
    assert_int_equal(send(fd, "x", 1, MSG_NOSIGNAL), -1);
    assert_int_equal(errno, EPIPE);
    guest_write(l, port, "output", 6);
    client_expect(fd, "output");
    close(fd);
    guest_expect(l, VSOCK_OP_RST);
    life_end(l);
}

static void what_the_guest_sent_before_it_closed_reaches_a_slow_client(void **state)
{
    static uint8_t chunk[32 << 10];
    struct life *l = life_new();
    uint32_t port, sent = 0, got = 0, fwd = 0;
    int fd = open_stream(l, &port, 1 << 16);
    struct packet p;
    while (sent - fwd + sizeof chunk <= VSOCK_BUF) {
        guest_write(l, port, chunk, sizeof chunk);
        sent += (uint32_t)sizeof chunk;
        while (guest_take(l, &p))
            fwd = p.hdr.fwd_cnt;
    }
    guest_shut(l, port, 3);
    guest_expect(l, VSOCK_OP_RST); /* at once: the guest need not wait for the client */
    for (;;) {
        uint8_t part[8192];
        ssize_t n = recv(fd, part, sizeof part, 0);
        assert_true(n >= 0);
        if (n == 0)
            break;
        got += (uint32_t)n;
        settle(l);
    }
    assert_int_equal(got, sent);
    assert_int_equal(l->vsock.conn_count, 0);
    close(fd);
    life_end(l);
}

static void a_client_that_left_still_has_its_last_bytes_delivered(void **state)
{
    struct life *l = life_new();
    uint32_t port;
    int fd = open_stream(l, &port, 4);
    assert_int_equal(send(fd, "12345678", 8, 0), 8);
    close(fd);
    assert_memory_equal(guest_expect(l, VSOCK_OP_RW).body, "1234", 4);
    guest_expect_nothing(l); /* no credit; and the hang-up keeps the loop from no rest (settle) */
    guest_write(l, port, "to nobody", 9);
    guest_expect(l, VSOCK_OP_SHUTDOWN);
    struct vsock_hdr update = hdr_of(VSOCK_OP_CREDIT_UPDATE, port, 52);
    update.buf_alloc = 100;
    update.fwd_cnt = 4;
    guest_send(l, update, NULL);
    assert_memory_equal(guest_expect(l, VSOCK_OP_RW).body, "5678", 4);
    guest_expect(l, VSOCK_OP_RST);
    assert_int_equal(l->vsock.conn_count, 0);
    life_end(l);
}

static void reading_rests_while_there_is_no_receive_buffer(void **state)
{
    enum { BYTES = RX_BUFFERS * RX_ROOM + 1000 };
    static uint8_t data[BYTES];
    struct life *l = life_new();
    uint32_t port, given = 0;
    int fd = open_stream(l, &port, 1 << 20);
    while (given < BYTES) {
        ssize_t n = send(fd, data + given, BYTES - given, 0);
        assert_true(n > 0);
        given += (uint32_t)n;
        settle(l); /* at rest, although the client's bytes wait */
    }
    struct packet p;
    uint32_t got = 0;
    while (got < BYTES) {
        assert_true(guest_take(l, &p));
        got += p.hdr.len;
        settle(l);
    }
    close(fd);
    life_end(l);
}

static void the_doorbell_rings_and_all_else_is_refused(void **state)
{
    struct life *l = life_new();
    guest_send(l, hdr_of(VSOCK_OP_REQUEST, VSOCK_DOORBELL, 5000), NULL);
    assert_int_equal(l->rang, 1);
    assert_int_equal(l->rang_port, VSOCK_DOORBELL);
    struct packet p = guest_expect(l, VSOCK_OP_RST);
    assert_int_equal(p.hdr.src_port, VSOCK_DOORBELL);
    assert_int_equal(p.hdr.dst_port, 5000);
    guest_send(l, hdr_of(VSOCK_OP_REQUEST, 80, 5001), NULL);
    guest_expect(l, VSOCK_OP_RST);
    struct vsock_hdr seqpacket = hdr_of(VSOCK_OP_REQUEST, VSOCK_DOORBELL, 5002);
    seqpacket.type = 2;
    guest_send(l, seqpacket, NULL);
    guest_expect(l, VSOCK_OP_RST);
    assert_int_equal(l->rang, 1);
    life_end(l);
}

static void strangers_packets_are_refused_or_dropped(void **state)
{
    struct life *l = life_new();
    for (enum vsock_op op = VSOCK_OP_RESPONSE; op <= VSOCK_OP_CREDIT_REQUEST; op++) {
        guest_send(l, hdr_of(op, 1234, 99), NULL);
        if (op != VSOCK_OP_RST)
            guest_expect(l, VSOCK_OP_RST);
    }
    struct vsock_hdr hdr = hdr_of(VSOCK_OP_REQUEST, VSOCK_DOORBELL, 1);
    hdr.dst_cid = 4;
    guest_send(l, hdr, NULL);
    hdr.dst_cid = 2;
    hdr.src_cid = 7;
    guest_send(l, hdr, NULL);
    guest_expect_nothing(l);
    assert_int_equal(l->rang, 0);
    life_end(l);
}

static void refusals_are_bounded_and_the_ring_waits(void **state)
{
    struct life *l = life_new();
    uint16_t head;
    uint32_t len;
    unsigned taken = 0, refused = 0;
    struct packet p;
    /* The guest takes nothing from its receive queue: RX_BUFFERS answers and VSOCK_REFUSALS_MAX that wait. */
    for (uint32_t i = 0; i < 2 * VSOCK_REFUSALS_MAX; i++) {
        guest_send(l, hdr_of(VSOCK_OP_REQUEST, 80, 1000 + i), NULL);
        while (driver_take(&l->d, TX, &head, &len))
            taken++;
        if (taken <= i)
            break;
    }
    assert_int_equal(taken, RX_BUFFERS + VSOCK_REFUSALS_MAX);
    settle(l);
    while (guest_take(l, &p)) {
        assert_int_equal(p.hdr.op, VSOCK_OP_RST);
        assert_int_equal(p.hdr.dst_port, 1000 + refused);
        refused++;
    }
    assert_int_equal(refused, taken + 1); /* the one that waited in the ring, too */
    life_end(l);
}

static void connections_are_bounded(void **state)
{
    struct life *l = life_new();
    static int fds[VSOCK_CONNS_MAX];
    for (int i = 0; i < VSOCK_CONNS_MAX; i++)
        fds[i] = client_connect(l, "CONN");
    assert_int_equal(l->vsock.conn_count, VSOCK_CONNS_MAX);
    int extra = client_connect(l, "C");
    client_expect_end(extra);
    close(extra);
    close(fds[0]);
    settle(l);
    fds[0] = client_connect(l, "CONNECT 52\n");
    guest_expect(l, VSOCK_OP_REQUEST);
    for (int i = 0; i < VSOCK_CONNS_MAX; i++)
        close(fds[i]);
    life_end(l);
}

static void a_driver_that_resets_ends_all_connections(void **state)
{
    struct life *l = life_new();
    uint32_t port;
    int fd = open_stream(l, &port, 1 << 16), other = client_connect(l, "CONN");
    driver_write32(&l->d, 0x70, 0);
    settle(l);
    assert_int_equal(l->vsock.conn_count, 0);
    client_expect_end(fd);
    client_expect_end(other);
    close(fd);
    close(other);
    fd = client_connect(l, "CONNECT 52\n"); /* nobody is there */
    client_expect_end(fd);
    close(fd);
    life_end(l);
}

static void malformed_packets_break_this_device(void **state)
{
    for (int kind = 0; kind < 5; kind++) {
        struct life *l = life_new();
        uint32_t port;
        int fd = open_stream(l, &port, 1 << 16);
        struct vsock_hdr hdr = hdr_of(VSOCK_OP_RW, port, 52);
        hdr.len = 100;
        memcpy(driver_at(&l->d, l->tx_gpa, 44), &hdr, 44);
        switch (kind) {
        case 0: /* no whole header */
            driver_add(&l->d, TX, (struct driver_buf[]){{l->tx_gpa, 43, false}}, 1);
            break;
        case 1: /* less than it says */
            driver_add(&l->d, TX, (struct driver_buf[]){{l->tx_gpa, 44 + 99, false}}, 1);
            break;
        case 2: /* nothing to read at all */
            driver_add(&l->d, TX, (struct driver_buf[]){{l->tx_gpa, 200, true}}, 1);
            break;
        case 3: /* outside memory */
            driver_add(&l->d, TX, (struct driver_buf[]){{DRIVER_RAM - 10, 44, false}}, 1);
            break;
        case 4:
            hdr.len = UINT32_MAX;
            memcpy(driver_at(&l->d, l->tx_gpa, 44), &hdr, 44);
            driver_add(&l->d, TX, (struct driver_buf[]){{l->tx_gpa, 200, false}}, 1);
            break;
        }
        driver_kick(&l->d, TX);
        settle(l);
        assert_false(virtio_is_running(&l->vsock.virtio));
        assert_int_equal(l->vsock.conn_count, 0);
        client_expect_end(fd);
        close(fd);
        life_end(l);
    }
}

static void malformed_receive_buffers_break_this_device(void **state)
{
    struct life *l = life_new();
    uint32_t port;
    int fd = open_stream(l, &port, 1 << 16);
    /* Its own are used up first. */
    for (int i = 0; i < RX_BUFFERS; i++) {
        assert_int_equal(send(fd, "x", 1, 0), 1);
        settle(l);
    }
    driver_add(&l->d, RX, (struct driver_buf[]){{l->tx_gpa, 44, true}}, 1); /* no room for a byte */
    driver_kick(&l->d, RX);
    assert_int_equal(send(fd, "x", 1, 0), 1);
    settle(l);
    assert_false(virtio_is_running(&l->vsock.virtio));
    client_expect_end(fd);
    close(fd);
    life_end(l);
}

/* Forks */

static void a_fork_resets_and_waits_for_the_guest(void **state)
{
    struct life *l = life_new();
    uint32_t port;
    int fd = open_stream(l, &port, 1 << 16);
    struct life *child = life_fork(l);
    assert_int_equal(child->vsock.conn_count, 0);

    int mine = client_connect(child, "CONNECT 52\n");
    guest_write(child, port, "to a connection of the old life", 31);
    guest_expect_nothing(child);
    driver_kick(&child->d, EVENT); /* a notification that acknowledges nothing */
    driver_kick(&child->d, RX);
    guest_expect_nothing(child);
    assert_int_equal(guest_events(child), 1);
    guest_expect(child, VSOCK_OP_RST);
    struct packet p = guest_expect(child, VSOCK_OP_REQUEST);
    assert_true(p.hdr.src_port > port);
    guest_send(child, hdr_of(VSOCK_OP_RESPONSE, p.hdr.src_port, 52), NULL);
    char ok[32];
    snprintf(ok, sizeof ok, "OK %u\n", p.hdr.src_port);
    client_expect(mine, ok);

    /* The source noticed nothing. */
    assert_int_equal(guest_events(l), 0);
    guest_write(l, port, "still here", 10);
    client_expect(fd, "still here");
    close(mine);
    close(fd);
    life_end(child);
    life_end(l);
}

static void a_fork_of_a_fork_of_a_fork_answers(void **state)
{
    struct life *l = life_new();
    for (int depth = 0; depth < 12; depth++) {
        struct life *child = life_fork(l);
        life_end(l);
        l = child;
        int fd = client_connect(l, "CONNECT 52\n");
        guest_expect_nothing(l);
        assert_int_equal(guest_events(l), 1);
        guest_expect(l, VSOCK_OP_REQUEST);
        close(fd);
        guest_expect(l, VSOCK_OP_RST);
    }
    life_end(l);
}

static void forks_in_a_row_that_the_guest_had_no_time_for_lose_no_reset(void **state)
{
    for (int depth = 1; depth <= EVENT_BUFFERS + 3; depth++) {
        struct life *l = life_new();
        for (int i = 0; i < depth; i++) {
            struct life *child = life_fork(l);
            life_end(l);
            l = child;
        }
        int fd = client_connect(l, "CONNECT 52\n");
        guest_expect_nothing(l);
        assert_int_equal(l->vsock.reset_pending, depth > EVENT_BUFFERS);
        guest_events(l);
        if (depth > EVENT_BUFFERS) { /* that made room for the one that was pending */
            guest_expect_nothing(l);
            assert_int_equal(guest_events(l), 1);
        }
        guest_expect(l, VSOCK_OP_REQUEST);
        close(fd);
        life_end(l);
    }
}

/* The driver was in the middle of the last fork's event when it was forked again, and finishes that first. */
static void an_acknowledgement_of_an_earlier_reset_does_not_open_the_gate(void **state)
{
    struct life *l = life_new(), *first = life_fork(l);
    uint16_t head;
    uint32_t len;
    assert_true(driver_take(&first->d, EVENT, &head, &len)); /* acted upon, not given back yet */
    struct life *second = life_fork(first);
    int fd = client_connect(second, "CONNECT 52\n");
    lend(second, EVENT, second->event_gpa[head], 4);
    driver_kick(&second->d, EVENT);
    guest_expect_nothing(second);
    assert_int_equal(guest_events(second), 1);
    guest_expect(second, VSOCK_OP_REQUEST);
    close(fd);
    life_end(second);
    life_end(first);
    life_end(l);
}

static void a_doorbell_rung_across_a_fork_is_answered(void **state)
{
    struct life *l = life_new();
    struct packet p;
    for (uint32_t i = 0; i < RX_BUFFERS + 2; i++)
        guest_send(l, hdr_of(VSOCK_OP_REQUEST, VSOCK_DOORBELL, 7000 + i), NULL);
    struct life *child = life_fork(l);
    for (int i = 0; i < RX_BUFFERS; i++)
        assert_true(guest_take(child, &p)); /* of the old life, in memory */
    guest_expect_nothing(child);
    guest_events(child);
    assert_int_equal(guest_expect(child, VSOCK_OP_RST).hdr.dst_port, 7000 + RX_BUFFERS);
    assert_int_equal(guest_expect(child, VSOCK_OP_RST).hdr.dst_port, 7000 + RX_BUFFERS + 1);
    life_end(child);
    life_end(l);
}

static void a_fork_before_the_driver_came_is_not_gated(void **state)
{
    struct life *l = calloc(1, sizeof *l);
    assert_non_null(l);
    driver_init(&l->d, DRIVER_RAM);
    vsock_init(&l->vsock, &l->d.gmem);
    driver_connect(&l->d, &l->vsock.virtio);
    host_up(l);
    struct life *child = life_fork(l);
    assert_false(child->vsock.gated);
    life_end(child);
    life_end(l);
}

static void malformed_state_is_refused(void **state)
{
    struct life *l = life_new();
    uint8_t buf[1024];
    struct pack p = pack_into(buf, sizeof buf);
    for (uint32_t i = 0; i <= RX_BUFFERS; i++)
        guest_send(l, hdr_of(VSOCK_OP_REQUEST, 80, 1000 + i), NULL);
    assert_int_equal(l->vsock.refusals, 1);
    virtio_save(&l->vsock.virtio, &p);
    assert_false(p.full);
    for (size_t i = 0; i < p.len; i++) {
        struct unpack u = unpack_from(buf, i);
        assert_true(virtio_load(&l->vsock.virtio, &u, NULL) < 0);
    }
    buf[p.len - 9] = 0xff; /* the number of refusals */
    struct unpack u = unpack_from(buf, p.len);
    assert_true(virtio_load(&l->vsock.virtio, &u, NULL) < 0);
    life_end(l);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bytes_go_both_ways_once_the_guest_accepted),
        cmocka_unit_test(what_follows_the_greeting_at_once_is_not_lost),
        cmocka_unit_test(a_greeting_may_come_in_pieces),
        cmocka_unit_test(a_greeting_that_is_none_closes_the_connection),
        cmocka_unit_test(a_guest_that_refuses_closes_the_connection),
        cmocka_unit_test(a_client_that_leaves_early_is_forgotten),
        cmocka_unit_test(many_bytes_arrive_whole_through_small_credit),
        cmocka_unit_test(credit_is_counted_across_its_wrap),
        cmocka_unit_test(a_client_that_does_not_read_costs_the_guest_its_credit_alone),
        cmocka_unit_test(a_guest_beyond_its_credit_is_reset),
        cmocka_unit_test(a_credit_request_is_answered),
        cmocka_unit_test(a_client_may_end_its_half),
        cmocka_unit_test(a_guest_may_end_its_half),
        cmocka_unit_test(a_guest_that_receives_no_more_stops_the_client),
        cmocka_unit_test(what_the_guest_sent_before_it_closed_reaches_a_slow_client),
        cmocka_unit_test(a_client_that_left_still_has_its_last_bytes_delivered),
        cmocka_unit_test(reading_rests_while_there_is_no_receive_buffer),
        cmocka_unit_test(the_doorbell_rings_and_all_else_is_refused),
        cmocka_unit_test(strangers_packets_are_refused_or_dropped),
        cmocka_unit_test(refusals_are_bounded_and_the_ring_waits),
        cmocka_unit_test(connections_are_bounded),
        cmocka_unit_test(a_driver_that_resets_ends_all_connections),
        cmocka_unit_test(malformed_packets_break_this_device),
        cmocka_unit_test(malformed_receive_buffers_break_this_device),
        cmocka_unit_test(a_fork_resets_and_waits_for_the_guest),
        cmocka_unit_test(a_fork_of_a_fork_of_a_fork_answers),
        cmocka_unit_test(forks_in_a_row_that_the_guest_had_no_time_for_lose_no_reset),
        cmocka_unit_test(an_acknowledgement_of_an_earlier_reset_does_not_open_the_gate),
        cmocka_unit_test(a_doorbell_rung_across_a_fork_is_answered),
        cmocka_unit_test(a_fork_before_the_driver_came_is_not_gated),
        cmocka_unit_test(malformed_state_is_refused),
    };
    return cmocka_run_group_tests_name("vsock", tests, NULL, NULL);
}
