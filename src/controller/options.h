/* options.h: flags and environment of `forkd-controller serve`. */
#ifndef FORKD_CONTROLLER_OPTIONS_H
#define FORKD_CONTROLLER_OPTIONS_H

#include "base/err.h"
#include "controller/store_client.h"

#include <limits.h>
#include <stdbool.h>

struct options {
    const char *bind;
    char state[PATH_MAX]; /* a file */
    char snapshot_root[PATH_MAX];
    const char *audit_log;
    bool audit_log_chosen; /* not just the default */
    const char *token_file;
    const char *tls_cert, *tls_key; /* both or neither */
    unsigned spawns_at_once;        /* 0: two per CPU */
    unsigned branch_concurrency;
    enum store_engine snapshot_writer;
    unsigned write_mib_per_second; /* 0: as fast as it goes */
    unsigned request_secs;
    bool kill_on_exit;
    int ready_fd; /* gets a byte when requests are served; -1: none */
};

enum options_result { OPTIONS_SERVE, OPTIONS_DONE, OPTIONS_WRONG };

/* OPTIONS_DONE: help or version was printed. OPTIONS_WRONG: err says what; the exit status is 2. */
enum options_result options_parse(int argc, char **argv, struct options *options, struct err *err);

#endif
