/* lineage.h: which snapshots on the disk need which others. All with the fleet's lock held. */
#ifndef FORKD_CONTROLLER_LINEAGE_H
#define FORKD_CONTROLLER_LINEAGE_H

#include "controller/fleet.h"

/* Links that can be loaded: no more than forkd-store takes. */
enum { LINEAGE_MAX = 200, LINEAGE_WRITTEN_MAX = 100 };

/* The snapshot and its ancestors, from the snapshot to the root: how many, or -ENOENT with a sentence that names the
 * file of the one that is missing. */
int lineage_chain(const struct fleet *fleet, const struct snapshot *s, const struct snapshot *chain[LINEAGE_MAX],
                  const char *root, struct err *err);

/* Whether `s` is a diff to `parent`, on the disk or about to be. */
bool lineage_depends(const struct snapshot *s, const struct snapshot *parent);

#endif
