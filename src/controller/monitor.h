/* monitor.h: the thread that watches every living VMM.
 *
 * Theory of operation. A process is dead when its pidfd says so, whatever its socket said before. What it was, the
 * monitor does not know: whoever has it watched says, in a `struct watch_kind`, what its words and its death lead to.
 * Both run on this thread, whoever caused the death, so that there is one path to an end and no race on it. */
#ifndef FORKD_CONTROLLER_MONITOR_H
#define FORKD_CONTROLLER_MONITOR_H

#include "base/err.h"
#include "base/list.h"
#include "sys/loop.h"

struct controller;
struct monitor;
struct watch;

/* Called on the monitor's thread with the controller it is for. */
struct watch_kind {
    /* The process said something, or its socket is at an end; false: it has nothing more to say. NULL: nobody listens.
     */
    bool (*spoke)(struct controller *c, struct watch *watch);
    /* It is not watched any more when this is called, and may be watched anew, or freed. */
    void (*died)(struct controller *c, struct watch *watch);
    /* The monitor ends, and the process lives on. */
    void (*left)(struct controller *c, struct watch *watch);
};

/* Embedded in what has a process. */
struct watch {
    const struct watch_kind *kind;
    struct monitor *monitor;
    struct list link; /* monitor.watches */
    struct loop_source words, death;
};

int monitor_start(struct controller *c, struct monitor **monitor, struct err *err);
void monitor_stop(struct monitor *monitor);

/* From any thread. The watch is the monitor's with this call, whose thread may be through with it before this returns.
 * On failure nobody hears of that death, and `left` is called in the end. Borrows the descriptors while it watches. */
int monitor_watch(struct monitor *monitor, struct watch *watch, int socket, int pidfd, struct err *err);

#endif
