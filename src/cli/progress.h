/* progress.h: showing that something is going on, on stderr.
 *
 * On a terminal one line with the seconds that passed, and a bar where it is known how much there is to do, kept up to
 * date by a thread of its own; elsewhere one plain line at the beginning of what takes more than a second and one at
 * its end. Nothing for what is quicker. */
#ifndef FORKD_CLI_PROGRESS_H
#define FORKD_CLI_PROGRESS_H

#include <stddef.h>

struct progress;

/* How far it is. */
struct progress_now {
    char words[80]; /* what goes on now; "": what it was begun with says it */
    int percent;    /* of that; negative: not known */
};

/* `what` is copied: "booting the parent". */
struct progress *progress_begin(const char *what);
/* The same; on a terminal `ask` is called now and then, in the progress's own thread, for what is shown besides. It
 * writes that, or leaves `now` as it is. */
struct progress *progress_begin_asking(const char *what, void (*ask)(void *owner, struct progress_now *now),
                                       void *owner);
/* Ends it; `how` (may be NULL) is added: "booting the parent: 3.2 s, HOW". NULL is fine. */
void progress_end(struct progress *progress, const char *how);

#endif
