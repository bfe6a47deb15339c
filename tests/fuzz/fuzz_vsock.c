/* fuzz_vsock.c: whatever guest and clients do, in any order, across forks: the device keeps its invariants, comes
 * to rest, and leaves nothing behind.
 *
 * The input is a script. Each step is a byte that says what happens, and bytes of its own: the guest sends a
 * packet, lends buffers, notifies; a client connects, sends, reads, half-closes, leaves; the device is saved and
 * loaded into a fork of itself. */
#include "base/log.h"
#include "dev/vsock.h"
#include "dev/vsock_conn.h"
#include "tests/unit/driver.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { CLIENTS = 4, RX = 0, TX = 1, EVENT = 2, BUFFER = 4096, STEPS_MAX = 400 };

struct script {
    const uint8_t *at;
    size_t left;
};

struct world {
    struct driver d;
    struct vsock vsock;
    struct loop loop;
    int client[CLIENTS];
    uint64_t scratch;
    uint32_t ports[CLIENTS]; /* the last host ports seen in packets to the guest */
    unsigned port_count;
    uint16_t rx_used; /* of the receive queue when the gate was seen closed */
};

static void check(bool ok)
{
    if (!ok)
        abort();
}

static uint8_t byte(struct script *s)
{
    if (!s->left)
        return 0;
    s->left--;
    return *s->at++;
}

static uint32_t word(struct script *s)
{
    uint32_t v = byte(s);
    v |= (uint32_t)byte(s) << 8;
    v |= (uint32_t)byte(s) << 16;
    return v | (uint32_t)byte(s) << 24;
}

static void lend(struct world *w, unsigned queue, uint32_t len)
{
    if (w->d.heap + len > DRIVER_RAM - (64 << 10))
        w->d.heap = w->scratch + (128 << 10); /* used again: whose they are does not matter */
    driver_add(&w->d, queue, (struct driver_buf[]){{driver_alloc(&w->d, len), len, true}}, 1);
}

/* What the guest sees of its receive queue: host ports, to be used in answers. */
static void guest_looks(struct world *w)
{
    uint16_t head;
    uint32_t len;
    while (driver_take(&w->d, RX, &head, &len)) {
        uint64_t gpa;
        uint32_t port;
        memcpy(&gpa, driver_at(&w->d, w->d.queue[RX].desc + head % DRIVER_QUEUE_SIZE * 16u, 8), 8);
        if (!gmem_read(&w->d.gmem, gpa + 16, &port, sizeof port))
            continue;
        w->ports[w->port_count++ % CLIENTS] = port;
    }
    while (driver_take(&w->d, EVENT, &head, &len))
        check(len == 4);
}

static void guest_sends(struct world *w, struct script *s)
{
    uint8_t how = byte(s), body = byte(s);
    struct vsock_hdr hdr = {.src_cid = 3,
                            .dst_cid = 2,
                            .src_port = 52,
                            .dst_port = w->ports[how % CLIENTS],
                            .type = 1,
                            .op = byte(s) % 9,
                            .flags = byte(s),
                            .buf_alloc = word(s),
                            .fwd_cnt = how & 4 ? word(s) : 0,
                            .len = (uint32_t)body << (how & 8 ? 8 : 0)};
    if (how & 16)
        hdr.dst_port = word(s);
    if (how & 32)
        hdr.type = byte(s);
    if (how & 64)
        hdr.src_cid = word(s);
    uint32_t len = hdr.len;
    if (how & 128)
        hdr.len = word(s);
    memcpy(driver_at(&w->d, w->scratch, sizeof hdr), &hdr, sizeof hdr);
    driver_add(&w->d, TX, (struct driver_buf[]){{w->scratch, 44, false}, {w->scratch + 44, len, false}}, len ? 2 : 1);
    driver_kick(&w->d, TX);
}

static void client_acts(struct world *w, struct script *s)
{
    static uint8_t buf[70000];
    uint8_t how = byte(s);
    int *fd = &w->client[how % CLIENTS], pair[2];
    switch (how / CLIENTS % 8) {
    case 0:
    case 1:
        if (*fd >= 0)
            close(*fd);
        check(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, pair) == 0);
        *fd = pair[0];
        conn_new(&w->vsock, pair[1]);
        check(send(*fd, "CONNECT 52\n", 11, MSG_NOSIGNAL) == 11 || errno == EPIPE);
        break;
    case 2:
        send(*fd, buf, byte(s) * 256u + byte(s), MSG_NOSIGNAL | MSG_DONTWAIT);
        break;
    case 3:
        if (recv(*fd, buf, byte(s) * 256u + 1, MSG_DONTWAIT) < 0)
            check(errno != EFAULT);
        break;
    case 4:
        shutdown(*fd, SHUT_WR);
        break;
    case 5:
        if (*fd >= 0)
            close(*fd);
        *fd = -1;
        break;
    case 6: { /* a greeting of the script's own */
        if (*fd >= 0)
            close(*fd);
        check(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, pair) == 0);
        *fd = pair[0];
        conn_new(&w->vsock, pair[1]);
        size_t n = s->left < 40 ? s->left : 40;
        send(*fd, s->at, n, MSG_NOSIGNAL);
        break;
    }
    case 7:
        shutdown(*fd, SHUT_RD);
        break;
    }
}

/* The device in another life, with the same guest: clients of the old life lose their connection. */
static void fork_device(struct world *w)
{
    static uint8_t state[8192];
    struct err err = {0};
    struct pack p = pack_into(state, sizeof state);
    virtio_save(&w->vsock.virtio, &p);
    check(!p.full);
    vsock_detach(&w->vsock);
    vsock_init(&w->vsock, &w->d.gmem);
    driver_connect(&w->d, &w->vsock.virtio);
    struct unpack u = unpack_from(state, p.len);
    check(virtio_load(&w->vsock.virtio, &u, &err) == 0 && unpack_done(&u));
    check(vsock_attach(&w->vsock, &w->loop, -1, &err) == 0);
    w->rx_used = w->vsock.virtio.queue[RX].next_used;
    virtio_resume(&w->vsock.virtio);
}

static void check_device(struct world *w)
{
    unsigned count = 0;
    list_for_each (n, &w->vsock.conns)
        count++;
    check(count == w->vsock.conn_count && count <= VSOCK_CONNS_MAX);
    check(w->vsock.refusals <= VSOCK_REFUSALS_MAX);
    if (w->vsock.gated)
        check(w->rx_used == w->vsock.virtio.queue[RX].next_used);
    else
        check(!w->vsock.reset_pending);
    w->rx_used = w->vsock.virtio.queue[RX].next_used;
}

static void step(struct world *w, struct script *s)
{
    switch (byte(s) % 8) {
    case 0:
    case 1:
        guest_sends(w, s);
        break;
    case 2:
    case 3:
        client_acts(w, s);
        break;
    case 4:
        for (unsigned n = byte(s) % 8; n; n--)
            lend(w, RX, byte(s) % 16 ? 44 + BUFFER : word(s) % (1 << 17));
        driver_kick(&w->d, RX);
        break;
    case 5:
        guest_looks(w);
        for (unsigned n = byte(s) % 4; n; n--)
            lend(w, EVENT, 4);
        driver_kick(&w->d, EVENT);
        break;
    case 6:
        fork_device(w);
        break;
    case 7:
        switch (byte(s) % 4) {
        case 0: /* the driver begins again */
            driver_probe(&w->d, &w->vsock.virtio);
            break;
        case 1:
            driver_write32(&w->d, byte(s) * 4u % 0x100, word(s));
            driver_serve(&w->d);
            break;
        case 2:
            driver_offer(&w->d, byte(s) % 3, byte(s));
            break;
        case 3:
            driver_set_avail_idx(&w->d, byte(s) % 3, (uint16_t)word(s));
            break;
        }
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct world w;
    struct script s = {data, size};
    log_init(LOG_ERROR, "fuzz");
    memset(&w, 0, sizeof w);
    driver_init(&w.d, DRIVER_RAM);
    vsock_init(&w.vsock, &w.d.gmem);
    check(loop_init(&w.loop, NULL) == 0 && vsock_attach(&w.vsock, &w.loop, -1, NULL) == 0);
    for (int i = 0; i < CLIENTS; i++)
        w.client[i] = -1;
    driver_probe(&w.d, &w.vsock.virtio);
    w.scratch = driver_alloc(&w.d, 70000);
    for (int i = 0; i < 8; i++) {
        lend(&w, RX, 44 + BUFFER);
        lend(&w, EVENT, 4);
    }
    driver_kick(&w.d, RX);
    driver_kick(&w.d, EVENT);

    for (int i = 0; s.left && i < STEPS_MAX; i++) {
        step(&w, &s);
        driver_settle(&w.d, &w.loop); /* aborts if it never rests */
        check_device(&w);
    }
    vsock_detach(&w.vsock);
    check(w.vsock.conn_count == 0);
    for (int i = 0; i < CLIENTS; i++)
        if (w.client[i] >= 0)
            close(w.client[i]);
    loop_destroy(&w.loop);
    driver_destroy(&w.d);
    return 0;
}
