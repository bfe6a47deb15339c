/* args.h: a verb of the command line and its options, described by tables.
 *
 * The tables are the one source of what is parsed here, of --help (help.h), of the man page and of the completions
 * (scripts/make-manual). So the words in them follow rules: an option's value is named by its kind, TAG, ID, FILE,
 * DIR, IMAGE, N or else, and the same names stand for operands in the forms of usage.
 *
 * `--name VALUE`, `--name=VALUE`, `-n VALUE` and `-nVALUE` are understood; everything else is positional, and so is
 * all that comes after `--`. A verb that runs a command says after how many positionals its flags end. */
#ifndef FORKD_CLI_ARGS_H
#define FORKD_CLI_ARGS_H

#include "base/err.h"

#include <limits.h>
#include <stdbool.h>

enum arg_kind { ARG_FLAG, ARG_TEXT, ARG_NUMBER, ARG_TEXTS };

enum { ARG_TEXTS_MAX = 256 };

/* No number that is given can be this one: what an unsigned of ARG_NUMBER holds where 0 must be told from none. */
enum { ARG_NOT_GIVEN = INT_MAX };

struct arg_texts {
    const char *at[ARG_TEXTS_MAX + 1]; /* NULL-terminated */
    unsigned count;
};

struct arg {
    const char *name; /* without the dashes; NULL ends the table */
    char letter;      /* 0: none */
    enum arg_kind kind;
    void *into;        /* bool, const char *, unsigned, struct arg_texts */
    const char *value; /* what its value is called; NULL for a flag */
    const char *help;  /* one sentence without a full stop; NULL: accepted, and not spoken of */
};

struct args;

struct verb {
    const char *name;
    const char *what;           /* half a line, for the list of verbs */
    const char *usage;          /* its forms, without "forkd NAME ", one a line; "" where there is nothing to add */
    const char *about;          /* paragraphs, parted by empty lines */
    const struct arg *flags;    /* NULL: none of its own */
    unsigned flags_end_after;   /* positionals; 0: flags may come anywhere */
    const char *const *foreign; /* first operands after which all words are some program's own; NULL: none */
    int (*run)(const struct args *args); /* returns the exit status */
};

struct args {
    const struct verb *verb;
    char **rest; /* filled: the positionals, pointing into argv, NULL-terminated */
    int count;
    bool help, json;         /* filled: --help, --json */
    const char *url, *token; /* filled: --daemon-url, --daemon-token */
};

/* The options that every verb has; their values go nowhere. For descriptions. */
extern const struct arg args_common[];

/* args->verb is set; argv[0] is its name. Reorders argv. -EINVAL with a sentence: the exit status is 2. */
int args_parse(struct args *args, int argc, char **argv, struct err *err);

#endif
