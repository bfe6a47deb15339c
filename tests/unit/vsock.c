/* vsock.c: claims about src/dev/vsock.c and vsock_conn.c: streams, their ends, credit, and guests that lie. */
#include "vsock_life.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cmocka.h>

static void bytes_go_both_ways_once_the_guest_accepted(void **state)
{
    struct life *l = life_new();
    uint32_t port;
    int fd = life_open_stream(l, &port, 1 << 16);
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
    guest_send(l, guest_hdr(VSOCK_OP_RESPONSE, p.hdr.src_port, 52), NULL);
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
        life_settle(l);
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
    guest_send(l, guest_hdr(VSOCK_OP_RST, p.hdr.src_port, 99), NULL);
    client_expect_end(fd);
    assert_int_equal(l->vsock.conn_count, 0);
    close(fd);
    life_end(l);
}

static void a_client_that_leaves_early_is_forgotten(void **state)
{
    struct life *l = life_new();
    close(client_connect(l, "CONNECT 5"));
    life_settle(l);
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
    int fd = life_open_stream(l, &port, CREDIT);
    uint8_t *data = malloc(TOTAL);
    assert_non_null(data);
    for (uint32_t i = 0; i < TOTAL; i++)
        data[i] = (uint8_t)(i * 2654435761u >> 24);
    while (got < TOTAL) {
        if (given < TOTAL) {
            ssize_t n = send(fd, data + given, TOTAL - given, MSG_DONTWAIT);
            given += n > 0 ? (uint32_t)n : 0;
        }
        life_settle(l);
        struct packet p;
        uint32_t round = 0;
        while (guest_take(l, &p)) {
            assert_int_equal(p.hdr.op, VSOCK_OP_RW);
            assert_memory_equal(p.body, data + got + round, p.hdr.len);
            round += p.hdr.len;
        }
        assert_true(round > 0 && round <= CREDIT);
        got += round;
        struct vsock_hdr update = guest_hdr(VSOCK_OP_CREDIT_UPDATE, port, 52);
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
    int fd = life_open_stream(l, &port, 0);
    struct vsock_conn *conn = conn_find(&l->vsock, port, 52);
    conn->sent = UINT32_MAX - 5;
    struct vsock_hdr update = guest_hdr(VSOCK_OP_CREDIT_UPDATE, port, 52);
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
    life_settle(l);
    life_end(l);
}

static void a_client_that_does_not_read_costs_the_guest_its_credit_alone(void **state)
{
    static uint8_t chunk[16 << 10];
    struct life *l = life_new();
    uint32_t port, sent = 0, fwd = 0, got = 0;
    int fd = life_open_stream(l, &port, 1 << 16);
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
    life_settle(l); /* and the loop is at rest */
    while (got < sent) {
        uint8_t part[4096];
        ssize_t n = recv(fd, part, sizeof part, 0);
        assert_true(n > 0);
        for (ssize_t i = 0; i < n; i++, got++)
            assert_int_equal(part[i], (uint8_t)(got / sizeof chunk));
        life_settle(l);
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
    int fd = life_open_stream(l, &port, 1 << 16);
    struct packet p = {0};
    for (int i = 0; i < 100 && p.hdr.op != VSOCK_OP_RST; i++) { /* it never waits */
        guest_write(l, port, chunk, sizeof chunk);
        while (p.hdr.op != VSOCK_OP_RST && guest_take(l, &p))
            ;
    }
    assert_int_equal(p.hdr.op, VSOCK_OP_RST);
    life_settle(l);
    assert_int_equal(l->vsock.conn_count, 0);
    assert_true(virtio_is_running(&l->vsock.virtio));
    close(fd);
    life_end(l);
}

static void a_credit_request_is_answered(void **state)
{
    struct life *l = life_new();
    uint32_t port;
    int fd = life_open_stream(l, &port, 1 << 16);
    guest_write(l, port, "abc", 3);
    guest_expect_nothing(l);
    guest_send(l, guest_hdr(VSOCK_OP_CREDIT_REQUEST, port, 52), NULL);
    assert_int_equal(guest_expect(l, VSOCK_OP_CREDIT_UPDATE).hdr.fwd_cnt, 3);
    close(fd);
    life_end(l);
}

static void a_client_may_end_its_half(void **state)
{
    struct life *l = life_new();
    uint32_t port;
    int fd = life_open_stream(l, &port, 1 << 16);
    assert_int_equal(send(fd, "last", 4, 0), 4);
    assert_int_equal(shutdown(fd, SHUT_WR), 0);
    guest_expect(l, VSOCK_OP_RW);
    assert_int_equal(guest_expect(l, VSOCK_OP_SHUTDOWN).hdr.flags, VSOCK_SHUTDOWN_SEND);
    guest_write(l, port, "answer", 6);
    client_expect(fd, "answer");
    guest_shut(l, port, VSOCK_SHUTDOWN_SEND | VSOCK_SHUTDOWN_RECEIVE);
    guest_expect(l, VSOCK_OP_RST);
    client_expect_end(fd);
    life_settle(l);
    assert_int_equal(l->vsock.conn_count, 0);
    close(fd);
    life_end(l);
}

static void a_guest_may_end_its_half(void **state)
{
    struct life *l = life_new();
    uint32_t port;
    int fd = life_open_stream(l, &port, 1 << 16);
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
    int fd = life_open_stream(l, &port, 1 << 16);
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
    int fd = life_open_stream(l, &port, 1 << 16);
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
        life_settle(l);
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
    int fd = life_open_stream(l, &port, 4);
    assert_int_equal(send(fd, "12345678", 8, 0), 8);
    close(fd);
    assert_memory_equal(guest_expect(l, VSOCK_OP_RW).body, "1234", 4);
    guest_expect_nothing(l); /* no credit; and the hang-up keeps the loop from no rest (settle) */
    guest_write(l, port, "to nobody", 9);
    guest_expect(l, VSOCK_OP_SHUTDOWN);
    struct vsock_hdr update = guest_hdr(VSOCK_OP_CREDIT_UPDATE, port, 52);
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
    int fd = life_open_stream(l, &port, 1 << 20);
    while (given < BYTES) {
        ssize_t n = send(fd, data + given, BYTES - given, 0);
        assert_true(n > 0);
        given += (uint32_t)n;
        life_settle(l); /* at rest, although the client's bytes wait */
    }
    struct packet p;
    uint32_t got = 0;
    while (got < BYTES) {
        assert_true(guest_take(l, &p));
        got += p.hdr.len;
        life_settle(l);
    }
    close(fd);
    life_end(l);
}

static void the_doorbell_rings_and_all_else_is_refused(void **state)
{
    struct life *l = life_new();
    guest_send(l, guest_hdr(VSOCK_OP_REQUEST, VSOCK_DOORBELL, 5000), NULL);
    assert_int_equal(l->rang, 1);
    assert_int_equal(l->rang_port, VSOCK_DOORBELL);
    struct packet p = guest_expect(l, VSOCK_OP_RST);
    assert_int_equal(p.hdr.src_port, VSOCK_DOORBELL);
    assert_int_equal(p.hdr.dst_port, 5000);
    guest_send(l, guest_hdr(VSOCK_OP_REQUEST, 80, 5001), NULL);
    guest_expect(l, VSOCK_OP_RST);
    struct vsock_hdr seqpacket = guest_hdr(VSOCK_OP_REQUEST, VSOCK_DOORBELL, 5002);
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
        guest_send(l, guest_hdr(op, 1234, 99), NULL);
        if (op != VSOCK_OP_RST)
            guest_expect(l, VSOCK_OP_RST);
    }
    struct vsock_hdr hdr = guest_hdr(VSOCK_OP_REQUEST, VSOCK_DOORBELL, 1);
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
        guest_send(l, guest_hdr(VSOCK_OP_REQUEST, 80, 1000 + i), NULL);
        while (driver_take(&l->d, TX, &head, &len))
            taken++;
        if (taken <= i)
            break;
    }
    assert_int_equal(taken, RX_BUFFERS + VSOCK_REFUSALS_MAX);
    life_settle(l);
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
    life_settle(l);
    fds[0] = client_connect(l, "CONNECT 52\n");
    guest_expect(l, VSOCK_OP_REQUEST);
    for (int i = 0; i < VSOCK_CONNS_MAX; i++)
        close(fds[i]);
    life_end(l);
}

/* The host has no descriptor left: the client waits in the backlog, the loop rests, and later it is accepted. */
static void a_client_that_cannot_be_accepted_yet_is_accepted_later(void **state)
{
    struct life *l = life_new();
    struct rlimit was, none;
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &was), 0);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    none = was;
    none.rlim_cur = (rlim_t)fd + 1; /* it took the lowest number that was free */
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &none), 0);
    struct sockaddr_un addr = {.sun_family = AF_UNIX};
    strcpy(addr.sun_path, l->path);
    assert_int_equal(connect(fd, (struct sockaddr *)&addr, sizeof addr), 0);
    life_settle(l);
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &was), 0);
    assert_int_equal(l->vsock.conn_count, 0);
    assert_true(l->vsock.listener.fd < 0);
    for (int i = 0; i < 2000 && !l->vsock.conn_count; i++)
        driver_step(&l->d, &l->loop, 10);
    assert_int_equal(l->vsock.conn_count, 1);
    close(fd);
    life_end(l);
}

static void a_driver_that_resets_ends_all_connections(void **state)
{
    struct life *l = life_new();
    uint32_t port;
    int fd = life_open_stream(l, &port, 1 << 16), other = client_connect(l, "CONN");
    driver_write32(&l->d, 0x70, 0);
    life_settle(l);
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
        int fd = life_open_stream(l, &port, 1 << 16);
        struct vsock_hdr hdr = guest_hdr(VSOCK_OP_RW, port, 52);
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
        life_settle(l);
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
    int fd = life_open_stream(l, &port, 1 << 16);
    /* Its own are used up first. */
    for (int i = 0; i < RX_BUFFERS; i++) {
        assert_int_equal(send(fd, "x", 1, 0), 1);
        life_settle(l);
    }
    driver_add(&l->d, RX, (struct driver_buf[]){{l->tx_gpa, 44, true}}, 1); /* no room for a byte */
    driver_kick(&l->d, RX);
    assert_int_equal(send(fd, "x", 1, 0), 1);
    life_settle(l);
    assert_false(virtio_is_running(&l->vsock.virtio));
    client_expect_end(fd);
    close(fd);
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
        cmocka_unit_test(a_client_that_cannot_be_accepted_yet_is_accepted_later),
        cmocka_unit_test(a_driver_that_resets_ends_all_connections),
        cmocka_unit_test(malformed_packets_break_this_device),
        cmocka_unit_test(malformed_receive_buffers_break_this_device),
    };
    return cmocka_run_group_tests_name("vsock", tests, NULL, NULL);
}
