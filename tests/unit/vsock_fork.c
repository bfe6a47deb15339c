/* vsock_fork.c: claims about src/dev/vsock.c: what becomes of connections, clients and packets in a fork. */
#include "vsock_life.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

static void a_fork_resets_and_waits_for_the_guest(void **state)
{
    struct life *l = life_new();
    uint32_t port;
    int fd = life_open_stream(l, &port, 1 << 16);
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
    guest_send(child, guest_hdr(VSOCK_OP_RESPONSE, p.hdr.src_port, 52), NULL);
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
        uint32_t port;
        int old = life_open_stream(l, &port, 1 << 16);
        struct life *child = life_fork(l);
        life_end(l);
        close(old);
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
        uint32_t port;
        int old = life_open_stream(l, &port, 1 << 16);
        for (int i = 0; i < depth; i++) {
            struct life *child = life_fork(l);
            life_end(l);
            l = child;
        }
        close(old);
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
    struct life *l = life_new();
    uint32_t len, port;
    uint16_t head;
    int old = life_open_stream(l, &port, 1 << 16);
    struct life *first = life_fork(l);
    close(old);
    assert_true(driver_take(&first->d, EVENT, &head, &len)); /* acted upon, not given back yet */
    struct life *second = life_fork(first);
    int fd = client_connect(second, "CONNECT 52\n");
    guest_lend(second, EVENT, second->event_gpa[head], 4);
    driver_kick(&second->d, EVENT);
    guest_expect_nothing(second);
    assert_int_equal(guest_events(second), 1);
    guest_expect(second, VSOCK_OP_REQUEST);
    close(fd);
    life_end(second);
    life_end(first);
    life_end(l);
}

/* Nothing there that a reset would end: its connections were refused, and closed by both sides. */
static void a_fork_of_a_guest_without_connections_serves_its_clients_at_once(void **state)
{
    struct life *l = life_new();
    uint32_t port;
    int old = life_open_stream(l, &port, 1 << 16), unfinished = client_connect(l, "CONN");
    guest_shut(l, port, VSOCK_SHUTDOWN_RECEIVE | VSOCK_SHUTDOWN_SEND);
    struct life *closing = life_fork(l); /* the answer lies in its ring, not yet seen */
    guest_expect(l, VSOCK_OP_RST);
    guest_send(l, guest_hdr(VSOCK_OP_REQUEST, 80, 1000), NULL);
    guest_expect(l, VSOCK_OP_RST);

    struct life *child = life_fork(l);
    int fd = client_connect(child, "CONNECT 52\n");
    assert_int_equal(guest_events(child), 0);
    guest_expect(child, VSOCK_OP_REQUEST);
    int other = client_connect(closing, "CONNECT 52\n");
    guest_expect(closing, VSOCK_OP_RST);
    guest_expect(closing, VSOCK_OP_REQUEST);
    close(other);
    close(fd);
    close(unfinished);
    close(old);
    life_end(closing);
    life_end(child);
    life_end(l);
}

/* Of any that the guest may know of: asked for, open, or ended on one side. */
static void a_fork_of_a_guest_with_any_connection_resets_it(void **state)
{
    for (int stage = 0; stage < 3; stage++) {
        struct life *l = life_new();
        uint32_t port;
        int fd = stage ? life_open_stream(l, &port, 1 << 16) : client_connect(l, "CONNECT 52\n");
        if (stage == 2)
            guest_shut(l, port, VSOCK_SHUTDOWN_SEND);
        struct life *child = life_fork(l);
        assert_true(child->vsock.gated);
        assert_int_equal(guest_events(child), 1);
        assert_false(child->vsock.gated);
        close(fd);
        life_end(child);
        life_end(l);
    }
}

static void a_doorbell_rung_across_a_fork_is_answered(void **state)
{
    struct life *l = life_new();
    struct packet p;
    uint32_t port;
    int old = life_open_stream(l, &port, 1 << 16);
    for (uint32_t i = 0; i < RX_BUFFERS + 2; i++)
        guest_send(l, guest_hdr(VSOCK_OP_REQUEST, VSOCK_DOORBELL, 7000 + i), NULL);
    struct life *child = life_fork(l);
    for (int i = 0; i < RX_BUFFERS; i++)
        assert_true(guest_take(child, &p)); /* of the old life, in memory */
    guest_expect_nothing(child);
    guest_events(child);
    assert_int_equal(guest_expect(child, VSOCK_OP_RST).hdr.dst_port, 7000 + RX_BUFFERS);
    assert_int_equal(guest_expect(child, VSOCK_OP_RST).hdr.dst_port, 7000 + RX_BUFFERS + 1);
    close(old);
    life_end(child);
    life_end(l);
}

/* A machine that lost its host and gets another, without a state file between. */
static void a_device_attached_again_resets_its_connections(void **state)
{
    struct life *l = life_new();
    uint32_t port;
    int fd = life_open_stream(l, &port, 1 << 16);
    vsock_detach(&l->vsock);
    client_expect_end(fd);
    close(fd);
    assert_int_equal(vsock_attach(&l->vsock, &l->loop, l->listen_fd, NULL), 0);
    virtio_resume(&l->vsock.virtio);
    fd = client_connect(l, "CONNECT 52\n");
    guest_expect_nothing(l);
    assert_int_equal(guest_events(l), 1);
    guest_expect(l, VSOCK_OP_REQUEST);
    close(fd);
    life_end(l);
}

static void a_fork_before_the_driver_came_is_not_gated(void **state)
{
    struct life *l = calloc(1, sizeof *l);
    assert_non_null(l);
    driver_init(&l->d, DRIVER_RAM);
    vsock_init(&l->vsock, &l->d.gmem);
    driver_connect(&l->d, &l->vsock.virtio);
    life_host_up(l);
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
        guest_send(l, guest_hdr(VSOCK_OP_REQUEST, 80, 1000 + i), NULL);
    assert_int_equal(l->vsock.refusals, 1);
    virtio_save(&l->vsock.virtio, &p);
    assert_false(p.full);
    for (size_t i = 0; i + 1 < p.len; i++) {
        struct unpack u = unpack_from(buf, i);
        assert_true(virtio_load(&l->vsock.virtio, &u, NULL) < 0);
    }
    buf[p.len - 10] = 0xff; /* the number of refusals */
    struct unpack u = unpack_from(buf, p.len);
    assert_true(virtio_load(&l->vsock.virtio, &u, NULL) < 0);
    life_end(l);
}

static void a_state_that_does_not_tell_of_connections_is_reset(void **state)
{
    struct life *l = life_new();
    uint8_t buf[1024];
    struct pack p = pack_into(buf, sizeof buf);
    virtio_save(&l->vsock.virtio, &p);
    struct unpack u = unpack_from(buf, p.len), older = unpack_from(buf, p.len - 1);
    assert_int_equal(virtio_load(&l->vsock.virtio, &u, NULL), 0);
    assert_false(l->vsock.gated);
    assert_int_equal(virtio_load(&l->vsock.virtio, &older, NULL), 0);
    assert_true(l->vsock.gated && l->vsock.reset_pending);
    life_end(l);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_fork_resets_and_waits_for_the_guest),
        cmocka_unit_test(a_fork_of_a_fork_of_a_fork_answers),
        cmocka_unit_test(forks_in_a_row_that_the_guest_had_no_time_for_lose_no_reset),
        cmocka_unit_test(an_acknowledgement_of_an_earlier_reset_does_not_open_the_gate),
        cmocka_unit_test(a_fork_of_a_guest_without_connections_serves_its_clients_at_once),
        cmocka_unit_test(a_fork_of_a_guest_with_any_connection_resets_it),
        cmocka_unit_test(a_state_that_does_not_tell_of_connections_is_reset),
        cmocka_unit_test(a_doorbell_rung_across_a_fork_is_answered),
        cmocka_unit_test(a_fork_before_the_driver_came_is_not_gated),
        cmocka_unit_test(malformed_state_is_refused),
        cmocka_unit_test(a_device_attached_again_resets_its_connections),
    };
    return cmocka_run_group_tests_name("vsock_fork", tests, NULL, NULL);
}
