/* controller.h: what the parts of forkd-controller share.
 *
 * Threads: one of libmicrohttpd's speaks HTTP; the workers do what waits; the monitor watches every living VMM.
 * The main thread starts them, waits for a signal and ends them in reverse.
 *
 * What is included here is below this file, and knows no controller; what includes it is above. */
#ifndef FORKD_CONTROLLER_CONTROLLER_H
#define FORKD_CONTROLLER_CONTROLLER_H

#include "controller/berths.h"
#include "controller/fleet.h"
#include "controller/monitor.h"
#include "controller/registry.h"
#include "controller/rundir.h"
#include "controller/store_client.h"
#include "controller/workers.h"

#include <limits.h>
#include <stdatomic.h>

struct workspaces;

struct controller {
    char program[PATH_MAX], store_program[PATH_MAX]; /* forkd-vmm, forkd-store */
    char run_path[PATH_MAX]; /* of `run`, absolute: what a VMM's command line says it belongs to */
    char snapshot_root[PATH_MAX], images[PATH_MAX];
    unsigned spawns_at_once; /* children of one request in flight */
    unsigned branch_concurrency;
    atomic_uint branches_in_flight;
    int root; /* the snapshot root, -1: snapshots are not written, since `root_reason` */
    char root_reason[ERR_TEXT_MAX];
    enum store_engine engine;
    unsigned write_mib_per_second; /* 0: as fast as it goes */
    bool writing_ends;             /* guarded by the fleet's lock */
    struct rundir run;
    int cgroup; /* forkd's directory, -1: this host has none */
    char cgroup_reason[ERR_TEXT_MAX];
    struct registry *registry;
    struct fleet fleet;
    struct workers *workers;
    struct berths berths;
    struct monitor *monitor;
    struct workspaces *workspaces;
};

#endif
