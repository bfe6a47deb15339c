/* reply.c: see reply.h. */
#include "controller/reply.h"

#include "controller/refusal.h"

#include <stdlib.h>
#include <string.h>

void reply_json(struct reply *reply, unsigned status, json_t *json)
{
    reply->status = status;
    reply->type = NULL;
    reply->body = json ? json_dumps(json, JSON_COMPACT | JSON_ENCODE_ANY) : NULL;
    reply->len = reply->body ? strlen(reply->body) : 0;
    json_decref(json);
    if (!reply->body)
        reply->status = 500;
}

void reply_error(struct reply *reply, unsigned status, const char *text)
{
    reply_json(reply, status, rest_json_error(text));
}

void reply_failed(struct reply *reply, int rc, unsigned otherwise, const struct err *err)
{
    reply_error(reply, refusal_status(rc, otherwise), err->text);
}

void reply_done(struct reply *reply, int rc, const struct err *err)
{
    if (rc < 0)
        reply_failed(reply, rc, 500, err);
    else
        reply->status = 204;
}

void reply_free(struct reply *reply)
{
    free(reply->body);
    reply->body = NULL;
}
