/* trees.c: see trees.h. */
#include "controller/trees.h"

#include "base/log.h"
#include "base/own.h"
#include "controller/leaf.h"
#include "controller/vmm_client.h"
#include "sys/cgroup.h"

#include <string.h>

struct tree *tree_new(const char *id)
{
    struct tree *t = calloc(1, sizeof *t);
    if (!t)
        return NULL;
    atomic_init(&t->refs, 1);
    snprintf(t->id, sizeof t->id, "%s", id);
    t->cgroup = -1;
    return t;
}

struct tree *tree_ref(struct tree *t)
{
    atomic_fetch_add(&t->refs, 1);
    return t;
}

void tree_unref(struct tree *t)
{
    if (!t || atomic_fetch_sub(&t->refs, 1) > 1)
        return;
    fd_close(&t->cgroup);
    free(t);
}

int tree_open(struct tree *t, int forkd, struct err *err)
{
    if (forkd < 0)
        return 0;
    int rc = cgroup_create(forkd, t->id, &t->cgroup, err);
    if (rc == 0)
        rc = cgroup_enable_memory(t->cgroup, err);
    if (rc == 0)
        rc = vmm_tree_delegate(t->cgroup, t->id, err);
    return rc;
}

void tree_remove(struct tree *t, int forkd)
{
    struct err err;
    if (t->cgroup < 0)
        return;
    leaf_remove(t->cgroup, "parent"); /* of a controller that did not live to do so */
    if (cgroup_remove(forkd, t->id, &err) < 0)
        log_warn("the cgroup of tree %s: %s", t->id, err.text);
}

int tree_leaf(const struct tree *t, const char *name, int *cgroup, struct err *err)
{
    *cgroup = -1;
    if (t->cgroup < 0)
        return 0;
    int rc = cgroup_create(t->cgroup, name, cgroup, err);
    return rc < 0 ? rc : vmm_tree_delegate(*cgroup, t->id, err);
}
