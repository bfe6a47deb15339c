/* client.h: asks the test agent, through the vsock device's Unix socket, one request per connection. */
#ifndef TESTS_KVM_CLIENT_H
#define TESTS_KVM_CLIENT_H

#include "base/err.h"
#include "proto/agent.h"

#include <stdint.h>
#include <sys/socket.h>
#include <sys/un.h>

/* Where a guest's vsock device listens: an abstract name of the kernel's choosing, so that nothing is left. */
struct client_address {
    struct sockaddr_un sun;
    socklen_t len;
};

enum { CLIENT_OUTPUT = 4096, CLIENT_LIMIT_S = 60 };

struct client_result {
    int32_t code;
    char output[CLIENT_OUTPUT]; /* what came of stdout and stderr, terminated, cut to fit */
    uint64_t bytes;             /* of both */
};

/* A listening socket, non-blocking, and its address. */
int client_listen(struct client_address *at, struct err *err);

/* A connection to a port of the guest, after its OK; a blocking socket with time limits. */
int client_connect(const struct client_address *at, unsigned port, struct err *err);
int client_send(int fd, const struct pack *frame, struct err *err);
/* The next frame, into `buf`; 0 at the end. */
int client_receive(int fd, uint8_t *buf, size_t cap, struct agent_frame *frame, struct err *err);

int client_ping(const struct client_address *at, struct err *err);
/* Runs a line of the guest's shell. */
int client_exec(const struct client_address *at, const char *line, struct client_result *result, struct err *err);
/* Begins one that is not waited for: the connection, on which its frames come. */
int client_exec_begin(const struct client_address *at, const char *line, struct err *err);

#endif
