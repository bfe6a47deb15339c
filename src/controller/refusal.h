/* refusal.h: errors that are the client's, told apart from the host's.
 *
 * Lifecycles report with `struct err` as everything does. Where the reason is the request and no failure of this
 * host, the code is one of these, which no system call here returns, and the API answers with its status. */
#ifndef FORKD_CONTROLLER_REFUSAL_H
#define FORKD_CONTROLLER_REFUSAL_H

#include <errno.h>

enum {
    REFUSED_BAD = EBADRQC,     /* 400: the request cannot be meant */
    REFUSED_MISSING = EBADSLT, /* 404: there is no such thing */
    REFUSED_CONFLICT = EBADE,  /* 409: not in the state it is in */
    REFUSED_BUSY = EXFULL,     /* 503: later perhaps */
};

/* The HTTP status of a negative errno; `otherwise` for all that is the host's. */
static inline unsigned refusal_status(int rc, unsigned otherwise)
{
    switch (-rc) {
    case REFUSED_BAD:
        return 400;
    case REFUSED_MISSING:
        return 404;
    case REFUSED_CONFLICT:
        return 409;
    case REFUSED_BUSY:
        return 503;
    default:
        return otherwise;
    }
}

#endif
