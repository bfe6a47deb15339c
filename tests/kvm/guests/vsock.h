/* vsock.h: a test guest's virtio-vsock (virtio 1.2, section 5.10): one listening port, a table of connections.
 *
 * What the peer sends is taken at once into the connection's buffer, so credit is only ever short towards the host.
 * After a fork the device says TRANSPORT_RESET: all connections are gone, and the event buffer is given back, which
 * is the acknowledgement. */
#ifndef GUEST_VSOCK_H
#define GUEST_VSOCK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    CONN_MAX = 48, /* at most 64 */
    CONN_IN = 96 << 10,
    CONN_OUT = 128 << 10
};

enum conn_state { CONN_FREE, CONN_OPEN, CONN_CLOSING };

struct conn {
    enum conn_state state;
    uint32_t peer_port, local_port;
    uint32_t peer_alloc, peer_taken, sent; /* the peer's credit, and what was used of it */
    uint32_t received, received_told;
    bool peer_done; /* it will send nothing more */
    bool finish;    /* close when the output is sent */
    bool reply_due, credit_due;
    uint32_t in_len, out_at, out_len;
    uint8_t in[CONN_IN], out[CONN_OUT];
};

extern struct conn conns[CONN_MAX];
extern uint64_t conns_used; /* which are not free, one bit each: a loop over all would touch each one's memory */

#define conn_for_each(c)                                                                                               \
    for (uint64_t conn_left_ = conns_used; conn_left_; conn_left_ &= conn_left_ - 1)                                   \
        for (struct conn *c = &conns[__builtin_ctzll(conn_left_)]; c; c = NULL)

/* The owner's: something arrived (or the peer is done), the output has room again, the connection is no more. */
void conn_input(struct conn *c);
void conn_room(struct conn *c);
void conn_gone(struct conn *c);

bool vsock_start(uint32_t listen_port, uint32_t doorbell_port);
/* Does what there is to do; false if there was nothing. */
bool vsock_poll(void);
/* Before the guest sleeps. */
void vsock_ack(void);

static inline size_t conn_space(const struct conn *c)
{
    return CONN_OUT - c->out_len;
}

/* Takes up to `len` bytes off the front of the input. */
void conn_consume(struct conn *c, size_t len);
void conn_finish(struct conn *c);

extern uint32_t vsock_resets; /* transport resets seen */

#endif
