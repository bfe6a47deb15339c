/* cli.h: what the verbs of `forkd` share.
 *
 * A verb is a table (args.h) in a file of its own. Its run() prints its result on stdout, everything else on stderr,
 * and returns the exit status: 0; 1 for an error, of which a sentence was printed; 2 for a wrong usage; exec and eval
 * return the command's. What its options are read into are static variables of its file: a process runs one verb. */
#ifndef FORKD_CLI_CLI_H
#define FORKD_CLI_CLI_H

#include "cli/args.h"
#include "cli/client.h"

enum { EXIT_ERROR = 1, EXIT_USAGE = 2 };

/* "forkd: SENTENCE" on stderr; returns EXIT_ERROR. */
int verb_fail(const struct err *err);
/* The same for a wrong usage. */
int verb_usage(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
/* Has the controller do the same to each of what the command line names: METHOD on `path`, in which * stands for it.
 * Prints `before` and `after` around each that it was done to; with --json their list. Returns the exit status. */
int verb_each(const struct args *args, const char *method, const char *path, const char *before, const char *after);
/* Prints compact JSON and a newline, takes the reference; returns 0. */
int verb_json(json_t *json);

extern const struct verb verb_snapshot;
extern const struct verb verb_spawn;
extern const struct verb verb_fork;
extern const struct verb verb_branch;
extern const struct verb verb_ls;
extern const struct verb verb_top;
extern const struct verb verb_cp;
extern const struct verb verb_where;
extern const struct verb verb_bench;
extern const struct verb verb_tree;
extern const struct verb verb_exec;
extern const struct verb verb_eval;
extern const struct verb verb_ping;
extern const struct verb verb_kill;
extern const struct verb verb_images;
extern const struct verb verb_resume;
extern const struct verb verb_rmi;
extern const struct verb verb_snapshot_compact;
extern const struct verb verb_snapshot_diff;
extern const struct verb verb_snapshot_info;
extern const struct verb verb_workspace;
extern const struct verb verb_stop;
extern const struct verb verb_cleanup;
extern const struct verb verb_doctor;
extern const struct verb verb_quickstart;
extern const struct verb verb_version;
extern const struct verb verb_names;

#endif
