/* branch_wire.h: what source and target of a branch say to each other (branch.h). Inside of src/snap alone.
 *
 * The shared memfd, each part beginning at a page boundary:
 *
 *     wanted   bitmap of RAM: pages the target still has to get
 *     diff     bitmap of RAM: pages written since the source was forked; filled with the pause
 *     state    room for the source's state file
 *     stage    the last pages (stage.h)
 */
#ifndef FORKD_SNAP_BRANCH_WIRE_H
#define FORKD_SNAP_BRANCH_WIRE_H

#include "base/err.h"
#include "disk/disk.h"
#include "snap/stage.h"

#include <stdbool.h>
#include <stdint.h>

enum branch_word {
    BRANCH_HELLO = 1, /* target: state_bytes = room, layers it has, row and merges, instant; the shared memfd */
    BRANCH_FETCH,     /* target: hold = how much the guest is to be held back (throttle.h) */
    BRANCH_FETCHED,   /* source: wanted, ram */
    BRANCH_PARK,      /* target: hold = pause until RESUME whatever there is to read */
    BRANCH_PARKED,  /* source: state_bytes, wanted (in RAM), ram, staged, kick, save, log, pages; layers of the target's
                       that are the oldest of the source's, all others after them, and the source's row and merges */
    BRANCH_RESUME,  /* target, where there was something to read or it asked to hold */
    BRANCH_RESUMED, /* source: instant, layers not written since its birth, resume */
    BRANCH_DONE,    /* target */
    BRANCH_SORRY,   /* source: it cannot; code = errno */
    BRANCH_WORDS_END
};

struct branch_message {
    enum branch_word word;
    uint32_t code, layers, merges, staged, hold;
    uint64_t state_bytes, wanted;
    uint64_t ram; /* where the source has its RAM mapped */
    uint64_t row; /* name of the disk's row of layers (disk.h) */
    uint64_t instant_source, instant_number;
    uint64_t kick_ns, save_ns, log_ns, pages_ns, resume_ns;
};

enum { BRANCH_FDS_MAX = DISK_LAYERS_MAX };

/* Does not wait: neither side ever has more than two messages unread, and one that reads none must not stop the other,
 * a running sandbox. -ETIMEDOUT then. */
int branch_send(int sock, const struct branch_message *m, const int *fds, unsigned count, struct err *err);
/* Waits until a monotonic deadline. 1, or 0 when the other end closed. *count descriptors at most are received; they
 * are the caller's. */
int branch_recv(int sock, struct branch_message *m, int *fds, unsigned *count, uint64_t deadline_ns, struct err *err);

/* One side's mapping of the shared memfd. */
struct branch_shared {
    uint8_t *map; /* NULL: none */
    size_t bytes;
    uint64_t *wanted, *diff;
    uint8_t *state;
    size_t state_room;
    struct stage stage;
};

/* Target: makes the memfd, sealed so that nobody can make it shorter, with the stage's memory there. */
int branch_shared_make(struct branch_shared *s, uint64_t pages, size_t state_room, int *fd, struct err *err);
/* Source: maps what it was sent, if it is what it should be. */
int branch_shared_map(struct branch_shared *s, uint64_t pages, uint64_t state_room, int fd, struct err *err);
void branch_shared_unmap(struct branch_shared *s);

#endif
