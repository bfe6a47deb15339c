/* making.h: what is going on while a snapshot is made, written or loaded, asked of the controller beside the request
 * that waits for it. */
#ifndef FORKD_CLI_MAKING_H
#define FORKD_CLI_MAKING_H

#include "cli/client.h"
#include "cli/progress.h"

#include <stdint.h>

struct making {
    /* Which snapshot it is about; one of these is not NULL. */
    const char *tag;
    const char *source;    /* the one that is branched from this sandbox */
    const char *workspace; /* a state of this workspace */
    unsigned boot_secs;    /* how long a boot may take; 0: nothing is booted */

    /* Its own. */
    struct client *client;
    struct progress *progress;
    uint64_t began_ns;
};

/* Shows `what`, and how far it is: booted, written, loaded. Ends with making_end(); until then `making` and what it
 * names stay. */
void making_begin(struct making *making, const struct args *args, const char *what);
void making_end(struct making *making, const char *how);

#endif
