/* sandbox.h: what several verbs do with sandboxes. */
#ifndef FORKD_CLI_SANDBOX_H
#define FORKD_CLI_SANDBOX_H

#include "cli/client.h"

/* A field as text; "" where it is absent or of another type. Points into the object. */
const char *json_text(const json_t *object, const char *name);

/* How long ago that was ("3 min"). */
void age_text(json_int_t created_at_unix, char *text, size_t cap);

/* The table of `forkd ls` and `forkd spawn`. */
void sandboxes_print(const json_t *list);

/* Has the agent of a sandbox do `what` ("exec", "eval"). `body` is taken; *answer has an exit code and is the caller's.
 */
int sandbox_call(struct client *client, const char *id, const char *what, json_t *body, json_t **answer,
                 struct err *err);
/* Has the agent of the sandbox that args->rest[0] names do it. `body` is taken. 0: *answer is the
 * caller's; else the status to end with, and the user was told why. */
int sandbox_ask(const struct args *args, const char *what, json_t *body, json_t **answer);
/* The status that what was executed or evaluated ended with, as a shell gives it: 128 + N for signal N. */
int sandbox_exit_status(const json_t *answer);

/* Deletes a sandbox; one that is gone already is fine. */
int sandbox_delete(struct client *client, const char *id, struct err *err);

#endif
