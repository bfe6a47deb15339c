/* reply.h: what a route is called with, and what it answers. */
#ifndef FORKD_CONTROLLER_REPLY_H
#define FORKD_CONTROLLER_REPLY_H

#include "base/err.h"
#include "proto/rest.h"

#include <stddef.h>

struct call {
    const struct rest_target *target;
    const char *param; /* the part of the path that ":id" or ":tag" stands for, or NULL */
    const char *body;
    size_t len;
};

/* `body` is malloc()ed or NULL. */
struct reply {
    unsigned status;
    const char *type; /* of the body; NULL: JSON */
    char *body;
    size_t len;
};

void reply_json(struct reply *reply, unsigned status, json_t *json); /* takes the reference */
void reply_error(struct reply *reply, unsigned status, const char *text);
/* Of a negative `rc`: the status of its refusal, `otherwise` where the reason is the host's. */
void reply_failed(struct reply *reply, int rc, unsigned otherwise, const struct err *err);
/* 204 where `rc` is 0. */
void reply_done(struct reply *reply, int rc, const struct err *err);
void reply_free(struct reply *reply);

#endif
