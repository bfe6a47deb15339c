/* branch_run.h: what the processes of `vmbench branch` share. Inside of it alone. */
#ifndef BENCH_BRANCH_RUN_H
#define BENCH_BRANCH_RUN_H

#include "kvm/rig.h"
#include "vmbench/branch.h"

enum { PARKS = 50 };

/* Memory of all of them. */
struct run_shared {
    double park_us[PARKS];
    struct branch_report report;
    pid_t template_pid;   /* of the newest */
    uint64_t state_bytes; /* of its state file */
    uint64_t bytes;       /* that classic wrote */
    int failed;
    char text[ERR_TEXT_MAX];
};

struct branch_run {
    const struct branch_options *o;
    struct rig rig;
    struct run_shared *shared;
    struct writers writers;
    int source[2], templates[2]; /* socket pairs; [0] is ours */
    int source_memory;
    unsigned index; /* of the branch being made; classic's source counts for itself */
};

/* What the source is told, with one byte; it answers with the same. */
enum branch_command {
    COMMAND_PARKS = 'P',   /* park floors */
    COMMAND_GAP = 'G',     /* the gap begins anew */
    COMMAND_BRANCH = 'B',  /* serve a branch on the socket that comes along */
    COMMAND_CLASSIC = 'C', /* write all memory in the pause; the file comes with the answer, to be made durable */
};

/* Descriptors that come with the answer of a template, where branches are written. */
enum { TEMPLATE_STATE, TEMPLATE_PAGES, TEMPLATE_FDS };

/* For rig_fork(): the source and the first template. */
int branch_source_main(struct rig *rig, void *run);
int branch_template_main(struct rig *rig, void *run);
/* Does nothing: probes (bench/pause-window/probes) attach to it, to tell the pauses of branches from those of floors.
 */
void branch_begins(void);

#endif
