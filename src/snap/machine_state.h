/* machine_state.h: a machine's plain state to and from a state file.
 *
 * What is written is what machine_park(save) left in the machine: CPUs and clock of that instant, devices as
 * they are, with the requests they hold. Guest memory and disk blocks are not in it. */
#ifndef FORKD_SNAP_MACHINE_STATE_H
#define FORKD_SNAP_MACHINE_STATE_H

#include "vm/machine.h"

#include <stddef.h>
#include <stdint.h>

/* The version of every section but the first. */
enum { MACHINE_PART_VERSION = 1 };

/* An upper bound of the file's length for this machine, at most STATE_FILE_MAX. */
size_t machine_state_bound(const struct machine *m);
/* Packs the state into `buf`; returns the length. */
int64_t machine_state_write(struct machine *m, void *buf, size_t cap, struct err *err);

/* What the file says of the machine it is of: read first, so that one can be made. */
int machine_state_config(const void *buf, size_t len, struct machine_config *config, struct err *err);
/* Unpacks everything into a plain machine of that configuration. The file may be hostile: nothing of the
 * machine is to be used after an error. */
int machine_state_read(struct machine *m, const void *buf, size_t len, struct err *err);

#endif
