/* runner.h: a machine that runs under a controller: what a parent and a sandbox have in common.
 *
 * Theory of operation. The runner ties a machine's hooks to control messages: doorbells, stalls and the end become
 * events; QUIT and RESUME are requests. What else a role can be asked, its own function handles. The process ends
 * after ENDED was sent, or without it when it was asked to quit: exit status 0 for that and for a guest that powered
 * off, 1 otherwise. */
#ifndef FORKD_VMM_RUNNER_H
#define FORKD_VMM_RUNNER_H

#include "vm/machine.h"
#include "vmm/control.h"

struct runner {
    struct loop loop;
    struct control control;
    struct machine *machine;
    int exit_status;
    /* Requests that are not the runner's own; closes the message. NULL: all others are refused. */
    void (*request)(struct runner *runner, struct ctl_message *m);
    void *owner;
};

/* The hooks of the runner's machine. */
struct machine_hooks runner_hooks(struct runner *runner);

/* Delivers events until the machine ended or was quit. Returns the process's exit status; the process ends with
 * everything as it is. */
int runner_run(struct runner *runner);

/* Ends the run from a request: the process ends with that status, and with ENDED only if the machine did. */
void runner_stop(struct runner *runner, int exit_status);

/* For control_init(). */
void runner_on_request(struct control *control, struct ctl_message *m);
void runner_on_lost(struct control *control);

#endif
