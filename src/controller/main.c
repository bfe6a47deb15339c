/* main.c: forkd-controller.
 *
 * Starts, in this order: the run directory (whose lock makes this the only controller of its state), the
 * registry, the monitor, adoption of what lives, the workers, HTTP. Ends in reverse. SIGCHLD is SA_NOCLDWAIT: the
 * kernel collects every child, and how a VMM ended is learnt from its socket and its pidfd. As a subreaper
 * the controller inherits the sandboxes of a template that died, so that they do not become somebody's zombies. */
#include "base/log.h"
#include "base/own.h"
#include "controller/adopt.h"
#include "controller/durable.h"
#include "controller/http.h"
#include "controller/metrics.h"
#include "controller/notify.h"
#include "controller/options.h"
#include "controller/sandboxes.h"
#include "controller/snapshots.h"
#include "controller/tls.h"
#include "controller/workspaces.h"
#include "proto/places.h"
#include "sys/cgroup.h"

#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>

enum { DRAIN_SECS = 30, STOPPED_SECS = 5, SWEEP_SECS = 2, THREADS_MAX = 256, DESCRIPTORS_WANTED = 16384 };

/* Every sandbox costs four descriptors: a thousand of them more than many hosts allow unasked. */
static void raise_limits(void)
{
    struct rlimit limit, more = {.rlim_cur = DESCRIPTORS_WANTED, .rlim_max = DESCRIPTORS_WANTED};
    if (getrlimit(RLIMIT_NOFILE, &limit) < 0)
        return;
    if (limit.rlim_max < DESCRIPTORS_WANTED && setrlimit(RLIMIT_NOFILE, &more) == 0)
        return;
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
}

/* The signals the main thread waits for, blocked in every thread. */
static void prepare_signals(sigset_t *awaited)
{
    struct sigaction collect = {.sa_handler = SIG_DFL, .sa_flags = SA_NOCLDWAIT};
    sigaction(SIGCHLD, &collect, NULL);
    signal(SIGPIPE, SIG_IGN);
    sigemptyset(awaited);
    sigaddset(awaited, SIGTERM);
    sigaddset(awaited, SIGINT);
    sigaddset(awaited, SIGHUP);
    sigaddset(awaited, SIGUSR1);
    pthread_sigmask(SIG_BLOCK, awaited, NULL);
    prctl(PR_SET_CHILD_SUBREAPER, 1);
}

/* The directory of a path, with those above it. */
static int parents_make(const char *path, struct err *err)
{
    char copy[PATH_MAX];
    snprintf(copy, sizeof copy, "%s", path);
    for (char *slash = strchr(copy + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
        *slash = 0;
        if (mkdir(copy, 0755) < 0 && errno != EEXIST)
            return err_set(err, errno, "make the directory %s", copy);
        *slash = '/';
    }
    return 0;
}

static int open_state(struct controller *c, const struct options *o, struct err *err)
{
    char run[PATH_MAX];
    int rc = parents_make(o->state, err);
    if (rc < 0)
        return rc;
    snprintf(run, sizeof run, "%.*s.run", PATH_MAX - 8, o->state);
    rc = rundir_open(run, &c->run, err);
    if (rc == 0 && !realpath(run, c->run_path))
        rc = err_set(err, errno, "find the path of %s", run);
    if (rc == 0)
        rc = registry_open(o->state, &c->registry, err);
    if (rc == 0)
        rc = rundir_note_pid(&c->run, err);
    return rc;
}

static void open_cgroup(struct controller *c)
{
    struct err err;
    c->cgroup = cgroup_base_open(&err);
    if (c->cgroup < 0) {
        c->cgroup = -1;
        memcpy(c->cgroup_reason, err.text, sizeof c->cgroup_reason);
        log_info("no memory limits on this host: %s", err.text);
    }
}

static void count_orphans(const struct adoption *adoption)
{
    metrics_orphans(ORPHAN_DEAD, adoption->reaped);
    metrics_orphans(ORPHAN_HALF_MADE, adoption->undone);
    metrics_orphans(ORPHAN_DIRECTORY, adoption->litter);
    metrics_orphans(ORPHAN_SILENT, adoption->silent);
}

static int open_controller(struct controller *c, const struct options *o, struct err *err)
{
    struct adoption adoption;
    snprintf(c->snapshot_root, sizeof c->snapshot_root, "%s", o->snapshot_root);
    place_images(c->images, sizeof c->images);
    c->branch_concurrency = o->branch_concurrency;
    c->engine = o->snapshot_writer;
    c->write_mib_per_second = o->write_mib_per_second;
    c->spawns_at_once = o->spawns_at_once ? o->spawns_at_once : 2 * (unsigned)sysconf(_SC_NPROCESSORS_ONLN);
    int rc = vmm_program(c->program, sizeof c->program, err);
    if (rc == 0)
        rc = open_state(c, o, err);
    if (rc < 0)
        return rc;
    open_cgroup(c);
    rc = workers_start(&c->workers, THREADS_MAX, err);
    berths_init(&c->berths, &c->run, c->registry, c->workers);
    if (rc == 0)
        rc = monitor_start(c, &c->monitor, err);
    if (rc == 0)
        rc = durable_open(c, err);
    if (rc == 0)
        rc = adopt_all(c, &adoption, err);
    if (rc == 0)
        durable_scan(c);
    if (rc == 0)
        rc = workspaces_open(c, err);
    if (rc == 0)
        count_orphans(&adoption);
    if (rc == 0 &&
        adoption.sandboxes + adoption.snapshots + adoption.reaped + adoption.undone + adoption.litter + adoption.silent)
        log_info("adopted %u sandboxes and %u snapshots; removed %u dead, %u half-made, %u directories; left %u alone",
                 adoption.sandboxes, adoption.snapshots, adoption.reaped, adoption.undone, adoption.litter,
                 adoption.silent);
    return rc;
}

/* --kill-on-exit, SIGUSR1 */
static void kill_all(struct controller *c)
{
    struct err err;
    struct sandbox **boxes = fleet_sandboxes(&c->fleet, false);
    for (struct sandbox **b = boxes; b && *b; b++)
        if (sandbox_kill(c, (*b)->vmm.id, &err) < 0)
            log_error("%s", err.text);
    fleet_sandboxes_release(&c->fleet, boxes);
    struct snapshot **snapshots = fleet_snapshots(&c->fleet, false);
    for (struct snapshot **s = snapshots; s && *s; s++)
        snapshot_unload(c, *s);
    fleet_snapshots_release(&c->fleet, snapshots);
    /* Hidden snapshots go a moment after their last child. */
    if (!fleet_await_empty(&c->fleet, DRAIN_SECS))
        log_error("something does not end; the next controller on this state will deal with it");
}

static void close_controller(struct controller *c)
{
    monitor_stop(c->monitor);
    durable_stop(c);
    workers_stop(c->workers);
    berths_close(&c->berths);
    workspaces_close(c->workspaces);
    fleet_destroy(&c->fleet);
    registry_close(c->registry);
    fd_close(&c->root);
    fd_close(&c->cgroup);
    rundir_close(&c->run);
}

/* The audit log: the default place may be closed to this user, one that was asked for must work. */
static int open_audit(const struct options *o, struct audit **audit, struct err *err)
{
    int rc = o->audit_log_chosen || geteuid() == 0 ? parents_make(o->audit_log, err) : 0;
    if (rc == 0)
        rc = audit_open(o->audit_log, audit, err);
    if (rc < 0 && !o->audit_log_chosen) {
        log_warn("%s; going on without an audit log", err->text);
        return 0;
    }
    return rc;
}

static int open_http(struct controller *c, const struct options *o, struct auth *auth, struct audit *audit,
                     struct http **http, struct err *err)
{
    bool loopback;
    struct http_config config = {
        .auth = auth, .audit = audit, .tls = o->tls_cert != NULL, .request_secs = o->request_secs};
    if (config.tls && tls_open(o->tls_cert, o->tls_key, err) < 0)
        return -err->code;
    own_fd int fd = http_listen(o->bind, &loopback, &config.over_unix, err);
    if (fd < 0)
        return fd;
    if (!loopback && !auth)
        return err_say(err, EINVAL, "--bind %s is open to others than this host: it needs a --token-file", o->bind);
    config.listen_fd = fd;
    int rc = http_start(c, &config, http, err);
    if (rc == 0)
        steal_fd(&fd);
    return rc;
}

static void read_anew(struct auth *auth, struct audit *audit)
{
    struct err err;
    if (audit_reopen(audit, &err) < 0)
        log_error("%s", err.text);
    if (auth_reload(auth, &err) < 0)
        log_error("%s; the tokens of before stay in force", err.text);
    if (tls_reload(&err) < 0)
        log_error("%s; the certificate of before stays in use", err.text);
}

/* Returns the signal that ends this controller. */
static int wait_for_end(const sigset_t *awaited, struct auth *auth, struct audit *audit, struct http *http)
{
    const struct timespec period = {.tv_sec = SWEEP_SECS};
    for (;;) {
        int signal = sigtimedwait(awaited, NULL, &period);
        if (signal == SIGHUP)
            read_anew(auth, audit);
        else if (signal > 0)
            return signal;
        http_sweep(http);
    }
}

static void tell_ready(int fd)
{
    if (fd < 0)
        return;
    if (write(fd, "", 1) != 1)
        log_warn("--ready-fd: %s", strerrordesc_np(errno));
    close(fd);
}

static int serve(const struct options *o, const sigset_t *awaited, struct err *err)
{
    struct controller c = {.run = {.fd = -1, .shelf_fd = -1}, .cgroup = -1, .root = -1};
    struct auth *auth = NULL;
    struct audit *audit = NULL;
    struct http *http = NULL;
    fleet_init(&c.fleet);
    int rc = auth_open(o->token_file, &auth, err);
    if (rc == 0)
        rc = open_audit(o, &audit, err);
    if (rc == 0)
        rc = open_controller(&c, o, err);
    if (rc == 0)
        rc = open_http(&c, o, auth, audit, &http, err);
    if (rc == 0) {
        log_info("listening on %s", o->bind);
        tell_ready(o->ready_fd);
        notify_ready();
        bool everything = wait_for_end(awaited, auth, audit, http) == SIGUSR1 || o->kill_on_exit;
        unsigned left = http_drain(http, DRAIN_SECS);
        if (left) {
            durable_stop(&c); /* the next controller writes what they wait for */
            left = http_drain(http, STOPPED_SECS);
        }
        if (left) {
            /* Their threads hold what would be torn down here; the registry tells the next controller. */
            log_warn("%u requests were not done after %d seconds", left, DRAIN_SECS);
            _exit(1);
        }
        if (everything)
            kill_all(&c);
        http_stop(http);
    }
    if (!strncmp(o->bind, "unix:", 5) && rc == 0)
        unlink(o->bind + 5);
    close_controller(&c);
    tls_close();
    audit_close(audit);
    auth_close(auth);
    return rc;
}

int main(int argc, char **argv)
{
    struct err err;
    struct options options;
    sigset_t awaited;
    log_init(getenv("FORKD_DEBUG") ? LOG_DEBUG : LOG_INFO, "controller");
    switch (options_parse(argc, argv, &options, &err)) {
    case OPTIONS_DONE:
        return 0;
    case OPTIONS_WRONG:
        log_error("%s", err.text);
        return 2;
    case OPTIONS_SERVE:
        break;
    }
    raise_limits();
    prepare_signals(&awaited);
    if (serve(&options, &awaited, &err) < 0) {
        log_error("%s", err.text);
        return 1;
    }
    return 0;
}
