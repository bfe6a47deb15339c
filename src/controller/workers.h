/* workers.h: a bounded pool of threads for what blocks.
 *
 * Theory of operation. Jobs are embedded in what owns them. Threads are made when a job comes and none is idle,
 * up to a limit, and stay. Jobs of one kind run in the order they came. Three kinds, so that none starves
 * another: patient jobs (exec, eval, ping: they wait for a guest, perhaps for minutes) take up at most three
 * quarters of the threads, they and the acting ones (spawn, branch, delete) at most seven eighths. Helpers may take
 * all, and wait for no job but an earlier helper: they are the fan-out of an acting job, which goes on without them
 * when no thread is free, and what others wait for: writing a snapshot. */
#ifndef FORKD_CONTROLLER_WORKERS_H
#define FORKD_CONTROLLER_WORKERS_H

#include "base/err.h"
#include "base/list.h"

enum worker_kind { WORKER_ACTING, WORKER_HELPER, WORKER_PATIENT, WORKER_KINDS };

struct job {
    void (*fn)(struct job *job);
    struct list link;
};

struct workers;

int workers_start(struct workers **workers, unsigned threads_max, struct err *err);
/* Queues the job; -REFUSED_BUSY when too many are waiting already. */
int workers_submit(struct workers *workers, enum worker_kind kind, struct job *job, struct err *err);
/* Runs what is queued to its end, then ends the threads and frees the pool. */
void workers_stop(struct workers *workers);

#endif
