/* main.c: forkd-agent: options, the listening socket, the doorbell, the end.
 *
 * As pid 1 it is the guest's init and never exits: what it cannot do without is said on the console and the guest
 * powers off. Otherwise it is an ordinary daemon that the guest's own init starts. */
#include "agent.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/own.h"
#include "child.h"
#include "conn.h"
#include "init.h"
#include "proto/agent.h"
#include "strv.h"
#include "warm.h"

#include <fcntl.h>
#include <getopt.h>
#include <limits.h>
#include <linux/vm_sockets.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>

#define STOP_WAIT_NS (1 * NS_PER_SEC)

static const char usage[] =
    "usage: forkd-agent [--listen vsock:PORT|unix:PATH] [--python PROGRAM] [--helper FILE] [--test-root DIR]\n"
    "Answers the host of a forkd sandbox; as pid 1 it is the guest's init.\n"
    "  --listen     where (default vsock:52)\n"
    "  --python     the interpreter kept warm (default python3, found in PATH)\n"
    "  --helper     what it runs (default forkd-warm.py beside this program)\n"
    "  --test-root  record under DIR what would change this machine: host name, clock, entropy, power\n";

static void stop_now(struct loop_timer *timer)
{
    struct agent *agent = list_entry(timer, struct agent, stop_timer);
    warm_stop(agent->warm);
    if (agent->is_init)
        init_end_processes();
    if (agent->is_init || agent->power_off)
        effects_poweroff(&agent->effects);
    loop_stop(&agent->loop);
}

void agent_stop(struct agent *agent, bool power_off)
{
    agent->power_off = agent->power_off || power_off;
    if (agent->stopping)
        return;
    agent->stopping = true;
    loop_timer_set(&agent->loop, &agent->stop_timer, clock_monotonic_ns() + STOP_WAIT_NS);
    agent_conn_closed(agent);
}

void agent_conn_closed(struct agent *agent)
{
    if (agent->stopping && !agent->conn_count)
        loop_timer_set(&agent->loop, &agent->stop_timer, clock_monotonic_ns());
}

/* Only the host may ask: a process of the guest could come over vsock's loopback, as a test does. */
static bool peer_is_host(const struct agent *agent, const struct sockaddr_storage *peer)
{
    struct sockaddr_vm vm;
    if (peer->ss_family != AF_VSOCK || agent->effects.test_root)
        return true;
    memcpy(&vm, peer, sizeof vm);
    return vm.svm_cid == VMADDR_CID_HOST;
}

static void listener_ready(struct loop_source *source, uint32_t events)
{
    struct agent *agent = list_entry(source, struct agent, listener);
    struct sockaddr_storage peer = {0};
    socklen_t len = sizeof peer;
    int fd = accept4(agent->listen_fd, (struct sockaddr *)&peer, &len, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (fd < 0)
        return;
    if (peer_is_host(agent, &peer))
        conn_open(agent, fd);
    else
        close(fd);
}

static int listen_at(const struct sockaddr *addr, socklen_t len, struct err *err)
{
    own_fd int fd = socket(addr->sa_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return err_set(err, errno, addr->sa_family == AF_VSOCK ? "no virtio-vsock in this guest" : "make a socket");
    if (bind(fd, addr, len) < 0 || listen(fd, SOMAXCONN) < 0)
        return err_set(err, errno, "listen");
    return steal_fd(&fd);
}

static int listen_vsock(unsigned port, struct err *err)
{
    struct sockaddr_vm addr = {.svm_family = AF_VSOCK, .svm_cid = VMADDR_CID_ANY, .svm_port = port};
    return listen_at((struct sockaddr *)&addr, sizeof addr, err);
}

static int listen_unix(const char *path, struct err *err)
{
    struct sockaddr_un addr = {.sun_family = AF_UNIX};
    size_t len = strlen(path);
    if (len >= sizeof addr.sun_path)
        return err_say(err, ENAMETOOLONG, "%s: the path is too long for a socket", path);
    memcpy(addr.sun_path, path, len);
    return listen_at((struct sockaddr *)&addr, sizeof addr, err);
}

static void doorbell_answered(struct loop_source *source, uint32_t events)
{
    struct agent *agent = list_entry(source, struct agent, doorbell);
    loop_remove(&agent->loop, source);
    fd_close(&agent->doorbell_fd);
}

/* Tells the host that we listen. It refuses, as expected, and nobody waits for that; the socket is kept until then,
 * since closing it could take the attempt back. */
static void doorbell_ring(struct agent *agent)
{
    struct sockaddr_vm host = {.svm_family = AF_VSOCK, .svm_cid = VMADDR_CID_HOST, .svm_port = AGENT_DOORBELL_PORT};
    agent->doorbell_fd = socket(AF_VSOCK, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    agent->doorbell.fn = doorbell_answered;
    if (agent->doorbell_fd < 0)
        return;
    if (connect(agent->doorbell_fd, (struct sockaddr *)&host, sizeof host) == 0 || errno != EINPROGRESS ||
        loop_add(&agent->loop, &agent->doorbell, agent->doorbell_fd, EPOLLOUT, NULL) < 0)
        fd_close(&agent->doorbell_fd);
}

static int agent_listen(struct agent *agent, const char *where, struct err *err)
{
    char *end = NULL;
    unsigned long port = strncmp(where, "vsock:", 6) == 0 ? strtoul(where + 6, &end, 10) : 0;
    bool vsock = end && end != where + 6 && !*end && port < UINT32_MAX;
    if (vsock)
        agent->listen_fd = listen_vsock((unsigned)port, err);
    else if (strncmp(where, "unix:", 5) == 0)
        agent->listen_fd = listen_unix(where + 5, err);
    else
        return err_say(err, EINVAL, "--listen takes vsock:PORT or unix:PATH, not %s", where);
    if (agent->listen_fd < 0)
        return agent->listen_fd;
    agent->listener.fn = listener_ready;
    int rc = loop_add(&agent->loop, &agent->listener, agent->listen_fd, EPOLLIN, err);
    if (rc == 0 && vsock)
        doorbell_ring(agent);
    return rc;
}

/* What is started inherits these unless its request says otherwise. */
static int agent_environment(struct agent *agent, struct err *err)
{
    static const char *const defaults[] = {"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
                                           "HOME=/root", "LANG=C.UTF-8", "USER=root", "SHELL=/bin/sh"};
    uint8_t bytes[512];
    struct pack p = pack_into(bytes, sizeof bytes);
    struct agent_list missing = {.at = bytes};
    char *none = NULL;
    char **base = agent->is_init ? &none : environ; /* the kernel gives pid 1 what stood on its command line */
    for (size_t i = 0; i < sizeof defaults / sizeof *defaults; i++) {
        char name[16];
        snprintf(name, sizeof name, "%.*s", (int)strcspn(defaults[i], "="), defaults[i]);
        if (strv_env_get(base, name))
            continue;
        pack_str(&p, defaults[i]);
        missing.count++;
    }
    missing.len = p.len;
    agent->env = strv_env(base, missing, NULL);
    return agent->env ? 0 : err_set(err, ENOMEM, "prepare the environment");
}

/* The helper lies beside this program. */
static int helper_path(char *path, size_t cap, struct err *err)
{
    char self[PATH_MAX];
    ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);
    if (n < 0)
        return err_set(err, errno, "find this program");
    self[n] = 0;
    *strrchr(self, '/') = 0;
    if ((size_t)snprintf(path, cap, "%s/forkd-warm.py", self) >= cap)
        return err_say(err, ENAMETOOLONG, "the path of this program is too long");
    return 0;
}

/* Descriptors 0 to 2 are not for sockets, whoever started us with how few. */
static void descriptors_reserve(void)
{
    int fd;
    do
        fd = open("/dev/null", O_RDWR | O_CLOEXEC);
    while (fd >= 0 && fd <= 2);
    fd_close(&fd);
}

static int agent_setup(struct agent *agent, const char *where, struct warm_options *warm, struct err *err)
{
    static char helper[PATH_MAX + 16];
    int rc = agent->is_init ? init_setup(&agent->effects, err) : 0;
    descriptors_reserve();
    signal(SIGPIPE, SIG_IGN);
    if (!agent->is_init)
        prctl(PR_SET_CHILD_SUBREAPER, 1);
    if (rc == 0 && !warm->helper) {
        rc = helper_path(helper, sizeof helper, err);
        warm->helper = helper;
    }
    if (rc == 0)
        rc = agent_environment(agent, err);
    if (rc == 0)
        rc = loop_init(&agent->loop, err);
    if (rc == 0)
        rc = children_init(agent, err);
    if (rc == 0)
        rc = warm_init(agent, warm, err);
    return rc == 0 ? agent_listen(agent, where, err) : rc;
}

/* -1 to go on, or an exit status. Pid 1 gets the words of the kernel's command line that the kernel does not know: it
 * takes its options from them (they stand after "--" there) and leaves the rest alone. */
static int options_read(int argc, char **argv, struct agent *agent, const char **where, struct warm_options *warm)
{
    static const struct option options[] = {
        {"listen", required_argument, NULL, 'l'}, {"python", required_argument, NULL, 'p'},
        {"helper", required_argument, NULL, 'h'}, {"test-root", required_argument, NULL, 't'},
        {"version", no_argument, NULL, 'v'},      {0}};
    opterr = !agent->is_init;
    for (int opt; (opt = getopt_long(argc, argv, "", options, NULL)) != -1;) {
        if (opt == 'l')
            *where = optarg;
        else if (opt == 'p')
            warm->python = optarg;
        else if (opt == 'h')
            warm->helper = optarg;
        else if (opt == 't')
            agent->effects.test_root = optarg;
        else if (opt == 'v')
            return puts("forkd-agent " FORKD_VERSION), 0;
        else if (!agent->is_init)
            return 2;
    }
    return optind == argc || agent->is_init ? -1 : 2;
}

int main(int argc, char **argv)
{
    static struct agent agent = {
        .loop = LOOP_EMPTY, .listen_fd = -1, .listener = {.fd = -1}, .doorbell_fd = -1, .doorbell = {.fd = -1}};
    struct warm_options warm = {0};
    struct err err = {0};
    const char *where = "vsock:52";
    agent.is_init = getpid() == 1;
    agent.stop_timer.fn = stop_now;
    list_init(&agent.conns);
    list_init(&agent.sinks);
    log_init(LOG_INFO, "forkd-agent");
    int rc = options_read(argc, argv, &agent, &where, &warm);
    if (rc >= 0) {
        if (rc == 2)
            fputs(usage, stderr);
        return rc;
    }
    rc = agent_setup(&agent, where, &warm, &err);
    if (rc == 0)
        rc = loop_run(&agent.loop, &err);
    if (agent.is_init)
        init_panic("forkd: the agent cannot go on: %s", rc < 0 ? err.text : "it could not power off");
    if (rc < 0)
        log_error("%s", err.text);
    return rc < 0 ? 1 : 0;
}
