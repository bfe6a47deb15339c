/* child.h: forks that run the agent guest, and what a test asks them through vsock.
 *
 * A child runs its guest until it powers off. Told to by child_branch(), it parks, forks the next of its line, and
 * goes on with its own life: a fork of a fork, as many as were prepared. */
#ifndef TESTS_KVM_CHILD_H
#define TESTS_KVM_CHILD_H

#include "kvm/client.h"
#include "kvm/rig.h"

#include <stdbool.h>

struct child {
    struct client_address at;
    int listen_fd;
    int order_fd, orders_fd; /* the test's end, and the child's */
    pid_t pid;
    bool last; /* nothing of its line follows in the array */
};

/* Makes what `n` children of one line need, the first of which child_start() forks. */
int child_prepare(struct child *line, unsigned n, struct err *err);
int child_start(struct child *c, struct rig *rig, struct err *err);
/* The next child of the line is a fork of this one when this returns. */
int child_branch(struct child *c, struct err *err);
/* Powers the guest off; a child of the test itself is waited for. */
int child_end(struct child *c, struct err *err);
/* Runs a line of the guest's shell, and compares what it prints. */
int child_says(const struct child *c, const char *line, const char *expected, struct err *err);

#endif
