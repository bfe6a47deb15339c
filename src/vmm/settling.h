/* settling.h: a template that settles (snap/settle.h) while it serves.
 *
 *   idle      SETTLE begins it.
 *   writing   a fork writes the new image; the template forks and branches as always. Its pidfd tells the end, which
 *             ends in idle: the image is taken, or the template stays as it was and says why. */
#ifndef FORKD_VMM_SETTLING_H
#define FORKD_VMM_SETTLING_H

#include "snap/settle.h"
#include "sys/loop.h"

struct settling {
    struct loop_source ended; /* the writer's pidfd; owned */
    int memfd;                /* -1: idle */
    struct settling_result *result;
    struct loop *loop;
    struct content *content;
    struct gmem *gmem;
    void *owner;
    /* The private pages there were, or the error. */
    void (*done)(struct settling *s, uint64_t pages, const struct err *err);
};

void settling_init(struct settling *s);
/* Owner and `done` are set. -EBUSY while it is writing. */
int settling_begin(struct settling *s, struct loop *loop, struct content *content, struct gmem *gmem, struct err *err);
/* In another fork of the template: forgets it. */
void settling_shed(struct settling *s);

#endif
