/* cli.h: what the verbs of `forkd` share.
 *
 * A verb gets its own argv, prints its result on stdout, everything else on stderr, and returns the exit status:
 * 0; 1 for an error, of which a sentence was printed; 2 for a wrong usage; exec and eval return the command's. */
#ifndef FORKD_CLI_CLI_H
#define FORKD_CLI_CLI_H

#include "cli/args.h"
#include "cli/client.h"

enum { EXIT_ERROR = 1, EXIT_USAGE = 2 };

/* Parses, and prints help or what is wrong. True: go on. False: return *status. */
bool verb_begin(struct args *args, int argc, char **argv, const char *help, int *status);
/* "forkd: SENTENCE" on stderr; returns EXIT_ERROR. */
int verb_fail(const struct err *err);
/* The same for a wrong usage. */
int verb_usage(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
/* Prints compact JSON and a newline, takes the reference; returns 0. */
int verb_json(json_t *json);

int verb_snapshot(int argc, char **argv);
int verb_spawn(int argc, char **argv); /* spawn and fork */
int verb_ls(int argc, char **argv);
int verb_exec(int argc, char **argv);
int verb_eval(int argc, char **argv);
int verb_ping(int argc, char **argv);
int verb_kill(int argc, char **argv);
int verb_images(int argc, char **argv);
int verb_resume(int argc, char **argv);
int verb_rmi(int argc, char **argv);
int verb_stop(int argc, char **argv);
int verb_doctor(int argc, char **argv);
int verb_quickstart(int argc, char **argv);
int verb_version(int argc, char **argv);

#endif
