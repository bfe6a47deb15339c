/* launch.c: see launch.h. */
#include "launch.h"

#include "base/own.h"
#include "strv.h"

#include <fcntl.h>
#include <limits.h>
#include <spawn.h>
#include <string.h>
#include <sys/stat.h>

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

int launch_process(const struct launch *launch, pid_t *pid, struct err *err)
{
    own_fd int cwd = directory_open(launch->cwd && *launch->cwd ? launch->cwd : "/", err);
    if (cwd < 0)
        return cwd;
    char path[PATH_MAX];
    int rc = program_find(launch->argv[0], launch->env, cwd, path, sizeof path, err);
    if (rc < 0)
        return rc;
    posix_spawn_file_actions_t actions;
    posix_spawnattr_t attr;
    sigset_t none, all;
    sigemptyset(&none);
    sigfillset(&all);
    posix_spawn_file_actions_init(&actions);
    posix_spawnattr_init(&attr);
    posix_spawnattr_setsigmask(&attr, launch->blocked ? launch->blocked : &none);
    posix_spawnattr_setsigdefault(&attr, &all);
    posix_spawnattr_setflags(&attr, POSIX_SPAWN_SETSID | POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
    for (size_t i = 0; i < launch->fd_count; i++)
        posix_spawn_file_actions_adddup2(&actions, launch->fds[i], (int)i);
    posix_spawn_file_actions_addfchdir_np(&actions, cwd);
    /* What posix_spawn reports is execve's own error. */
    int code = posix_spawn(pid, path, &actions, &attr, launch->argv, launch->env);
    posix_spawn_file_actions_destroy(&actions);
    posix_spawnattr_destroy(&attr);
    return code ? err_set(err, code, "%s", launch->argv[0]) : 0;
}
