/* leaf.c: see leaf.h. */
#include "controller/leaf.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/own.h"
#include "sys/cgroup.h"

#include <fcntl.h>
#include <poll.h>

enum { EMPTY_MS = 5000 };

/* The kernel tells a change of cgroup.events as POLLPRI. */
static int wait_empty(int leaf, struct err *err)
{
    uint64_t deadline = clock_monotonic_ns() + EMPTY_MS * NS_PER_MS;
    own_fd int events = openat(leaf, "cgroup.events", O_RDONLY | O_CLOEXEC);
    for (;;) {
        bool populated;
        int rc = cgroup_is_populated(leaf, &populated, err);
        if (rc < 0 || !populated)
            return rc;
        struct pollfd p = {.fd = events, .events = POLLPRI};
        if (poll(&p, 1, clock_ms_until(deadline)) <= 0)
            return err_say(err, EBUSY, "its processes do not end");
    }
}

void leaf_remove(int tree, const char *name)
{
    struct err err;
    if (tree < 0)
        return;
    int rc = cgroup_remove(tree, name, &err);
    if (rc == -EBUSY) {
        own_fd int leaf = -1;
        rc = cgroup_create(tree, name, &leaf, &err);
        if (rc == 0)
            rc = cgroup_kill(leaf, &err);
        if (rc == 0)
            rc = wait_empty(leaf, &err);
        if (rc == 0)
            rc = cgroup_remove(tree, name, &err);
    }
    if (rc < 0)
        log_warn("the cgroup of %s: %s", name, err.text);
}
