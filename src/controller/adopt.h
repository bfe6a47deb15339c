/* adopt.h: what an earlier controller left is taken over, finished or removed. */
#ifndef FORKD_CONTROLLER_ADOPT_H
#define FORKD_CONTROLLER_ADOPT_H

#include "controller/controller.h"

struct adoption {
    unsigned sandboxes, snapshots;   /* adopted */
    unsigned reaped, undone, litter; /* dead ones, half-made ones, directories without a row */
    unsigned silent;                 /* alive, it seems, and left alone */
};

/* Before any request is served and before the monitor gets anything else. */
int adopt_all(struct controller *c, struct adoption *adoption, struct err *err);

#endif
