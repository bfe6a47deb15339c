/* snapshot_info.h: all there is to tell of one snapshot. */
#ifndef FORKD_CONTROLLER_SNAPSHOT_INFO_H
#define FORKD_CONTROLLER_SNAPSHOT_INFO_H

#include "controller/controller.h"

/* What snapshot_json() tells, what lies on the disk, and to which others it is tied there. */
json_t *snapshot_info_json(struct controller *c, struct snapshot *s);

#endif
