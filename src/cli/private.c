/* private.c: see private.h. */
#include "cli/private.h"

#include "base/own.h"
#include "proto/places.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>

enum { STOP_MS = 120 * 1000, LOG_TAIL = 600 };

struct place {
    char dir[PATH_MAX], state[PATH_MAX];
};

static int place_find(struct place *p, struct err *err)
{
    int rc = place_own_state(p->state, sizeof p->state - sizeof "controller.sock", err);
    if (rc < 0)
        return rc;
    const char *slash = strrchr(p->state, '/');
    if (!slash)
        snprintf(p->dir, sizeof p->dir, ".");
    else if (slash == p->state)
        snprintf(p->dir, sizeof p->dir, "/."); /* "unix:" and "//x" would be x */
    else
        snprintf(p->dir, sizeof p->dir, "%.*s", (int)(slash - p->state), p->state);
    return 0;
}

int private_url(char url[PRIVATE_URL_MAX], struct err *err)
{
    struct place p;
    int rc = place_find(&p, err);
    if (rc == 0)
        snprintf(url, PRIVATE_URL_MAX, "unix:%s/controller.sock", p.dir);
    return rc;
}

void private_snapshots(char *path, size_t cap)
{
    struct place p;
    if (place_find(&p, NULL) == 0)
        snprintf(path, cap, "%s/snapshots", p.dir);
    else
        snprintf(path, cap, "/");
}

static int directory_make(const char *path, struct err *err)
{
    char copy[PATH_MAX + 1];
    snprintf(copy, sizeof copy, "%s/", path);
    for (char *slash = strchr(copy + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
        *slash = 0;
        if (mkdir(copy, 0700) < 0 && errno != EEXIST)
            return err_set(err, errno, "make the directory %s", copy);
        *slash = '/';
    }
    return 0;
}

/* The lock of the directory, held until the descriptor is closed. */
static int lock_take(const struct place *p, struct err *err)
{
    char path[PATH_MAX + 16];
    snprintf(path, sizeof path, "%s/lock", p->dir);
    own_fd int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0)
        return err_set(err, errno, "open %s", path);
    while (flock(fd, LOCK_EX) < 0)
        if (errno != EINTR)
            return err_set(err, errno, "lock %s", path);
    return steal_fd(&fd);
}

/* A connection to it; -1: nobody listens. */
static int reach(const struct place *p)
{
    struct sockaddr_un addr = {.sun_family = AF_UNIX};
    own_fd int dirfd = open(p->dir, O_PATH | O_DIRECTORY | O_CLOEXEC);
    own_fd int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    snprintf(addr.sun_path, sizeof addr.sun_path, "/proc/self/fd/%d/controller.sock", dirfd);
    bool reached = dirfd >= 0 && fd >= 0 && connect(fd, (struct sockaddr *)&addr, sizeof addr) == 0;
    return reached ? steal_fd(&fd) : -1;
}

static bool listens(const struct place *p)
{
    own_fd int fd = reach(p);
    return fd >= 0;
}

int program_find(const char *name, char *path, size_t cap, struct err *err)
{
    static const char *const places[] = {"",   "../libexec/forkd/", "../share/forkd/", "src/controller/", "src/vmm/",
                                         "../"};
    const char *home = getenv("FORKD_HOME");
    if (home && *home && (size_t)snprintf(path, cap, "%s/%s", home, name) < cap && access(path, X_OK) == 0)
        return 0;
    char self[PATH_MAX];
    ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);
    if (n < 0)
        return err_set(err, errno, "readlink /proc/self/exe");
    self[n] = 0;
    *strrchr(self, '/') = 0;
    for (size_t i = 0; i < sizeof places / sizeof *places; i++) {
        int len = snprintf(path, cap, "%s/%s%s", self, places[i], name);
        if ((size_t)len < cap && access(path, X_OK) == 0)
            return 0;
    }
    return err_say(err, ENOENT, "%s is not beside %s; set FORKD_HOME to where it is", name, self);
}

/* The last lines of its log, where a controller that does not start says why. */
static void log_tail(const char *path, off_t from, char *text, size_t cap)
{
    own_fd int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? 0 : pread(fd, text, cap - 1, from);
    text[n > 0 ? n : 0] = 0;
    for (char *c = text; *c; c++)
        if (*c == '\n')
            *c = c[1] ? ';' : 0;
}

static _Noreturn void become_controller(const char *program, const struct place *p, int log, int ready)
{
    char bind[PRIVATE_URL_MAX], audit[PATH_MAX + 16], number[16], snapshots[PATH_MAX + 16];
    snprintf(bind, sizeof bind, "unix:%s/controller.sock", p->dir);
    snprintf(audit, sizeof audit, "%s/audit.log", p->dir);
    snprintf(snapshots, sizeof snapshots, "%s/snapshots", p->dir);
    snprintf(number, sizeof number, "%d", ready);
    setsid();
    int null = open("/dev/null", O_RDONLY);
    if (null < 0 || dup2(null, 0) < 0 || dup2(log, 1) < 0 || dup2(log, 2) < 0 || fcntl(ready, F_SETFD, 0) < 0)
        _exit(126);
    unsetenv("FORKD_TOKEN_FILE");
    const char *root = getenv("FORKD_SNAPSHOT_ROOT");
    execl(program, program, "serve", "--bind", bind, "--state", p->state, "--audit-log", audit, "--snapshot-root",
          root && *root ? root : snapshots, "--ready-fd", number, NULL);
    _exit(127);
}

static int start_locked(const struct place *p, struct err *err)
{
    char program[PATH_MAX], path[PATH_MAX + 32], tail[LOG_TAIL];
    int pipe_ends[2];
    int rc = program_find("forkd-controller", program, sizeof program, err);
    if (rc < 0)
        return rc;
    snprintf(path, sizeof path, "%s/controller.log", p->dir);
    own_fd int log = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    if (log < 0 || pipe2(pipe_ends, O_CLOEXEC) < 0)
        return err_set(err, errno, "open %s", path);
    own_fd int ready = pipe_ends[0], write_end = pipe_ends[1];
    off_t before = lseek(log, 0, SEEK_END);
    pid_t pid = fork();
    if (pid < 0)
        return err_set(err, errno, "fork");
    if (pid == 0)
        become_controller(program, p, log, write_end);
    fd_close(&write_end);
    char byte;
    if (read(ready, &byte, 1) == 1)
        return 0;
    log_tail(path, before, tail, sizeof tail);
    return err_say(err, EIO, "the controller did not start (%s): %.380s", path, tail);
}

int private_start(struct err *err)
{
    struct place p;
    int rc = place_find(&p, err);
    if (rc < 0 || listens(&p))
        return rc;
    rc = directory_make(p.dir, err);
    if (rc < 0)
        return rc;
    own_fd int lock = lock_take(&p, err);
    if (lock < 0)
        return lock;
    return listens(&p) ? 0 : start_locked(&p, err);
}

/* Whoever called listen(2) (unix(7), SO_PEERCRED): one that answers, and no number that somebody wrote down. */
static int process_of(int connection, struct err *err)
{
    struct ucred peer;
    socklen_t len = sizeof peer;
    if (getsockopt(connection, SOL_SOCKET, SO_PEERCRED, &peer, &len) < 0)
        return err_set(err, errno, "ask who the controller is");
    int pidfd = (int)syscall(SYS_pidfd_open, peer.pid, 0);
    return pidfd < 0 ? err_set(err, errno, "find the controller's process") : pidfd;
}

int private_stop(bool everything, struct err *err)
{
    struct place p;
    int rc = place_find(&p, err);
    if (rc < 0 || !listens(&p))
        return rc;
    own_fd int lock = lock_take(&p, err), connection = lock < 0 ? -1 : reach(&p);
    if (lock < 0)
        return lock;
    if (connection < 0)
        return 0; /* it ended meanwhile */
    own_fd int pidfd = process_of(connection, err);
    if (pidfd < 0)
        return err->code == ESRCH ? 0 : pidfd;
    if (syscall(SYS_pidfd_send_signal, pidfd, everything ? SIGUSR1 : SIGTERM, NULL, 0) < 0 && errno != ESRCH)
        return err_set(err, errno, "end the controller");
    fd_close(&connection); /* it waits for no request of ours */
    struct pollfd end = {.fd = pidfd, .events = POLLIN};
    return poll(&end, 1, STOP_MS) > 0 ? 0 : err_say(err, ETIMEDOUT, "the controller does not end; see its log");
}
