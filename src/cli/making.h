/* making.h: what is going on while a snapshot is made, asked of the controller beside the request that makes it. */
#ifndef FORKD_CLI_MAKING_H
#define FORKD_CLI_MAKING_H

#include "cli/client.h"
#include "cli/progress.h"

struct making {
    const char *tag;       /* of the snapshot that is made; NULL: */
    const char *source;    /* the one whose source is this sandbox */
    struct client *client; /* of its own */
    struct progress *progress;
};

/* Shows `what`, and how far it is: booting, or how much is written. Ends with making_end(); until then `making` and
 * what it names stay. */
void making_begin(struct making *making, const struct args *args, const char *what);
void making_end(struct making *making, const char *how);

#endif
