/* options.c: see options.h. A flag wins over its environment variable, which wins over the default. */
#include "controller/options.h"

#include "base/io.h"
#include "base/own.h"
#include "controller/branches.h"
#include "proto/places.h"

#include <ctype.h>
#include <fcntl.h>
#include <getopt.h>
#include <string.h>

static const char help[] =
    "forkd-controller: makes, keeps and ends microVMs; speaks HTTP\n"
    "\n"
    "usage: forkd-controller serve [options]\n"
    "\n"
    "  --bind ADDRESS            ADDRESS:PORT or unix:/path (FORKD_BIND; " PLACE_ADDRESS ")\n"
    "  --state PATH              the registry, a file, or a directory with state.db in\n"
    "                            it; sockets lie beside the file (FORKD_STATE;\n"
    "                            /var/lib/forkd/state.db)\n"
    "  --snapshot-root DIR       where snapshots are kept (FORKD_SNAPSHOT_ROOT; /var/lib/forkd/snapshots\n"
    "                            as root)\n"
    "  --snapshot-writer W       how they are written: direct, fallocate or buffered; none: they live in\n"
    "                            memory alone (FORKD_SNAPSHOT_WRITER; direct)\n"
    "  --snapshot-write-mib-s N  how fast each may be written, in MiB a second (as fast as it goes)\n"
    "  --audit-log FILE          one JSON line per request (FORKD_AUDIT_LOG; /var/log/forkd/audit.log)\n"
    "  --token-file FILE         the tokens that requests must carry one of (FORKD_TOKEN_FILE)\n"
    "  --tls-cert FILE           speak TLS with this certificate (PEM), and those that vouch for it\n"
    "                            (FORKD_TLS_CERT)\n"
    "  --tls-key FILE            the certificate's key (FORKD_TLS_KEY)\n"
    "  --spawns-at-once N        children of one request in flight (two per CPU)\n"
    "  --branch-concurrency N    branches that may be under way at a time (FORKD_BRANCH_CONCURRENCY; 4)\n"
    "  --request-timeout SECS    what a client may take to send a request, and to take its answer (120)\n"
    "  --kill-on-exit            end sandboxes and templates with the controller; without it they live on\n"
    "  --ready-fd FD             gets one byte when requests are served, for whoever starts this\n"
    "  --version, --help\n"
    "\n"
    "SIGTERM and SIGINT finish what is being done and leave sandboxes running; SIGUSR1 ends them\n"
    "and all templates as well; SIGHUP reopens the audit log and reads tokens and certificate anew.\n"
    "\n"
    "FORKD_VMM names the program of virtual machines, FORKD_IMAGES the directory of guest images;\n"
    "FORKD_DEBUG=1 has the log say more.\n";

enum { REQUEST_SECS = 120 };

enum {
    OPT_BIND = 1,
    OPT_STATE,
    OPT_ROOT,
    OPT_WRITER,
    OPT_WRITE_RATE,
    OPT_AUDIT,
    OPT_TOKEN,
    OPT_TLS_CERT,
    OPT_TLS_KEY,
    OPT_SPAWNS,
    OPT_REQUEST,
    OPT_BRANCHES,
    OPT_KILL,
    OPT_READY,
    OPT_HELP,
    OPT_VERSION,
    OPT_NONE
};

static const struct option flags[] = {
    {"bind", required_argument, NULL, OPT_BIND},
    {"state", required_argument, NULL, OPT_STATE},
    {"snapshot-root", required_argument, NULL, OPT_ROOT},
    {"snapshot-writer", required_argument, NULL, OPT_WRITER},
    {"snapshot-write-mib-s", required_argument, NULL, OPT_WRITE_RATE},
    {"audit-log", required_argument, NULL, OPT_AUDIT},
    {"token-file", required_argument, NULL, OPT_TOKEN},
    {"tls-cert", required_argument, NULL, OPT_TLS_CERT},
    {"tls-key", required_argument, NULL, OPT_TLS_KEY},
    {"spawns-at-once", required_argument, NULL, OPT_SPAWNS},
    {"branch-concurrency", required_argument, NULL, OPT_BRANCHES},
    {"request-timeout", required_argument, NULL, OPT_REQUEST},
    {"kill-on-exit", no_argument, NULL, OPT_KILL},
    {"prewarm-scratch-dir", required_argument, NULL, OPT_NONE}, /* of the original; needs nothing here */
    {"ready-fd", required_argument, NULL, OPT_READY},
    {"help", no_argument, NULL, OPT_HELP},
    {"version", no_argument, NULL, OPT_VERSION},
    {0},
};

static const char *env_or(const char *name, const char *otherwise)
{
    const char *value = getenv(name);
    return value && *value ? value : otherwise;
}

static int set_state(struct options *o, const char *path, struct err *err)
{
    if (!*path)
        return err_say(err, EINVAL, "--state needs a path");
    return place_state(path, o->state, sizeof o->state - sizeof ".run", err);
}

static int set_number(unsigned *into, const char *flag, const char *text, unsigned low, unsigned high, struct err *err)
{
    char *end;
    unsigned long n = strtoul(text, &end, 10);
    if (!isdigit((unsigned char)*text) || *end || n < low || n > high)
        return err_say(err, EINVAL, "%s must be a number from %u to %u", flag, low, high);
    *into = (unsigned)n;
    return 0;
}

static int set_branches(struct options *o, const char *text, struct err *err)
{
    return set_number(&o->branch_concurrency, "--branch-concurrency", text, 1, BRANCHES_MAX, err);
}

static int set_writer(struct options *o, const char *name, struct err *err)
{
    if (store_engine_parse(name, &o->snapshot_writer) < 0)
        return err_say(err, EINVAL, "--snapshot-writer must be direct, fallocate, buffered or none");
    return 0;
}

static int defaults(struct options *o, struct err *err)
{
    *o = (struct options){.bind = env_or("FORKD_BIND", PLACE_ADDRESS),
                          .audit_log = env_or("FORKD_AUDIT_LOG", NULL),
                          .token_file = env_or("FORKD_TOKEN_FILE", NULL),
                          .tls_cert = env_or("FORKD_TLS_CERT", NULL),
                          .tls_key = env_or("FORKD_TLS_KEY", NULL),
                          .branch_concurrency = BRANCHES_DEFAULT,
                          .request_secs = REQUEST_SECS,
                          .ready_fd = -1};
    o->audit_log_chosen = o->audit_log != NULL;
    const char *root = env_or("FORKD_SNAPSHOT_ROOT", NULL), *branches = env_or("FORKD_BRANCH_CONCURRENCY", NULL);
    if (root)
        snprintf(o->snapshot_root, sizeof o->snapshot_root, "%s", root);
    else
        place_snapshots(o->snapshot_root, sizeof o->snapshot_root);
    int rc = branches ? set_branches(o, branches, err) : 0;
    if (rc == 0)
        rc = set_writer(o, env_or("FORKD_SNAPSHOT_WRITER", "direct"), err);
    return rc < 0 ? rc : set_state(o, env_or("FORKD_STATE", "/var/lib/forkd/state.db"), err);
}

static int set_ready(struct options *o, const char *text, struct err *err)
{
    unsigned fd;
    if (set_number(&fd, "--ready-fd", text, 0, INT_MAX, NULL) < 0 || fcntl((int)fd, F_SETFD, FD_CLOEXEC) < 0)
        return err_say(err, EINVAL, "--ready-fd must be the number of an open descriptor");
    o->ready_fd = (int)fd;
    return 0;
}

static int take_flag(struct options *o, int flag, struct err *err)
{
    switch (flag) {
    case OPT_BIND:
        o->bind = optarg;
        break;
    case OPT_STATE:
        return set_state(o, optarg, err);
    case OPT_ROOT:
        if ((size_t)snprintf(o->snapshot_root, sizeof o->snapshot_root, "%s", optarg) >= sizeof o->snapshot_root)
            return err_say(err, EINVAL, "--snapshot-root is too long");
        break;
    case OPT_WRITER:
        return set_writer(o, optarg, err);
    case OPT_WRITE_RATE:
        return set_number(&o->write_mib_per_second, "--snapshot-write-mib-s", optarg, 1, 1 << 20, err);
    case OPT_AUDIT:
        o->audit_log = optarg;
        o->audit_log_chosen = true;
        break;
    case OPT_TOKEN:
        o->token_file = optarg;
        break;
    case OPT_TLS_CERT:
        o->tls_cert = optarg;
        break;
    case OPT_TLS_KEY:
        o->tls_key = optarg;
        break;
    case OPT_SPAWNS:
        return set_number(&o->spawns_at_once, "--spawns-at-once", optarg, 1, 256, err);
    case OPT_REQUEST:
        return set_number(&o->request_secs, "--request-timeout", optarg, 1, 24 * 3600, err);
    case OPT_BRANCHES:
        return set_branches(o, optarg, err);
    case OPT_READY:
        return set_ready(o, optarg, err);
    case OPT_KILL:
        o->kill_on_exit = true;
        break;
    default:
        break;
    }
    return 0;
}

enum options_result options_parse(int argc, char **argv, struct options *o, struct err *err)
{
    if (defaults(o, err) < 0)
        return OPTIONS_WRONG;
    opterr = 0;
    for (int flag; (flag = getopt_long(argc, argv, "", flags, NULL)) != -1;) {
        if (flag == OPT_HELP) {
            fputs(help, stdout);
            return OPTIONS_DONE;
        }
        if (flag == OPT_VERSION) {
            puts("forkd-controller " FORKD_VERSION);
            return OPTIONS_DONE;
        }
        if (flag == '?') {
            err_say(err, EINVAL, "%s is no option, or lacks its value; see forkd-controller --help", argv[optind - 1]);
            return OPTIONS_WRONG;
        }
        if (take_flag(o, flag, err) < 0)
            return OPTIONS_WRONG;
    }
    if (optind != argc - 1 || strcmp(argv[optind], "serve") != 0) {
        err_say(err, EINVAL, "usage: forkd-controller serve [options]; see forkd-controller --help");
        return OPTIONS_WRONG;
    }
    if (!o->tls_cert != !o->tls_key) {
        err_say(err, EINVAL, "--tls-cert and --tls-key go together: one was given without the other");
        return OPTIONS_WRONG;
    }
    if (!o->audit_log)
        o->audit_log = "/var/log/forkd/audit.log";
    return OPTIONS_SERVE;
}
