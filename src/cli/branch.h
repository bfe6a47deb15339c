/* branch.h: what forkd branch and forkd snapshot --from-sandbox share. */
#ifndef FORKD_CLI_BRANCH_H
#define FORKD_CLI_BRANCH_H

#include "cli/args.h"

struct branch_wish {
    const char *sandbox, *tag; /* tag NULL: the controller's choice */
    unsigned children;         /* forked of it at once */
    bool diff, live, no_wait;
};

/* Branches the sandbox, forks the children, prints what came of it; returns the exit status. */
int branch_make(const struct args *args, const struct branch_wish *wish);

#endif
