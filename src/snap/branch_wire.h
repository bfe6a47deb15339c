/* branch_wire.h: what source and target of a branch say to each other (branch.h). Inside of src/snap alone. */
#ifndef FORKD_SNAP_BRANCH_WIRE_H
#define FORKD_SNAP_BRANCH_WIRE_H

#include "base/err.h"

#include <stdint.h>

enum branch_word {
    BRANCH_HELLO = 1, /* target: a = bytes of the state's room, b = layers it has, t = its instant; the shared memfd */
    BRANCH_FETCH,     /* target */
    BRANCH_FETCHED,   /* source: a = pages wanted now */
    BRANCH_PARK,      /* target */
    BRANCH_PARKED,    /* source: a = bytes of state, b = pages wanted; t = kick, save, log; layers */
    BRANCH_RESUME,    /* target */
    BRANCH_RESUMED,   /* source: a, b = the instant; t[0] = resume */
    BRANCH_DONE,      /* target */
    BRANCH_SORRY,     /* source: it cannot; a = errno */
    BRANCH_WORDS_END
};

struct branch_message {
    enum branch_word word;
    uint64_t a, b, t[3];
};

enum { BRANCH_FDS_MAX = 15 };

/* Does not wait: neither side ever has more than two messages unread, and one that reads none must not stop the other,
 * a running sandbox. -ETIMEDOUT then. */
int branch_send(int sock, const struct branch_message *m, const int *fds, unsigned count, struct err *err);
/* Waits until a monotonic deadline. 1, or 0 when the other end closed. *count descriptors at most are received; they
 * are the caller's. */
int branch_recv(int sock, struct branch_message *m, int *fds, unsigned *count, uint64_t deadline_ns, struct err *err);

/* The shared memfd: a bitmap of `pages` bits in whole words, then, at a page boundary, the state's room. */
uint64_t branch_bitmap_bytes(uint64_t pages);

#endif
