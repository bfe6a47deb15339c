/* quickstart.h: the two halves of forkd quickstart: what is kept (image, snapshot) and what is shown (children). */
#ifndef FORKD_CLI_QUICKSTART_H
#define FORKD_CLI_QUICKSTART_H

#include "cli/client.h"

#include <stdbool.h>

struct quickstart {
    unsigned n;
    const char *image;   /* name of a guest image */
    const char *modules; /* "numpy,json" */
    const char *code;    /* evaluated in each child */
    const char *command; /* for sh -c in each child */
    bool json;
};

/* Forks n children one after the other, asks each, prints the table and the totals, kills them. The exit status: 0
 * if all answered. */
int children_show(struct client *client, const struct quickstart *q, const char *tag);

#endif
