/* vsock_device.h: the vsock device as its connections see it: its state, and how a packet gets to the guest. Theory of
 * operation, invariants and threads: vsock.h.
 *
 * A packet is put into a receive buffer that was taken for it; the interrupt is the caller's. A driver that lends a
 * malformed one breaks the device: then vsock_pay() in vsock.c ends all connections, whoever took the buffer. */
#ifndef FORKD_DEV_VSOCK_DEVICE_H
#define FORKD_DEV_VSOCK_DEVICE_H

#include "base/list.h"
#include "dev/virtio.h"
#include "sys/loop.h"

enum {
    VSOCK_HOST_CID = 2,
    VSOCK_GUEST_CID = 3,
    VSOCK_DOORBELL = 1023,
    VSOCK_CONNS_MAX = 256,
    VSOCK_BUF = 64 << 10,
    VSOCK_REFUSALS_MAX = 64,
};

enum { VSOCK_QUEUE_RX, VSOCK_QUEUE_TX, VSOCK_QUEUE_EVENT };
enum { VSOCK_STREAM = 1 }; /* the only type of packets */

enum vsock_op {
    VSOCK_OP_REQUEST = 1,
    VSOCK_OP_RESPONSE,
    VSOCK_OP_RST,
    VSOCK_OP_SHUTDOWN,
    VSOCK_OP_RW,
    VSOCK_OP_CREDIT_UPDATE,
    VSOCK_OP_CREDIT_REQUEST,
};

enum { VSOCK_SHUTDOWN_RECEIVE = 1, VSOCK_SHUTDOWN_SEND = 2 };

/* 5.10.6, as it lies in the rings. */
struct vsock_hdr {
    uint64_t src_cid, dst_cid;
    uint32_t src_port, dst_port, len;
    uint16_t type, op;
    uint32_t flags, buf_alloc, fwd_cnt;
} __attribute__((packed));

/* The device's own ports start above those that programs use by name; the last one means "any" to Linux. */
#define VSOCK_FIRST_HOST_PORT UINT32_C(0x40000000)
#define VSOCK_LAST_HOST_PORT  (UINT32_MAX - 1)

/* A packet that belongs to no connection is answered with RST; these wait for a receive buffer. */
struct vsock_refusal {
    uint32_t host_port, guest_port;
};

struct vsock {
    struct virtio_dev virtio; /* first: it is the device */
    /* The guest rang at `port`. With the device lock held; may be NULL. */
    void (*on_doorbell)(struct vsock *vsock, uint32_t port);

    /* State. */
    bool reset_pending;      /* TRANSPORT_RESET is still to be put into the event queue */
    bool gated;              /* nothing is delivered until the driver took it in */
    uint16_t event_buffers;  /* most buffers ever seen waiting in the event queue: as many as the driver lends */
    uint32_t next_host_port; /* of the next connection */
    unsigned refusals;
    struct vsock_refusal refusal[VSOCK_REFUSALS_MAX];

    /* Host. */
    struct loop *loop;
    struct loop_source listener;
    int listen_fd;
    /* A client's socket is to be served: takes the device lock, and pays what is owed afterwards. */
    void (*on_client)(struct loop_source *client, uint32_t events);
    struct loop_timer accept_again; /* the host was short of descriptors or memory */
    struct list conns;              /* struct vsock_conn */
    unsigned conn_count;
    bool tx_blocked; /* refusals are full: the transmit queue waits */
};

/* The header of a packet to the guest, without payload. */
struct vsock_hdr vsock_header(uint32_t host_port, uint32_t guest_port, enum vsock_op op);

/* Whether a packet can be delivered to the guest now. */
bool vsock_can_deliver(struct vsock *vsock);
/* Takes a receive buffer with room for a header and `room` bytes; false if there is none, or it is malformed. */
bool vsock_take_buffer(struct vsock *vsock, struct virtq_chain *chain, uint32_t room);
/* Fills in the header and returns the buffer to the guest. */
void vsock_deliver(struct vsock *vsock, const struct virtq_chain *chain, const struct vsock_hdr *hdr);

#endif
