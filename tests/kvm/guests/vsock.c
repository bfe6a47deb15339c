/* vsock.c: see vsock.h. */
#include "vsock.h"

#include "rt.h"
#include "virtio.h"

#include <string.h>

enum { RX, TX, EVENT };
enum { BUFFER = 4096, RX_BUFFER = 1024, EVENTS = 4, HOST_CID = 2, TYPE_STREAM = 1, DOORBELL_FROM = 1024 };

enum op { OP_REQUEST = 1, OP_RESPONSE, OP_RST, OP_SHUTDOWN, OP_RW, OP_CREDIT_UPDATE, OP_CREDIT_REQUEST };
enum { SHUT_RECEIVE = 1, SHUT_SEND = 2 };

struct packet {
    uint64_t src_cid, dst_cid;
    uint32_t src_port, dst_port, len;
    uint16_t type, op;
    uint32_t flags, buf_alloc, fwd_cnt;
    uint8_t data[BUFFER - 44];
} __attribute__((packed));
_Static_assert(sizeof(struct packet) == BUFFER, "a packet is a page");

struct conn conns[CONN_MAX];
HOT uint64_t conns_used;
HOT uint32_t vsock_resets;

static HOT struct virtio dev;
static HOT struct vq queue[3];
/* Small ones, so that a few packets touch few pages. */
static uint8_t rx[VQ_SIZE][RX_BUFFER] __attribute__((aligned(4096)));
static struct packet tx[VQ_SIZE] __attribute__((aligned(4096)));
static HOT uint32_t events[EVENTS];
static HOT uint32_t tx_free; /* buffers, one bit each */
static HOT bool tx_added;
static HOT uint64_t cid;
static HOT uint32_t port;
/* Resets owed to strangers: a peer that is refused while there is no free buffer simply waits. */
static HOT struct {
    uint32_t from, to;
} refuse[VQ_SIZE];
static HOT unsigned refusals;

static struct packet *tx_begin(uint32_t from, uint32_t to, enum op op)
{
    if (!tx_free)
        return NULL;
    unsigned i = (unsigned)__builtin_ctz(tx_free);
    tx_free &= tx_free - 1;
    struct packet *p = &tx[i];
    p->src_cid = cid;
    p->dst_cid = HOST_CID;
    p->src_port = from;
    p->dst_port = to;
    p->type = TYPE_STREAM;
    p->op = (uint16_t)op;
    p->len = p->flags = p->buf_alloc = p->fwd_cnt = 0;
    return p;
}

static void tx_end(struct packet *p)
{
    uint16_t i = (uint16_t)(p - tx);
    queue[TX].desc[i].addr = (uintptr_t)p;
    queue[TX].desc[i].len = 44 + p->len;
    queue[TX].desc[i].flags = 0;
    vq_add(&queue[TX], i);
    tx_added = true;
}

static bool conn_send(struct conn *c, enum op op, uint32_t flags)
{
    struct packet *p = tx_begin(c->local_port, c->peer_port, op);
    if (!p)
        return false;
    p->flags = flags;
    p->buf_alloc = CONN_IN;
    p->fwd_cnt = c->received_told = c->received;
    if (op == OP_RW) {
        uint32_t credit = c->peer_alloc - (c->sent - c->peer_taken);
        uint32_t len = c->out_len - c->out_at;
        len = len < credit ? len : credit;
        len = len < sizeof p->data ? len : sizeof p->data;
        memcpy(p->data, c->out + c->out_at, len);
        p->len = len;
        c->out_at += len;
        c->sent += len;
    }
    tx_end(p);
    return true;
}

static void conn_free(struct conn *c)
{
    if (c->state == CONN_FREE)
        return;
    c->state = CONN_FREE;
    conns_used &= ~(UINT64_C(1) << (c - conns));
    conn_gone(c);
}

void conn_consume(struct conn *c, size_t len)
{
    c->in_len -= (uint32_t)len;
    memmove(c->in, c->in + len, c->in_len);
}

void conn_finish(struct conn *c)
{
    c->finish = true;
}

static struct conn *conn_find(uint32_t peer_port, uint32_t local_port)
{
    conn_for_each (c) {
        if (c->peer_port == peer_port && c->local_port == local_port)
            return c;
    }
    return NULL;
}

static void stranger_refuse(const struct packet *p)
{
    if (p->op == OP_RST || refusals == VQ_SIZE)
        return;
    refuse[refusals].from = p->dst_port;
    refuse[refusals++].to = p->src_port;
}

/* One that waits for the end of a peer that does not come has waited long enough. */
static struct conn *conn_reclaim(void)
{
    conn_for_each (c) {
        if (c->state == CONN_CLOSING && conn_send(c, OP_RST, 0)) {
            conn_free(c);
            return c;
        }
    }
    return NULL;
}

static void request_take(const struct packet *p)
{
    unsigned i = 0;
    while (i < CONN_MAX && conns_used >> i & 1)
        i++;
    struct conn *c = i < CONN_MAX ? &conns[i] : conn_reclaim();
    if (!c || p->dst_port != port) {
        stranger_refuse(p);
        return;
    }
    memset(c, 0, offsetof(struct conn, in));
    c->state = CONN_OPEN;
    conns_used |= UINT64_C(1) << (c - conns);
    c->peer_port = p->src_port;
    c->local_port = p->dst_port;
    c->reply_due = true;
}

static void data_take(struct conn *c, const struct packet *p)
{
    uint32_t len = p->len <= RX_BUFFER - 44 ? p->len : RX_BUFFER - 44;
    if (c->state != CONN_OPEN || len > CONN_IN - c->in_len)
        len = 0;
    memcpy(c->in + c->in_len, p->data, len);
    c->in_len += len;
    c->received += p->len;
    if (c->received - c->received_told > CONN_IN / 2)
        c->credit_due = true;
}

static void packet_take(const struct packet *p)
{
    struct conn *c = conn_find(p->src_port, p->dst_port);
    if (!c && p->op == OP_REQUEST) {
        request_take(p);
        c = conn_find(p->src_port, p->dst_port);
    }
    if (!c) {
        stranger_refuse(p);
        return;
    }
    c->peer_alloc = p->buf_alloc;
    c->peer_taken = p->fwd_cnt;
    switch (p->op) {
    case OP_RW:
        data_take(c, p);
        break;
    case OP_CREDIT_REQUEST:
        c->credit_due = true;
        break;
    case OP_RST:
        conn_free(c);
        return;
    case OP_SHUTDOWN:
        if (p->flags & SHUT_SEND)
            c->peer_done = true;
        if ((p->flags & (SHUT_SEND | SHUT_RECEIVE)) == (SHUT_SEND | SHUT_RECEIVE)) {
            stranger_refuse(p); /* both directions are over: the reset says that we know */
            conn_free(c);
            return;
        }
        break;
    }
    if (c->state == CONN_OPEN)
        conn_input(c);
}

/* Buffers go back in batches, as Linux gives them: a notification is an exit. */
static bool rx_poll(void)
{
    static HOT unsigned given;
    uint16_t i;
    uint32_t len;
    bool any = false;
    while (vq_take(&queue[RX], &i, &len)) {
        if (i < VQ_SIZE && len >= 44)
            packet_take((const struct packet *)rx[i]);
        vq_add(&queue[RX], i % VQ_SIZE);
        given++;
        any = true;
    }
    if (given < VQ_SIZE / 2)
        return any;
    given = 0;
    vq_notify(&queue[RX]);
    return any;
}

static bool event_poll(void)
{
    uint16_t i;
    uint32_t len;
    bool any = false;
    while (vq_take(&queue[EVENT], &i, &len)) {
        cid = virtio_config32(&dev, 0);
        vsock_resets++;
        refusals = 0;
        conn_for_each (c)
            conn_free(c);
        vq_add(&queue[EVENT], i % EVENTS);
        any = true;
    }
    if (any)
        vq_notify(&queue[EVENT]);
    return any;
}

/* Says what a connection has to say as far as buffers and credit allow. */
static bool conn_poll(struct conn *c)
{
    bool any = false;
    if (c->reply_due && conn_send(c, OP_RESPONSE, 0)) {
        c->reply_due = false;
        any = true;
    }
    if (c->state != CONN_OPEN || c->reply_due)
        return any;
    while (c->out_at < c->out_len && c->peer_alloc != c->sent - c->peer_taken && conn_send(c, OP_RW, 0))
        any = true;
    if (c->out_at == c->out_len && c->out_len) {
        c->out_at = c->out_len = 0;
        if (!c->finish)
            conn_room(c);
    }
    if (c->credit_due && conn_send(c, OP_CREDIT_UPDATE, 0)) {
        c->credit_due = false;
        any = true;
    }
    if (c->finish && !c->out_len && conn_send(c, OP_SHUTDOWN, SHUT_SEND | SHUT_RECEIVE)) {
        c->state = CONN_CLOSING;
        any = true;
    }
    return any;
}

static void tx_reap(void)
{
    uint16_t i;
    uint32_t len;
    while (vq_take(&queue[TX], &i, &len))
        tx_free |= 1u << (i % VQ_SIZE);
}

static bool tx_poll(void)
{
    bool any = false;
    tx_reap();
    while (refusals) {
        struct packet *p = tx_begin(refuse[refusals - 1].from, refuse[refusals - 1].to, OP_RST);
        if (!p)
            break;
        tx_end(p);
        refusals--;
    }
    conn_for_each (c)
        any |= conn_poll(c);
    if (tx_added)
        vq_notify(&queue[TX]);
    tx_added = false;
    return any;
}

bool vsock_poll(void)
{
    bool any = event_poll();
    any |= rx_poll();
    any |= tx_poll();
    return any;
}

void vsock_ack(void)
{
    virtio_ack(&dev);
}

bool vsock_start(uint32_t listen_port, uint32_t doorbell_port)
{
    if (!virtio_find(&dev, VIRTIO_ID_VSOCK))
        return false;
    for (unsigned i = 0; i < 3; i++)
        virtio_queue(&dev, &queue[i], i);
    virtio_go(&dev);
    port = listen_port;
    cid = virtio_config32(&dev, 0);
    tx_free = UINT32_MAX;
    for (uint16_t i = 0; i < VQ_SIZE; i++) {
        queue[RX].desc[i].addr = (uintptr_t)rx[i];
        queue[RX].desc[i].len = RX_BUFFER;
        queue[RX].desc[i].flags = VQ_WRITE;
        vq_add(&queue[RX], i);
    }
    for (uint16_t i = 0; i < EVENTS; i++) {
        queue[EVENT].desc[i].addr = (uintptr_t)&events[i];
        queue[EVENT].desc[i].len = sizeof events[i];
        queue[EVENT].desc[i].flags = VQ_WRITE;
        vq_add(&queue[EVENT], i);
    }
    vq_notify(&queue[RX]);
    vq_notify(&queue[EVENT]);
    struct packet *p = tx_begin(DOORBELL_FROM, doorbell_port, OP_REQUEST);
    if (p) {
        p->buf_alloc = CONN_IN;
        tx_end(p);
    }
    return true;
}
