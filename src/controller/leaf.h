/* leaf.h: removing the cgroup of a process that ended, or is about to. */
#ifndef FORKD_CONTROLLER_LEAF_H
#define FORKD_CONTROLLER_LEAF_H

/* Removes the leaf `name` of a tree (-1: none). What still lives in it is killed, and its end waited for, some
 * seconds at most; a leaf that cannot be removed is logged, and removed with its tree by a later controller. */
void leaf_remove(int tree, const char *name);

#endif
