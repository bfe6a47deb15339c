/* crew.h: a few threads that share out a row of tasks.
 *
 * crew_run() calls `work` once for every task from 0 on, in that order, on `threads` threads, the caller's being one
 * of them, and returns when all are done. After a failure no further task is begun; the first error is returned.
 * It is for work that waits for disks: threads overlap one's copying with another's waiting. */
#ifndef FORKD_SNAP_CREW_H
#define FORKD_SNAP_CREW_H

#include "base/err.h"

#include <stdint.h>

enum { CREW_MAX = 8 };

/* `thread` is 0 (the caller's) to threads - 1. */
typedef int crew_work(void *owner, unsigned thread, uint64_t task, struct err *err);

/* Where threads cannot be made, those that could do all the work: the caller's at least. */
int crew_run(unsigned threads, uint64_t tasks, crew_work *work, void *owner, struct err *err);

#endif
