/* trees.h: what all processes that descend from one boot template share.
 *
 * Theory of operation. A branch of a sandbox is a fork of a fork of a boot template: a template of the same tree. A
 * tree is called after its boot template. From its name comes the uid of all its processes; it has one directory
 * of cgroups, and each process in it a leaf of its own, so that everyone is charged for what it holds:
 *
 *     forkd/TREE/parent, template     of the boot template
 *     forkd/TREE/TEMPLATE             of a branch
 *     forkd/TREE/SANDBOX
 *
 * Invariants.
 * 1. The directory is there from before the first process of the tree is made until the last of its templates left the
 *    fleet; that is never the boot template's business alone, which may go long before its branches.
 * 2. A tree lives in memory as long as a snapshot refers to it. */
#ifndef FORKD_CONTROLLER_TREES_H
#define FORKD_CONTROLLER_TREES_H

#include "base/err.h"
#include "proto/ctl.h"

#include <stdatomic.h>

struct tree {
    atomic_uint refs;
    unsigned templates; /* in the fleet; guarded by its lock */
    char id[CTL_ID_MAX];
    int cgroup; /* -1: none */
};

/* With one reference, the caller's, and without cgroups; NULL without memory. */
struct tree *tree_new(const char *id);
struct tree *tree_ref(struct tree *tree);
void tree_unref(struct tree *tree);

/* Makes its directory in `forkd` (-1: none), or opens the one that is there. */
int tree_open(struct tree *tree, int forkd, struct err *err);
/* Takes what is left of it away, once it has no template. */
void tree_remove(struct tree *tree, int forkd);

/* A leaf, in which processes of the tree may make others: *cgroup is the caller's, -1 where there are none. */
int tree_leaf(const struct tree *tree, const char *name, int *cgroup, struct err *err);

#endif
