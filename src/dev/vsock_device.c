/* vsock_device.c: see vsock_device.h. */
#include "dev/vsock_device.h"

#include <assert.h>

static_assert(sizeof(struct vsock_hdr) == 44, "a packet's header as 5.10.6 has it");

struct vsock_hdr vsock_header(uint32_t host_port, uint32_t guest_port, enum vsock_op op)
{
    return (struct vsock_hdr){.src_cid = VSOCK_HOST_CID,
                              .dst_cid = VSOCK_GUEST_CID,
                              .src_port = host_port,
                              .dst_port = guest_port,
                              .type = VSOCK_STREAM,
                              .op = (uint16_t)op};
}

bool vsock_can_deliver(struct vsock *vsock)
{
    return !vsock->gated && virtio_is_running(&vsock->virtio) &&
           virtq_waiting(&vsock->virtio.queue[VSOCK_QUEUE_RX], vsock->virtio.gmem) > 0;
}

bool vsock_take_buffer(struct vsock *vsock, struct virtq_chain *chain, uint32_t room)
{
    if (vsock->gated || !virtio_is_running(&vsock->virtio))
        return false;
    int rc = virtq_pop(&vsock->virtio.queue[VSOCK_QUEUE_RX], vsock->virtio.gmem, chain);
    if (rc == 0)
        return false;
    if (rc < 0 || chain->writable_len < sizeof(struct vsock_hdr) + room) {
        virtio_break(&vsock->virtio, "a malformed receive buffer");
        return false;
    }
    return true;
}

void vsock_deliver(struct vsock *vsock, const struct virtq_chain *chain, const struct vsock_hdr *hdr)
{
    virtq_chain_write(chain, vsock->virtio.gmem, 0, hdr, sizeof *hdr);
    virtq_push(&vsock->virtio.queue[VSOCK_QUEUE_RX], vsock->virtio.gmem, chain->head, (uint32_t)sizeof *hdr + hdr->len);
}
