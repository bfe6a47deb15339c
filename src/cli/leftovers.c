/* leftovers.c: see leftovers.h. */
#include "cli/leftovers.h"

#include "base/io.h"
#include "base/own.h"
#include "proto/places.h"
#include "sys/cgroup.h"

#include <ctype.h>
#include <fcntl.h>
#include <glob.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <string.h>
#include <sys/file.h>
#include <sys/pidfd.h>
#include <sys/stat.h>
#include <time.h>

enum { GONE_MS = 10 * 1000, STILL_SECS = 60, COMMAND_MAX = 2 * PATH_MAX };

static const char suffix[] = ".run";

const char *leftover_kind_name(enum leftover_kind kind)
{
    static const char *const names[] = {"process", "directory", "cgroup"};
    return names[kind];
}

static int add(struct leftovers *found, enum leftover_kind kind, pid_t pid, const char *path, struct err *err)
{
    for (size_t i = 0; i < found->count; i++)
        if (found->at[i].kind == kind && found->at[i].pid == pid && !strcmp(found->at[i].path, path))
            return 0;
    struct leftover *grown = reallocarray(found->at, found->count + 1, sizeof *grown);
    if (!grown)
        return err_say(err, ENOMEM, "out of memory");
    found->at = grown;
    struct leftover *l = &grown[found->count++];
    *l = (struct leftover){.kind = kind, .pid = pid};
    snprintf(l->path, sizeof l->path, "%s", path);
    return 0;
}

void leftovers_free(struct leftovers *found)
{
    free(found->at);
    *found = (struct leftovers){0};
}

/* ---- run directories and their states ---- */

/* STATE.run without STATE. What cannot be looked at counts as there. */
static bool state_is_missing(const char *run)
{
    char state[PATH_MAX];
    struct stat st;
    size_t len = strlen(run), tail = sizeof suffix - 1;
    if (run[0] != '/' || len <= tail || len >= sizeof state || strcmp(run + len - tail, suffix) != 0)
        return false;
    snprintf(state, sizeof state, "%.*s", (int)(len - tail), run);
    return lstat(state, &st) < 0 && (errno == ENOENT || errno == ENOTDIR);
}

/* The lock that a controller holds while it lives; 0 with *fd -1 where there is no such directory. */
static int run_lock(const char *run, int *fd, struct err *err)
{
    *fd = open(run, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (*fd < 0)
        return errno == ENOENT || errno == ENOTDIR ? 0 : err_set(err, errno, "open %s", run);
    if (flock(*fd, LOCK_EX | LOCK_NB) == 0)
        return 0;
    fd_close(fd);
    return err_say(err, EBUSY, "a controller holds %s", run);
}

static bool belongs_to_nobody(const char *run)
{
    own_fd int fd = -1;
    return state_is_missing(run) && run_lock(run, &fd, NULL) == 0;
}

static bool is_dots(const char *name)
{
    return !strcmp(name, ".") || !strcmp(name, "..");
}

/* What a controller puts into the directory of a VMM, and into its run directory. */
static bool is_seat_file(const char *name)
{
    return !strcmp(name, "ctl") || !strcmp(name, "vsock") || !strcmp(name, "console.log");
}

static bool is_run_entry(const char *name)
{
    return !strcmp(name, "pid") || !strcmp(name, ".ready") || !strncmp(name, "sb-", 3) || !strncmp(name, "tm-", 3) ||
           !strncmp(name, "pa-", 3);
}

/* The directory again, for reading its names; the descriptor stays the caller's. */
static DIR *names_of(int fd)
{
    own_fd int again = openat(fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *dir = again < 0 ? NULL : fdopendir(again);
    if (dir)
        steal_fd(&again);
    return dir;
}

/* Whether it holds nothing but what a controller makes there: a directory of another program may end in .run too. */
static bool is_run_directory(const char *path)
{
    own_fd int fd = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    own_dir DIR *dir = fd < 0 ? NULL : names_of(fd);
    for (struct dirent *e; dir && (e = readdir(dir));)
        if (!is_dots(e->d_name) && !is_run_entry(e->d_name))
            return false;
    return dir != NULL;
}

static int consider_directory(struct leftovers *found, const char *run, struct err *err)
{
    return belongs_to_nobody(run) && is_run_directory(run) ? add(found, LEFTOVER_DIRECTORY, 0, run, err) : 0;
}

/* STATE.run of FORKD_STATE, whose name may have in it what glob() takes for more than itself. */
static int find_chosen(struct leftovers *found, struct err *err)
{
    char state[PATH_MAX], run[PATH_MAX];
    const char *chosen = place_state_chosen();
    if (!chosen || place_state(chosen, state, sizeof state, NULL) < 0)
        return 0;
    own_free char *here = *state == '/' ? NULL : getcwd(NULL, 0);
    int n = snprintf(run, sizeof run, "%s%s%s%s", here ? here : "", here ? "/" : "", state, suffix);
    return (size_t)n < sizeof run ? consider_directory(found, run, err) : 0;
}

static int find_directories(struct leftovers *found, struct err *err)
{
    const char *xdg = getenv("XDG_STATE_HOME"), *home = getenv("HOME");
    char patterns[3][PATH_MAX] = {"/var/lib/forkd/*.run", "/var/lib/forkd/private/*.run"};
    glob_t names = {0};
    if (xdg && *xdg)
        snprintf(patterns[2], PATH_MAX, "%s/forkd/*.run", xdg);
    else if (home && *home)
        snprintf(patterns[2], PATH_MAX, "%s/.local/state/forkd/*.run", home);
    for (int i = 0; i < 3; i++)
        if (*patterns[i])
            glob(patterns[i], GLOB_NOSORT | (names.gl_pathc ? GLOB_APPEND : 0), NULL, &names);
    int rc = find_chosen(found, err);
    for (size_t i = 0; rc == 0 && i < names.gl_pathc; i++)
        rc = consider_directory(found, names.gl_pathv[i], err);
    globfree(&names);
    return rc;
}

static void seat_clear(int run, const char *name)
{
    own_fd int fd = openat(run, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    own_dir DIR *dir = fd < 0 ? NULL : names_of(fd);
    for (struct dirent *e; dir && (e = readdir(dir));) {
        if (is_seat_file(e->d_name))
            unlinkat(fd, e->d_name, 0);
        else if (!is_dots(e->d_name) && !strcmp(name, ".ready") && is_run_entry(e->d_name))
            seat_clear(fd, e->d_name);
    }
    unlinkat(run, name, AT_REMOVEDIR);
}

static int directory_remove(const char *run, struct err *err)
{
    own_fd int fd = -1;
    int rc = run_lock(run, &fd, err);
    if (rc < 0 || fd < 0)
        return rc;
    if (!state_is_missing(run))
        return err_say(err, EBUSY, "the state of %s is there again", run);
    own_dir DIR *dir = names_of(fd);
    for (struct dirent *e; dir && (e = readdir(dir));) {
        if (!strcmp(e->d_name, "pid"))
            unlinkat(fd, e->d_name, 0);
        else if (is_run_entry(e->d_name))
            seat_clear(fd, e->d_name);
    }
    return rmdir(run) < 0 && errno != ENOENT ? err_set(err, errno, "remove %s", run) : 0;
}

/* ---- processes ---- */

/* The run directory that a VMM's command line names: "…/forkd-vmm --ctl N --run DIR". */
static bool process_run(int pid_dir, char run[PATH_MAX])
{
    char words[COMMAND_MAX];
    own_fd int fd = openat(pid_dir, "cmdline", O_RDONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? -1 : read(fd, words, sizeof words - 1);
    if (n <= 0)
        return false;
    words[n] = 0;
    const char *word[5] = {words}, *end = words + n;
    for (int i = 1; i < 5; i++) {
        word[i] = word[i - 1] + strlen(word[i - 1]) + 1;
        if (word[i] >= end)
            return false;
    }
    const char *slash = strrchr(word[0], '/'), *name = slash ? slash + 1 : word[0];
    if (strcmp(name, "forkd-vmm") != 0 || strcmp(word[1], "--ctl") != 0 || strcmp(word[3], "--run") != 0)
        return false;
    return (size_t)snprintf(run, PATH_MAX, "%s", word[4]) < PATH_MAX;
}

static bool pid_run(pid_t pid, char run[PATH_MAX])
{
    char path[32];
    snprintf(path, sizeof path, "/proc/%d", (int)pid);
    own_fd int dir = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    return dir >= 0 && process_run(dir, run);
}

static int find_processes(struct leftovers *found, struct err *err)
{
    char run[PATH_MAX];
    own_dir DIR *proc = opendir("/proc");
    if (!proc)
        return err_set(err, errno, "open /proc");
    for (struct dirent *e; (e = readdir(proc));) {
        pid_t pid = isdigit((unsigned char)*e->d_name) ? (pid_t)strtol(e->d_name, NULL, 10) : 0;
        if (!pid || !pid_run(pid, run) || !belongs_to_nobody(run))
            continue;
        int rc = add(found, LEFTOVER_PROCESS, pid, run, err);
        if (rc < 0)
            return rc;
    }
    return 0;
}

static int process_end(const struct leftover *l, struct err *err)
{
    char run[PATH_MAX];
    own_fd int pidfd = pidfd_open(l->pid, 0);
    if (pidfd < 0)
        return errno == ESRCH ? 0 : err_set(err, errno, "open process %d", (int)l->pid);
    /* From here the descriptor is of one process; whether it is the one that was found is seen now. */
    if (!pid_run(l->pid, run) || strcmp(run, l->path) != 0)
        return 0;
    if (!belongs_to_nobody(run))
        return err_say(err, EBUSY, "the state of %s is there again", run);
    if (pidfd_send_signal(pidfd, SIGKILL, NULL, 0) < 0 && errno != ESRCH)
        return err_set(err, errno, "end process %d", (int)l->pid);
    struct pollfd p = {.fd = pidfd, .events = POLLIN};
    int n;
    while ((n = poll(&p, 1, GONE_MS)) < 0 && errno == EINTR)
        ;
    return n == 1 ? 0 : err_say(err, ETIMEDOUT, "process %d was killed and does not end", (int)l->pid);
}

/* ---- cgroups ---- */

/* Nothing lives in it, and its list of processes was not touched for a minute: none is being made in it. */
static bool tree_is_dead(int base, const char *name)
{
    struct stat st;
    bool populated = true;
    own_fd int tree = openat(base, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    return tree >= 0 && cgroup_is_populated(tree, &populated, NULL) == 0 && !populated && fstat(tree, &st) == 0 &&
           time(NULL) - st.st_mtime > STILL_SECS;
}

static int find_cgroups(struct leftovers *found, struct err *err)
{
    own_fd int base = cgroup_base_open(NULL);
    own_dir DIR *dir = base < 0 ? NULL : names_of(base);
    for (struct dirent *e; dir && (e = readdir(dir));) {
        if (strncmp(e->d_name, "tm-", 3) != 0 || !tree_is_dead(base, e->d_name))
            continue;
        int rc = add(found, LEFTOVER_CGROUP, 0, e->d_name, err);
        if (rc < 0)
            return rc;
    }
    return 0;
}

static int cgroup_clear(const char *name, struct err *err)
{
    own_fd int base = cgroup_base_open(err), tree = -1;
    if (base < 0)
        return base;
    tree = openat(base, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (tree < 0)
        return errno == ENOENT ? 0 : err_set(err, errno, "open the cgroup %s", name);
    own_dir DIR *dir = names_of(tree);
    for (struct dirent *e; dir && (e = readdir(dir));)
        if (e->d_type == DT_DIR && !is_dots(e->d_name))
            cgroup_remove(tree, e->d_name, NULL); /* one that is busy keeps the tree, which says so */
    return cgroup_remove(base, name, err);
}

int leftovers_find(struct leftovers *found, struct err *err)
{
    *found = (struct leftovers){0};
    int rc = find_processes(found, err);
    for (size_t i = 0, processes = found->count; rc == 0 && i < processes; i++) {
        char run[PATH_MAX]; /* the array may move */
        memcpy(run, found->at[i].path, sizeof run);
        rc = consider_directory(found, run, err);
    }
    if (rc == 0)
        rc = find_directories(found, err);
    return rc < 0 ? rc : find_cgroups(found, err);
}

int leftover_remove(const struct leftover *l, struct err *err)
{
    switch (l->kind) {
    case LEFTOVER_PROCESS:
        return process_end(l, err);
    case LEFTOVER_DIRECTORY:
        return directory_remove(l->path, err);
    case LEFTOVER_CGROUP:
        return cgroup_clear(l->path, err);
    }
    return err_say(err, EINVAL, "this is no leftover");
}
