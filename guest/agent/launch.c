/* launch.c: see launch.h.
 *
 * By vfork(2) and not posix_spawn(3), which sets every signal there is: some seventy system calls for each start. The
 * child shares our memory until it is another program, and our stack; it calls the system and nothing else. No handler
 * can run in it: the agent has none. */
#include "launch.h"

#include "base/own.h"
#include "strv.h"

#include <fcntl.h>
#include <limits.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

/* Looks a program up as execvp(3) would, in the PATH the command gets. The reason why none was found is the most
 * telling one: a file that is there but may not be run. */
static int program_find(const char *name, char *const *env, int cwd, char *path, size_t cap, struct err *err)
{
    if (strchr(name, '/')) {
        if ((size_t)snprintf(path, cap, "%s", name) >= cap)
            return err_say(err, ENAMETOOLONG, "%.64s...: the name is too long", name);
        return 0;
    }
    const char *dirs = strv_env_get(env, "PATH");
    int code = ENOENT;
    for (const char *dir = dirs ? dirs : "/usr/bin:/bin"; *name;) {
        size_t len = strcspn(dir, ":");
        int n = snprintf(path, cap, "%.*s/%s", len ? (int)len : 1, len ? dir : ".", name);
        if ((size_t)n < cap) {
            struct stat st;
            if (faccessat(cwd, path, X_OK, AT_EACCESS) == 0 && fstatat(cwd, path, &st, 0) == 0 && S_ISREG(st.st_mode))
                return 0;
            if (errno == EACCES)
                code = EACCES;
        }
        if (!dir[len])
            break;
        dir += len + 1;
    }
    return code == ENOENT ? err_say(err, ENOENT, "%s: command not found", name) : err_set(err, code, "%s", name);
}

/* ENOENT is kept for a program that is not there. */
static int directory_open(const char *dir, struct err *err)
{
    int fd = open(dir, O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0 && errno == ENOENT)
        return err_say(err, ENOTDIR, "there is no working directory %s", dir);
    return fd < 0 ? err_set(err, errno, "the working directory %s", dir) : fd;
}

/* Handlers end with exec, what is ignored stays so: the signals that have to be set. */
static const sigset_t *signals_ignored(void)
{
    static sigset_t ignored;
    static bool known;
    struct sigaction action;
    if (known)
        return &ignored;
    sigemptyset(&ignored);
    for (int i = 1; i < NSIG; i++)
        if (sigaction(i, NULL, &action) == 0 && action.sa_handler == SIG_IGN)
            sigaddset(&ignored, i);
    known = true;
    return &ignored;
}

static bool fds_place(const struct launch *launch)
{
    for (size_t i = 0; i < launch->fd_count; i++) {
        int fd = launch->fds[i], to = (int)i;
        if (fd == to ? fcntl(fd, F_SETFD, 0) < 0 : dup2(fd, to) < 0)
            return false;
    }
    return true;
}

/* In the child. Returns when it could not become the program; errno says why. */
static void become(const struct launch *launch, const char *path, int cwd, const sigset_t *ignored)
{
    const sigset_t none = {0};
    const struct sigaction initial = {.sa_handler = SIG_DFL};
    for (int i = 1; i < NSIG; i++)
        if (sigismember(ignored, i) == 1)
            sigaction(i, &initial, NULL);
    setsid();
    if (!fds_place(launch) || fchdir(cwd) < 0)
        return;
    sigprocmask(SIG_SETMASK, launch->blocked ? launch->blocked : &none, NULL);
    execve(path, launch->argv, launch->env);
}

int launch_process(const struct launch *launch, pid_t *pid, struct err *err)
{
    static volatile int code; /* the child's errno: it has our memory */
    own_fd int cwd = directory_open(launch->cwd && *launch->cwd ? launch->cwd : "/", err);
    if (cwd < 0)
        return cwd;
    char path[PATH_MAX];
    int rc = program_find(launch->argv[0], launch->env, cwd, path, sizeof path, err);
    if (rc < 0)
        return rc;
    const sigset_t *ignored = signals_ignored();
    code = 0;
    *pid = vfork();
    if (*pid == 0) {
        become(launch, path, cwd, ignored);
        code = errno;
        _exit(127);
    }
    if (*pid < 0)
        return err_set(err, errno, "%s", launch->argv[0]);
    if (!code)
        return 0;
    waitpid(*pid, NULL, 0);
    return err_set(err, code, "%s", launch->argv[0]);
}
