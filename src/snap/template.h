/* template.h: from a parked parent to a template that can be forked.
 *
 * Theory of operation. A parent is consumed by its template. template_make() runs in the parent, parked with its
 * state saved, and leaves two descriptors: the sealed image of memory and the state file in a sealed memfd of its
 * own. Nothing is copied; the zero pages go back to the host. template_open() runs in a fresh process, which maps
 * the image privately and unpacks the state into a plain machine. That process has one thread and no VM: it can
 * be forked at once, and each fork attaches its copy of the machine to a KVM VM of its own. */
#ifndef FORKD_SNAP_TEMPLATE_H
#define FORKD_SNAP_TEMPLATE_H

#include "mem/image.h"
#include "vm/machine.h"

/* The state file of a machine that is plain or parked, in a sealed memfd; the descriptor is the caller's. */
int template_state(struct machine *m, int *state_fd, uint64_t *state_len, struct err *err);

/* Consumes the machine, which is freed, and the shared mapping of its memory, `memory_fd`, which becomes the
 * sealed image and stays the caller's. *state_fd is the caller's. */
int template_make(struct machine *m, int memory_fd, struct image *image, int *state_fd, uint64_t *state_len,
                  struct err *err);

/* Descriptors stay the caller's and may be closed afterwards. The machine owns its mapping: it lives as long as
 * the process. */
int template_open(int memory_fd, const struct image *image, int state_fd, uint64_t state_len, struct machine **m,
                  struct err *err);

#endif
