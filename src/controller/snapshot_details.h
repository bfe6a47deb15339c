/* snapshot_details.h: what the controller adds to a snapshot's description, so that it is told after a restart, or by
 * another controller: how a branch was made, and what its diff came to. */
#ifndef FORKD_CONTROLLER_SNAPSHOT_DETAILS_H
#define FORKD_CONTROLLER_SNAPSHOT_DETAILS_H

#include "controller/fleet.h"

/* Puts it into meta->details. */
int details_write(const struct snapshot *s, struct snapshot_meta *meta, struct err *err);
/* What of it is there; the rest is left as it is. */
void details_read(const struct snapshot_meta *meta, struct rest_branch *branch, struct rest_diff *diff);

#endif
