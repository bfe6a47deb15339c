/* vsock_life.h: one life of a guest, its vsock device, its host, and the clients there, for the tests of vsock. */
#ifndef FORKD_TESTS_VSOCK_LIFE_H
#define FORKD_TESTS_VSOCK_LIFE_H

#include "dev/vsock.h"
#include "dev/vsock_conn.h"
#include "driver.h"

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

/* A listening socket and a loop of its own; attaches the device. */
void life_host_up(struct life *l);
/* Detaches and frees. */
void life_end(struct life *l);
/* Makes a buffer available, without a notification. */
void guest_lend(struct life *l, unsigned queue, uint64_t gpa, uint32_t len);
/* Delivers what is ready until nothing is: a busy loop fails. */
void life_settle(struct life *l);
/* A running guest whose driver lent RX_BUFFERS and EVENT_BUFFERS. */
struct life *life_new(void);
/* The same guest and device in another process: state by save and load, a host of its own, running. */
struct life *life_fork(struct life *l);
/* Takes one packet and gives its buffer back; false when there is none. */
bool guest_take(struct life *l, struct packet *packet);
/* The next packet, which is this one. */
struct packet guest_expect(struct life *l, enum vsock_op op);
void guest_expect_nothing(struct life *l);
/* A packet of the guest's with 256 KiB of credit. */
struct vsock_hdr guest_hdr(enum vsock_op op, uint32_t host_port, uint32_t guest_port);
/* Puts a packet into the transmit queue and notifies; the device may leave it there. */
void guest_send(struct life *l, struct vsock_hdr hdr, const void *body);
/* Takes the events in, as Linux does: acts, gives the buffer back, notifies at the end. Returns their number. */
unsigned guest_events(struct life *l);
/* A client that wrote `line`. */
int client_connect(struct life *l, const char *line);
void client_expect(int fd, const char *text);
void client_expect_end(int fd);
void client_expect_nothing(int fd);
/* A connection to the guest's port 52; `credit` is what the guest says it has room for. */
int life_open_stream(struct life *l, uint32_t *host_port, uint32_t credit);
void guest_write(struct life *l, uint32_t host_port, const void *body, uint32_t len);
void guest_shut(struct life *l, uint32_t host_port, uint32_t flags);

#endif
