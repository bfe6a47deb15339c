/* monitor.h: the thread that watches every living VMM.
 *
 * Theory of operation. A process is dead when its pidfd says so, whatever its socket said before; its last words
 * (ENDED) are kept as the reason. The death of a sandbox takes it out of the fleet, the registry, the run
 * directory and the cgroups; the death of a template makes its snapshot FAILED and is told; its children live on.
 * All removals happen on this thread, whoever caused the death, so there is one path and no race. */
#ifndef FORKD_CONTROLLER_MONITOR_H
#define FORKD_CONTROLLER_MONITOR_H

#include "base/err.h"

struct controller;
struct monitor;
struct sandbox;
struct snapshot;

int monitor_start(struct controller *c, struct monitor **monitor, struct err *err);
void monitor_stop(struct monitor *monitor);

/* Watches the process of an object that is in the fleet; takes a reference. From any thread. */
void monitor_watch_sandbox(struct monitor *monitor, struct sandbox *sandbox);
void monitor_watch_snapshot(struct monitor *monitor, struct snapshot *snapshot);

#endif
