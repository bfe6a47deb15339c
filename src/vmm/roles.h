/* roles.h: the three things a forkd-vmm process can be.
 *
 * A process begins as a parent (its first message is BOOT) or as a template (LOAD); a template's forks are
 * sandboxes. Stages of every role, in this order: what needs paths or privileges (opening /dev/kvm and /proc);
 * the jail; memory and devices; guest code. A role returns the process's exit status. */
#ifndef FORKD_VMM_ROLES_H
#define FORKD_VMM_ROLES_H

#include "proto/ctl.h"
#include "snap/template.h"
#include "vmm/control.h"

/* What was opened before the jail. */
struct vmm_origin {
    int kvm_fd;  /* /dev/kvm */
    int proc_fd; /* O_PATH, for own_memory_open() */
};

/* Boots a guest. `sock` and the message's descriptors are taken. */
int parent_run(const struct vmm_origin *origin, int sock, struct ctl_message *boot);

/* Maps an image and forks when asked. `sock` and the message's descriptors are taken. Returns in a template, and in
 * those of its forks that are templates; sandboxes end in sandbox_run(). */
int template_run(const struct vmm_origin *origin, int sock, struct ctl_message *load);

/* In the fork: attaches the machine, reports BORN on the sandbox's own socket, waits for GO, runs. `spawn` is the
 * message that asked for it; its descriptors are taken, and so is the origin: a sandbox is nobody's. */
_Noreturn void sandbox_run(struct vmm_origin *origin, struct machine *m, struct ctl_message *spawn);

/* The jail and the filter of a tree. Descriptors not in `keep` are closed. */
int vmm_jail(const struct vmm_origin *origin, const struct ctl_jail *who, const int *keep, size_t count,
             struct err *err);

#endif
