/* loop.h: one thread's event loop over epoll(7).
 *
 * Theory of operation. A source is a descriptor with a function; a timer is a monotonic deadline with a
 * function. Both are embedded in what owns them, so the loop allocates nothing. loop_run() waits and calls
 * until loop_stop(). All calls but loop_add() and loop_wake() are made on the loop's own thread.
 *
 * Invariants.
 * 1. A source is in the loop exactly while its fd is not -1 in `struct loop_source`.
 * 2. A source removed while a batch of events is being delivered is never called again in that batch.
 * 3. A timer fires at most once per loop_timer_set(); its function may set it again. */
#ifndef FORKD_SYS_LOOP_H
#define FORKD_SYS_LOOP_H

#include "base/err.h"
#include "base/list.h"

#include <stdbool.h>
#include <stdint.h>
#include <sys/epoll.h>

struct loop_source {
    int fd;                                                  /* not owned */
    void (*fn)(struct loop_source *source, uint32_t events); /* EPOLL* bits */
};

struct loop_timer {
    uint64_t at_ns; /* CLOCK_MONOTONIC */
    void (*fn)(struct loop_timer *timer);
    struct list link;
};

enum { LOOP_BATCH = 16 };

struct loop {
    int epoll_fd, wake_fd;
    bool stopped;
    void *owner;                        /* for on_wake */
    void (*on_wake)(struct loop *loop); /* called on the loop's thread after loop_wake(); may be NULL */
    struct loop_source wake;
    struct list timers; /* sorted by deadline */
    struct epoll_event batch[LOOP_BATCH];
    int batch_len;
};

/* The state of a loop that was never set up: safe to give to loop_destroy(). */
#define LOOP_EMPTY                                                                                                     \
    {                                                                                                                  \
        .epoll_fd = -1, .wake_fd = -1, .wake = {.fd = -1 }                                                             \
    }

int loop_init(struct loop *loop, struct err *err);
void loop_destroy(struct loop *loop);

/* `events` are EPOLLIN, EPOLLOUT, EPOLLRDHUP; errors and hang-ups are always reported. Level-triggered. From any
 * thread; on another than the loop's, the source belongs to the loop with this call. */
int loop_add(struct loop *loop, struct loop_source *source, int fd, uint32_t events, struct err *err);
int loop_change(struct loop *loop, struct loop_source *source, uint32_t events, struct err *err);
/* Does not close the descriptor. Removing one that is not in the loop is allowed. */
void loop_remove(struct loop *loop, struct loop_source *source);

void loop_timer_set(struct loop *loop, struct loop_timer *timer, uint64_t at_ns);
void loop_timer_clear(struct loop_timer *timer);

/* Delivers events until loop_stop() is called on this thread. */
int loop_run(struct loop *loop, struct err *err);
void loop_stop(struct loop *loop);

/* Makes the loop call on_wake soon. From any thread and from signal handlers; several may become one call. */
void loop_wake(struct loop *loop);

#endif
