/* client.h: speaking HTTP to a controller.
 * A request may take minutes. What asks beside somebody's work, or for a program, has little patience instead.
 *
 * Which one: --daemon-url or FORKD_URL (http://HOST:PORT, unix:/path); else the one this user runs (private.h) if
 * it is up; else one on 127.0.0.1:8889 if there is; else one is started. */
#ifndef FORKD_CLI_CLIENT_H
#define FORKD_CLI_CLIENT_H

#include "base/err.h"
#include "cli/args.h"

#include <jansson.h>

struct client;

/* Finds or starts the controller. */
int client_open(const struct args *args, struct client **client, struct err *err);
/* Finds it; -ENOENT where none runs. */
int client_open_running(const struct args *args, struct client **client, struct err *err);
void client_close(struct client *client);
/* Whether it is the user's own, which `forkd stop` may end. */
bool client_is_private(const struct client *client);

/* Requests that take longer fail; 0, at first: they may take what they take. */
void client_set_patience(struct client *client, unsigned secs);
/* Whether requests from now on fail with -EINTR once a signal that is held back (interrupt.h) came; not at first. */
void client_set_interruptible(struct client *client, bool interruptible);

/* One request. `body` (may be NULL) is taken. *answer is the caller's, NULL for an empty answer. A status of 400 or
 * more is an error whose sentence is "HTTP STATUS: BODY"; where the body's own text has several lines, with the first.
 */
int client_call(struct client *client, const char *method, const char *path, json_t *body, json_t **answer,
                struct err *err);
/* The same of one thing: the '*' of `path` ("/v1/sandboxes/" "*" "/exec") stands for its name, which comes from a user
 * and is escaped, whatever is in it. -EINVAL where it is empty: most likely a variable of the caller's is not set. */
int client_call_named(struct client *client, const char *method, const char *path, const char *name, json_t *body,
                      json_t **answer, struct err *err);
/* One whose answer is a list, and nothing else; that is the caller's. */
int client_call_list(struct client *client, const char *method, const char *path, json_t *body, json_t **list,
                     struct err *err);
/* The other lines of the last failed call's answer: the guest's console. NULL: none. */
const char *client_detail(const struct client *client);

#endif
