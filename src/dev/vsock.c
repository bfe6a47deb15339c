/* vsock.c: the side of the vsock device that the guest sees: queues, gate, refusals; and where its clients come in. See
 * vsock.h. Section numbers are those of virtio 1.2.
 *
 * SECCOMP: accept4 - clients of the guest's programs connect */
#include "dev/vsock.h"

#include "base/clock.h"
#include "base/log.h"
#include "dev/vsock_conn.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>

enum { VSOCK_ID = 19, EVENT_TRANSPORT_RESET = 0, EVENT_BYTES = 4 };
enum { PACKETS_AT_ONCE = 64, ACCEPTS_AT_ONCE = 16, ACCEPT_PAUSE_MS = 100 };

static void kill_conns(struct vsock *vsock)
{
    list_for_each_safe (n, &vsock->conns)
        conn_kill(list_entry(n, struct vsock_conn, link));
}

static void broken(struct vsock *vsock, const char *why)
{
    virtio_break(&vsock->virtio, why);
    kill_conns(vsock);
}

/* To the guest */

/* Refuses what belongs to no connection. Several packets of one such connection need one answer. */
static void refuse(struct vsock *vsock, uint32_t host_port, uint32_t guest_port)
{
    for (unsigned i = 0; i < vsock->refusals; i++)
        if (vsock->refusal[i].host_port == host_port && vsock->refusal[i].guest_port == guest_port)
            return;
    if (vsock->refusals < VSOCK_REFUSALS_MAX)
        vsock->refusal[vsock->refusals++] = (struct vsock_refusal){host_port, guest_port};
}

static bool pay_refusals(struct vsock *vsock)
{
    struct virtq_chain chain;
    unsigned paid = 0;
    while (paid < vsock->refusals && vsock_take_buffer(vsock, &chain, 0)) {
        const struct vsock_refusal *r = &vsock->refusal[paid++];
        struct vsock_hdr hdr = vsock_header(r->host_port, r->guest_port, VSOCK_OP_RST);
        vsock_deliver(vsock, &chain, &hdr);
    }
    vsock->refusals -= paid;
    memmove(vsock->refusal, vsock->refusal + paid, vsock->refusals * sizeof *vsock->refusal);
    return paid > 0;
}

/* The packet to send next of those owed; 0: none. */
static unsigned owed_next(const struct vsock_conn *conn)
{
    static const unsigned order[] = {OWES_REQUEST, OWES_RST, OWES_SHUTDOWN, OWES_CREDIT};
    for (unsigned i = 0; i < sizeof order / sizeof *order; i++)
        if (conn->owes & order[i])
            return order[i];
    return 0;
}

static struct vsock_hdr owed_packet(struct vsock_conn *conn, unsigned owed)
{
    if (owed == OWES_REQUEST)
        return conn_header(conn, VSOCK_OP_REQUEST, 0);
    if (owed == OWES_RST)
        return conn_header(conn, VSOCK_OP_RST, 0);
    if (owed == OWES_CREDIT)
        return conn_header(conn, VSOCK_OP_CREDIT_UPDATE, 0);
    struct vsock_hdr hdr = conn_header(conn, VSOCK_OP_SHUTDOWN, 0);
    hdr.flags |= conn->client_eof ? VSOCK_SHUTDOWN_SEND : 0;
    hdr.flags |= conn->client_deaf ? VSOCK_SHUTDOWN_RECEIVE : 0;
    return hdr;
}

/* False when there are no more buffers. */
static bool pay_conn(struct vsock *vsock, struct vsock_conn *conn, bool *sent)
{
    struct virtq_chain chain;
    unsigned owed;
    while ((owed = owed_next(conn))) {
        if (!vsock_take_buffer(vsock, &chain, 0))
            return false;
        struct vsock_hdr hdr = owed_packet(conn, owed);
        vsock_deliver(vsock, &chain, &hdr);
        *sent = true;
        if (!conn_paid(conn, owed))
            break;
    }
    return true;
}

/* Sends what is owed by connections and refusals, as far as receive buffers go. May free any connection. */
static void vsock_pay(struct vsock *vsock)
{
    bool sent = pay_refusals(vsock);
    list_for_each_safe (n, &vsock->conns)
        if (!pay_conn(vsock, list_entry(n, struct vsock_conn, link), &sent))
            break;
    if (sent)
        virtio_interrupt(&vsock->virtio, VSOCK_QUEUE_RX);
    if (!virtio_is_running(&vsock->virtio)) /* broken, here or by whoever calls */
        kill_conns(vsock);
}

/* The gate */

static uint16_t event_waiting(struct vsock *vsock)
{
    uint16_t waiting = virtq_waiting(&vsock->virtio.queue[VSOCK_QUEUE_EVENT], vsock->virtio.gmem);
    if (waiting > vsock->event_buffers)
        vsock->event_buffers = waiting;
    return waiting;
}

/* Puts the pending event into the event queue if the driver lends a buffer (5.10.6.7). */
static void event_deliver(struct vsock *vsock)
{
    struct virtq *vq = &vsock->virtio.queue[VSOCK_QUEUE_EVENT];
    struct virtq_chain chain;
    const uint32_t id = EVENT_TRANSPORT_RESET;
    event_waiting(vsock);
    int rc = virtq_pop(vq, vsock->virtio.gmem, &chain);
    if (rc == 0)
        return;
    if (rc < 0 || virtq_chain_write(&chain, vsock->virtio.gmem, 0, &id, sizeof id) != EVENT_BYTES) {
        broken(vsock, "a malformed event buffer");
        return;
    }
    virtq_push(vq, vsock->virtio.gmem, chain.head, EVENT_BYTES);
    vsock->reset_pending = false;
    virtio_interrupt(&vsock->virtio, VSOCK_QUEUE_EVENT);
}

static void event_notify(struct vsock *vsock)
{
    uint16_t waiting = event_waiting(vsock);
    if (!vsock->gated)
        return;
    if (vsock->reset_pending) {
        event_deliver(vsock);
        return;
    }
    /* A driver gives a buffer back after it has acted on the event in it, and a notification may be about an
     * earlier event than ours: only when all are back was ours among them. */
    if (waiting && waiting == vsock->event_buffers) {
        vsock->gated = false;
        vsock_pay(vsock);
    }
}

/* From the guest */

static void packet(struct vsock *vsock, const struct vsock_hdr *hdr, const struct virtq_chain *chain)
{
    if (hdr->src_cid != VSOCK_GUEST_CID || hdr->dst_cid != VSOCK_HOST_CID)
        return; /* there is nobody else */
    struct vsock_conn *conn = hdr->type == VSOCK_STREAM ? conn_find(vsock, hdr->dst_port, hdr->src_port) : NULL;
    if (conn) {
        conn_packet(conn, hdr, chain);
        return;
    }
    if (hdr->op == VSOCK_OP_RST)
        return;
    refuse(vsock, hdr->dst_port, hdr->src_port);
    if (hdr->type == VSOCK_STREAM && hdr->op == VSOCK_OP_REQUEST && hdr->dst_port == VSOCK_DOORBELL &&
        vsock->on_doorbell)
        vsock->on_doorbell(vsock, hdr->dst_port);
}

static void tx_notify(struct vsock *vsock)
{
    struct virtio_dev *dev = &vsock->virtio;
    struct virtq *vq = &dev->queue[VSOCK_QUEUE_TX];
    struct virtq_chain chain;
    struct vsock_hdr hdr;
    unsigned done = 0;
    int rc = 1;
    vsock->tx_blocked = false;
    while (done < PACKETS_AT_ONCE && virtio_is_running(dev)) {
        if (vsock->refusals == VSOCK_REFUSALS_MAX) {
            vsock_pay(vsock);
            vsock->tx_blocked = vsock->refusals == VSOCK_REFUSALS_MAX;
            if (vsock->tx_blocked)
                break;
        }
        rc = virtq_pop(vq, dev->gmem, &chain);
        if (rc <= 0)
            break;
        if (virtq_chain_read(&chain, dev->gmem, 0, &hdr, sizeof hdr) != sizeof hdr ||
            hdr.len > chain.readable_len - sizeof hdr) {
            rc = -EINVAL;
            break;
        }
        packet(vsock, &hdr, &chain);
        virtq_push(vq, dev->gmem, chain.head, 0);
        done++;
    }
    if (done)
        virtio_interrupt(dev, VSOCK_QUEUE_TX);
    vsock_pay(vsock);
    if (rc < 0)
        broken(vsock, "a malformed packet");
    else if (done == PACKETS_AT_ONCE)
        virtio_again(dev, VSOCK_QUEUE_TX);
}

static void rx_notify(struct vsock *vsock)
{
    vsock_pay(vsock);
    list_for_each_safe (n, &vsock->conns)
        conn_watch(list_entry(n, struct vsock_conn, link));
    if (vsock->tx_blocked && vsock->refusals < VSOCK_REFUSALS_MAX)
        virtio_again(&vsock->virtio, VSOCK_QUEUE_TX);
}

/* The device */

static void vsock_config(struct virtio_dev *dev, uint32_t at, void *into, uint32_t len)
{
    const uint64_t cid = VSOCK_GUEST_CID; /* 5.10.4 */
    memset(into, 0, len);
    if (at < sizeof cid)
        memcpy(into, (const uint8_t *)&cid + at, len < sizeof cid - at ? len : sizeof cid - at);
}

static void vsock_notify(struct virtio_dev *dev, unsigned queue)
{
    struct vsock *vsock = (struct vsock *)dev;
    if (queue == VSOCK_QUEUE_TX)
        tx_notify(vsock);
    else if (queue == VSOCK_QUEUE_RX)
        rx_notify(vsock);
    else {
        event_notify(vsock);
        if (!vsock->gated)
            rx_notify(vsock);
    }
}

static void vsock_reset(struct virtio_dev *dev)
{
    struct vsock *vsock = (struct vsock *)dev;
    kill_conns(vsock);
    vsock->reset_pending = vsock->gated = vsock->tx_blocked = false;
    vsock->event_buffers = 0;
    vsock->refusals = 0;
}

/* Whether the guest believes in a connection, or may: it has not yet taken in that the last ones are gone. */
static bool is_believed(const struct vsock *vsock)
{
    bool any = vsock->reset_pending || vsock->gated;
    list_for_each (n, &vsock->conns)
        any |= conn_is_known(list_entry(n, struct vsock_conn, link));
    return any;
}

static void vsock_save(struct virtio_dev *dev, struct pack *p)
{
    const struct vsock *vsock = (const struct vsock *)dev;
    pack_u16(p, vsock->event_buffers);
    pack_u32(p, vsock->next_host_port);
    pack_u32(p, vsock->refusals);
    for (unsigned i = 0; i < vsock->refusals; i++) {
        pack_u32(p, vsock->refusal[i].host_port);
        pack_u32(p, vsock->refusal[i].guest_port);
    }
    pack_u8(p, is_believed(vsock));
}

static int vsock_load(struct virtio_dev *dev, struct unpack *u, struct err *err)
{
    struct vsock *vsock = (struct vsock *)dev;
    uint16_t event_buffers = unpack_u16(u);
    uint32_t next_host_port = unpack_u32(u), refusals = unpack_u32(u);
    if (u->bad || event_buffers > VIRTQ_SIZE_MAX || next_host_port < VSOCK_FIRST_HOST_PORT ||
        next_host_port > VSOCK_LAST_HOST_PORT || refusals > VSOCK_REFUSALS_MAX)
        return err_say(err, EINVAL, "the device's state is malformed");
    for (unsigned i = 0; i < refusals; i++) {
        vsock->refusal[i].host_port = unpack_u32(u);
        vsock->refusal[i].guest_port = unpack_u32(u);
    }
    /* States of before this was told end here: then a reset is due. */
    bool believed = unpack_done(u) || unpack_u8(u);
    if (u->bad)
        return err_say(err, EINVAL, "the device's state is cut off");
    vsock->event_buffers = event_buffers;
    vsock->next_host_port = next_host_port;
    vsock->refusals = refusals;
    vsock->tx_blocked = false;
    vsock->gated = vsock->reset_pending = believed && virtio_is_running(dev);
    return 0;
}

static void vsock_resume(struct virtio_dev *dev)
{
    struct vsock *vsock = (struct vsock *)dev;
    if (vsock->reset_pending)
        event_deliver(vsock);
}

static const struct virtio_kind vsock_kind = {
    .name = "vsock",
    .id = VSOCK_ID,
    .queues = 3,
    .config = vsock_config,
    .notify = vsock_notify,
    .reset = vsock_reset,
    .save = vsock_save,
    .load = vsock_load,
    .resume = vsock_resume,
};

/* Clients */

static void on_client(struct loop_source *source, uint32_t events)
{
    struct vsock_conn *conn = list_entry(source, struct vsock_conn, client);
    struct vsock *vsock = conn->vsock;
    virtio_lock(&vsock->virtio);
    conn_event(conn, events);
    vsock_pay(vsock);
    virtio_unlock(&vsock->virtio);
}

/* The listening socket */

static void accept_pause(struct vsock *vsock)
{
    loop_remove(vsock->loop, &vsock->listener);
    loop_timer_set(vsock->loop, &vsock->accept_again, clock_monotonic_ns() + ACCEPT_PAUSE_MS * NS_PER_MS);
}

static void accept_again(struct loop_timer *timer)
{
    struct vsock *vsock = list_entry(timer, struct vsock, accept_again);
    virtio_lock(&vsock->virtio);
    if (loop_add(vsock->loop, &vsock->listener, vsock->listen_fd, EPOLLIN, NULL) < 0)
        accept_pause(vsock);
    virtio_unlock(&vsock->virtio);
}

static void on_listener(struct loop_source *source, uint32_t events)
{
    struct vsock *vsock = list_entry(source, struct vsock, listener);
    virtio_lock(&vsock->virtio);
    for (int i = 0; i < ACCEPTS_AT_ONCE; i++) {
        int fd = accept4(vsock->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
        if (fd >= 0) {
            conn_new(vsock, fd);
            continue;
        }
        if (errno == EINTR || errno == ECONNABORTED)
            continue;
        if (errno != EAGAIN) { /* short of something: epoll would report the same client again at once */
            log_warn("vsock: accept: %s", strerror(errno));
            accept_pause(vsock);
        }
        break;
    }
    virtio_unlock(&vsock->virtio);
}

void vsock_init(struct vsock *vsock, struct gmem *gmem)
{
    *vsock = (struct vsock){
        .listen_fd = -1, .listener.fd = -1, .on_client = on_client, .next_host_port = VSOCK_FIRST_HOST_PORT};
    virtio_init(&vsock->virtio, &vsock_kind, gmem);
    list_init(&vsock->conns);
}

int vsock_attach(struct vsock *vsock, struct loop *loop, int listen_fd, struct err *err)
{
    vsock->loop = loop;
    vsock->listen_fd = listen_fd;
    vsock->listener = (struct loop_source){.fd = -1, .fn = on_listener};
    vsock->accept_again = (struct loop_timer){.fn = accept_again};
    if (listen_fd < 0)
        return 0;
    int rc = loop_add(loop, &vsock->listener, listen_fd, EPOLLIN, err);
    return rc < 0 ? err_wrap(err, "virtio-vsock") : 0;
}

void vsock_detach(struct vsock *vsock)
{
    /* Its next life begins with their reset. */
    bool believed = is_believed(vsock) && virtio_is_running(&vsock->virtio);
    list_for_each_safe (n, &vsock->conns)
        conn_free(list_entry(n, struct vsock_conn, link));
    if (!vsock->loop)
        return;
    vsock->gated = vsock->reset_pending = believed;
    loop_remove(vsock->loop, &vsock->listener);
    loop_timer_clear(&vsock->accept_again);
    vsock->loop = NULL;
    vsock->listen_fd = -1;
}
