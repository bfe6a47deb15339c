/* strv.h: argument and environment vectors: arrays of strings that end with NULL, each one block of memory that
 * free(3) releases. */
#ifndef FORKD_AGENT_STRV_H
#define FORKD_AGENT_STRV_H

#include "proto/agent.h"

/* A copy of an unpacked list, or NULL when there is no memory. */
char **strv_from_list(struct agent_list list);

/* The environment `base` with the NAME=value strings of `extra` and then `last` (may be NULL) added, each in the
 * place of one of the same name. NULL when there is no memory. Strings of `extra` without a name are left out. */
char **strv_env(char *const *base, struct agent_list extra, const char *last);

/* The value of NAME, or NULL. */
const char *strv_env_get(char *const *env, const char *name);

#endif
