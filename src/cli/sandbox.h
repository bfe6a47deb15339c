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

/* Deletes a sandbox; one that is gone already is fine. */
int sandbox_delete(struct client *client, const char *id, struct err *err);

#endif
