/* help.h: what the tables of the verbs say, for people (--help) and as JSON (--help --json), of which
 * scripts/make-manual makes the man page and the completions. */
#ifndef FORKD_CLI_HELP_H
#define FORKD_CLI_HELP_H

#include "cli/args.h"

#include <stdio.h>

/* The program: all verbs. `verbs` is NULL-terminated. */
void help_program(const struct verb *const *verbs, FILE *to);
void help_program_json(const struct verb *const *verbs, FILE *to);
/* One verb, to stdout. */
void help_verb(const struct verb *verb);

#endif
