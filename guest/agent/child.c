/* child.c: see child.h. */
#include "child.h"

#include "base/io.h"
#include "base/own.h"

#include <ctype.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/wait.h>

enum {
    KILL_PASSES = 8,       /* a process may fork while it is being looked for */
    PROCESSES_MAX = 32768, /* of one look */
};

static void children_reap(struct agent *agent)
{
    int status;
    pid_t pid;
    while ((pid = waitpid(-1, &status, WNOHANG)) > 0) {
        list_for_each_safe (n, &agent->children) {
            struct child *child = list_entry(n, struct child, link);
            if (child->pid != pid)
                continue;
            list_remove(n);
            child->pid = 0;
            child->ended(child, status);
            break;
        }
    }
}

static void child_signalled(struct loop_source *source, uint32_t events)
{
    struct agent *agent = list_entry(source, struct agent, child_signals);
    struct signalfd_siginfo info;
    bool children = false;
    while (read(agent->child_fd, &info, sizeof info) == sizeof info) {
        if (info.ssi_signo == SIGCHLD)
            children = true;
        else
            agent_stop(agent, false);
    }
    if (children)
        children_reap(agent);
}

int children_init(struct agent *agent, struct err *err)
{
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGCHLD);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    list_init(&agent->children);
    sigprocmask(SIG_BLOCK, &set, NULL);
    agent->child_fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    if (agent->child_fd < 0)
        return err_set(err, errno, "signalfd");
    agent->child_signals.fn = child_signalled;
    return loop_add(&agent->loop, &agent->child_signals, agent->child_fd, EPOLLIN, err);
}

void child_watch(struct agent *agent, struct child *child, pid_t pid)
{
    child->pid = pid;
    list_append(&agent->children, &child->link);
}

void child_mark(struct agent *agent, const char *kind, char mark[CHILD_MARK_MAX])
{
    snprintf(mark, CHILD_MARK_MAX, "FORKD_EXEC=%s%d-%llu", kind, getpid(), (unsigned long long)++agent->command_serial);
}

/* One process as /proc/PID/stat tells it. */
struct process {
    pid_t pid, parent, session;
    bool doomed;
};

static bool process_read(int proc, pid_t pid, struct process *p)
{
    char path[32], text[512];
    snprintf(path, sizeof path, "%d/stat", pid);
    if (io_read_text(proc, path, text, sizeof text, NULL) <= 0)
        return false;
    /* The name in parentheses may hold anything, parentheses and spaces too: what counts is after the last. */
    char *rest = strrchr(text, ')'), state;
    int group;
    return rest && sscanf(rest + 1, " %c %d %d %d", &state, &p->parent, &group, &p->session) == 4 && state != 'Z' &&
           (p->pid = pid);
}

/* Whether the environment the process was started with holds the mark. Read in overlapping pieces, so that one
 * of any length is searched in bounded memory. */
static bool process_has_mark(int proc, pid_t pid, const char *mark)
{
    char path[32], text[4096];
    size_t len = strlen(mark), kept = 0;
    snprintf(path, sizeof path, "%d/environ", pid);
    own_fd int fd = openat(proc, path, O_RDONLY | O_CLOEXEC);
    for (ssize_t n; fd >= 0 && (n = read(fd, text + kept, sizeof text - kept)) > 0;) {
        size_t have = kept + (size_t)n;
        if (memmem(text, have, mark, len + 1))
            return true;
        kept = have > len ? len : have;
        memmove(text, text + have - kept, kept);
    }
    return false;
}

static size_t processes_read(int proc, DIR *dir, struct process *all)
{
    size_t count = 0;
    rewinddir(dir);
    for (struct dirent *e; count < PROCESSES_MAX && (e = readdir(dir));)
        if (isdigit((unsigned char)e->d_name[0]) && process_read(proc, atoi(e->d_name), &all[count]))
            all[count++].doomed = false;
    return count;
}

static bool process_is_doomed(const struct process *all, size_t count, pid_t pid)
{
    for (size_t i = 0; i < count; i++)
        if (all[i].pid == pid)
            return all[i].doomed;
    return false;
}

/* Marks, then everything below what is marked until nothing more is found; kills; returns how many. */
static size_t doomed_kill(int proc, struct process *all, size_t count, pid_t leader, const char *mark)
{
    size_t killed = 0;
    for (size_t i = 0; i < count; i++)
        all[i].doomed = all[i].pid == leader || all[i].session == leader || process_has_mark(proc, all[i].pid, mark);
    for (bool more = true; more;) {
        more = false;
        for (size_t i = 0; i < count; i++)
            if (!all[i].doomed && process_is_doomed(all, count, all[i].parent))
                more = all[i].doomed = true;
    }
    for (size_t i = 0; i < count; i++)
        if (all[i].doomed && all[i].pid != getpid() && kill(all[i].pid, SIGKILL) == 0)
            killed++;
    return killed;
}

void child_kill_tree(pid_t leader, const char *mark)
{
    own_dir DIR *dir = opendir("/proc");
    own_free struct process *all = calloc(PROCESSES_MAX, sizeof *all);
    bool looked = false;
    for (int pass = 0; dir && all && pass < KILL_PASSES; pass++) {
        looked = true;
        if (!doomed_kill(dirfd(dir), all, processes_read(dirfd(dir), dir, all), leader, mark))
            break;
    }
    if (!looked)
        kill(leader, SIGKILL);
    kill(-leader, SIGKILL);
}

const char *child_signal_name(int number)
{
    const char *name = sigdescr_np(number);
    return name ? name : "a real-time signal";
}
