/* routes.h: which request does what. */
#ifndef FORKD_CONTROLLER_ROUTES_H
#define FORKD_CONTROLLER_ROUTES_H

#include "controller/auth.h"
#include "controller/controller.h"
#include "controller/reply.h"

#include <stdbool.h>

enum route_pace { ROUTE_QUICK, ROUTE_ACTING, ROUTE_PATIENT };

struct route {
    const char *method;
    const char *path[5];  /* parts; one that begins with ":" matches any */
    enum route_pace pace; /* quick ones are answered on the HTTP thread, others by a worker of that kind */
    enum right right;     /* what a token must have */
    void (*fn)(struct controller *c, const struct call *call, struct reply *reply);
};

enum { ROUTE_PATH_MAX = 96 };

/* NULL where there is none: *allowed then lists the methods of that path ("GET, POST"), or is "" where there is
 * no such path. `param` points into the target. */
const struct route *route_find(const char *method, const struct rest_target *target, const char **param, char *allowed,
                               size_t cap);

/* All routes, numbered from 0; NULL after the last. */
const struct route *route_at(unsigned number);
unsigned route_number(const struct route *route);
/* "/v1/sandboxes/:id/exec" */
void route_path(const struct route *route, char path[ROUTE_PATH_MAX]);

#endif
