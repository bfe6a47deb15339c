/* product.h: the same through a running controller: its HTTP request, cgroup, jail, control sockets, devices and the
 * guest's acknowledged identity, with the agent guest.
 *
 * The controller is one of our own, on a Unix socket in a directory of its own, and ends with us. */
#ifndef BENCH_PRODUCT_H
#define BENCH_PRODUCT_H

#include "vmbench/series.h"

#include <sys/types.h>

struct product {
    pid_t controller;
    char dir[64];
    int http_fd;
};

int product_open(struct product *p, unsigned mem_mib, unsigned fill_mib, struct err *err);
void product_close(struct product *p);

/* Spawns number `i` of the series with a request of its own, asks it, ends it: ASKED is before the request,
 * STARTED when the controller has answered it, which it does when the guest has acknowledged who it is, ANSWERED
 * when a ping came back, ENDED when the controller said that it is gone. 1 if it answered. */
int product_one(struct product *p, struct series *series, unsigned i);
/* All with one request: how many the controller says answered. They live on; their pids are in the samples. */
unsigned product_all(struct product *p, struct series *series, uint64_t *wall_ns);
void product_end(struct product *p, struct series *series);

#endif
