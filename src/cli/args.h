/* args.h: the flags of a verb, described by a table.
 *
 * `--name VALUE`, `--name=VALUE`, `-n VALUE` and `-nVALUE` are understood; everything else is positional, and so is
 * all that comes after `--`. A verb that runs a command says after how many positionals its flags end. */
#ifndef FORKD_CLI_ARGS_H
#define FORKD_CLI_ARGS_H

#include "base/err.h"

#include <stdbool.h>

enum arg_kind { ARG_FLAG, ARG_TEXT, ARG_NUMBER, ARG_TEXTS };

enum { ARG_TEXTS_MAX = 256 };

struct arg_texts {
    const char *at[ARG_TEXTS_MAX + 1]; /* NULL-terminated */
    unsigned count;
};

struct arg {
    const char *name; /* without the dashes; NULL ends the table */
    char letter;      /* 0: none */
    enum arg_kind kind;
    void *into; /* bool, const char *, unsigned, struct arg_texts */
};

struct args {
    const struct arg *flags;
    unsigned flags_end_after; /* positionals; 0: flags may come anywhere */
    char **rest;              /* filled: the positionals, pointing into argv, NULL-terminated */
    int count;
    bool help, json;         /* filled: --help, --json */
    const char *url, *token; /* filled: --daemon-url, --daemon-token */
};

/* argv[0] is the verb. Reorders argv. -EINVAL with a sentence: the exit status is 2. */
int args_parse(struct args *args, int argc, char **argv, struct err *err);

#endif
