/* vsock_life.c: see vsock_life.h. */
#include "vsock_life.h"

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

static unsigned lives;

static void on_doorbell(struct vsock *vsock, uint32_t port)
{
    struct life *l = (struct life *)((char *)vsock - offsetof(struct life, vsock));
    l->rang++;
    l->rang_port = port;
}

void life_host_up(struct life *l)
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

void life_end(struct life *l)
{
    vsock_detach(&l->vsock);
    assert_int_equal(l->vsock.conn_count, 0);
    loop_destroy(&l->loop);
    close(l->listen_fd);
    unlink(l->path);
    driver_destroy(&l->d);
    free(l);
}

void guest_lend(struct life *l, unsigned queue, uint64_t gpa, uint32_t len)
{
    uint16_t head = driver_add(&l->d, queue, (struct driver_buf[]){{gpa, len, true}}, 1);
    (queue == RX ? l->rx_gpa : l->event_gpa)[head] = gpa;
}

void life_settle(struct life *l)
{
    driver_settle(&l->d, &l->loop);
}

struct life *life_new(void)
{
    struct life *l = calloc(1, sizeof *l);
    assert_non_null(l);
    driver_init(&l->d, DRIVER_RAM);
    vsock_init(&l->vsock, &l->d.gmem);
    life_host_up(l);
    driver_probe(&l->d, &l->vsock.virtio);
    l->tx_gpa = driver_alloc(&l->d, 128 << 10);
    for (int i = 0; i < RX_BUFFERS; i++)
        guest_lend(l, RX, driver_alloc(&l->d, 44 + RX_ROOM), 44 + RX_ROOM);
    for (int i = 0; i < EVENT_BUFFERS; i++)
        guest_lend(l, EVENT, driver_alloc(&l->d, 8), 4);
    driver_kick(&l->d, RX);
    driver_kick(&l->d, EVENT);
    return l;
}

struct life *life_fork(struct life *l)
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
    life_host_up(child);
    virtio_resume(&child->vsock.virtio);
    life_settle(child);
    return child;
}

/* The guest */

bool guest_take(struct life *l, struct packet *packet)
{
    uint16_t head;
    uint32_t len;
    if (!driver_take(&l->d, RX, &head, &len))
        return false;
    assert_true(len >= 44 && len <= 44 + RX_ROOM);
    memcpy(packet, driver_at(&l->d, l->rx_gpa[head], len), len);
    assert_int_equal(packet->hdr.len, len - 44);
    guest_lend(l, RX, l->rx_gpa[head], 44 + RX_ROOM);
    driver_kick(&l->d, RX);
    return true;
}

struct packet guest_expect(struct life *l, enum vsock_op op)
{
    struct packet packet = {0};
    life_settle(l);
    assert_true(guest_take(l, &packet));
    assert_int_equal(packet.hdr.op, op);
    assert_int_equal(packet.hdr.src_cid, 2);
    assert_int_equal(packet.hdr.dst_cid, 3);
    return packet;
}

void guest_expect_nothing(struct life *l)
{
    uint16_t head;
    uint32_t len;
    life_settle(l);
    assert_false(driver_take(&l->d, RX, &head, &len));
}

struct vsock_hdr guest_hdr(enum vsock_op op, uint32_t host_port, uint32_t guest_port)
{
    return (struct vsock_hdr){.src_cid = 3,
                              .dst_cid = 2,
                              .src_port = guest_port,
                              .dst_port = host_port,
                              .type = 1,
                              .op = (uint16_t)op,
                              .buf_alloc = 256 << 10};
}

void guest_send(struct life *l, struct vsock_hdr hdr, const void *body)
{
    memcpy(driver_at(&l->d, l->tx_gpa, 44), &hdr, 44);
    if (hdr.len)
        memcpy(driver_at(&l->d, l->tx_gpa + 44, hdr.len), body, hdr.len);
    driver_add(&l->d, TX, (struct driver_buf[]){{l->tx_gpa, 44, false}, {l->tx_gpa + 44, hdr.len, false}},
               hdr.len ? 2 : 1);
    driver_kick(&l->d, TX);
    life_settle(l);
}

unsigned guest_events(struct life *l)
{
    uint16_t head;
    uint32_t len;
    unsigned n = 0;
    for (; driver_take(&l->d, EVENT, &head, &len); n++) {
        assert_int_equal(len, 4);
        assert_int_equal(*(uint32_t *)driver_at(&l->d, l->event_gpa[head], 4), 0);
        guest_lend(l, EVENT, l->event_gpa[head], 4);
    }
    driver_kick(&l->d, EVENT);
    life_settle(l);
    return n;
}

/* The client */

int client_connect(struct life *l, const char *line)
{
    struct sockaddr_un addr = {.sun_family = AF_UNIX};
    strcpy(addr.sun_path, l->path);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    assert_true(fd >= 0);
    assert_int_equal(connect(fd, (struct sockaddr *)&addr, sizeof addr), 0);
    assert_int_equal(send(fd, line, strlen(line), MSG_NOSIGNAL), strlen(line));
    life_settle(l);
    return fd;
}

void client_expect(int fd, const char *text)
{
    char got[256] = {0};
    assert_int_equal(recv(fd, got, strlen(text), 0), strlen(text));
    assert_string_equal(got, text);
}

void client_expect_end(int fd)
{
    char c;
    ssize_t n = recv(fd, &c, 1, 0);
    assert_true(n == 0 || (n < 0 && errno == ECONNRESET));
}

void client_expect_nothing(int fd)
{
    char c;
    assert_int_equal(recv(fd, &c, 1, 0), -1);
    assert_int_equal(errno, EAGAIN);
}

int life_open_stream(struct life *l, uint32_t *host_port, uint32_t credit)
{
    char ok[32];
    int fd = client_connect(l, "CONNECT 52\n");
    struct packet request = guest_expect(l, VSOCK_OP_REQUEST);
    assert_int_equal(request.hdr.dst_port, 52);
    assert_int_equal(request.hdr.buf_alloc, VSOCK_BUF);
    client_expect_nothing(fd);
    *host_port = request.hdr.src_port;
    struct vsock_hdr response = guest_hdr(VSOCK_OP_RESPONSE, *host_port, 52);
    response.buf_alloc = credit;
    guest_send(l, response, NULL);
    snprintf(ok, sizeof ok, "OK %u\n", *host_port);
    client_expect(fd, ok);
    return fd;
}

void guest_write(struct life *l, uint32_t host_port, const void *body, uint32_t len)
{
    struct vsock_hdr hdr = guest_hdr(VSOCK_OP_RW, host_port, 52);
    hdr.len = len;
    guest_send(l, hdr, body);
}

void guest_shut(struct life *l, uint32_t host_port, uint32_t flags)
{
    struct vsock_hdr hdr = guest_hdr(VSOCK_OP_SHUTDOWN, host_port, 52);
    hdr.flags = flags;
    guest_send(l, hdr, NULL);
}
