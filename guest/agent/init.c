/* init.c: see init.h. */
#include "init.h"

#include "base/clock.h"
#include "base/io.h"
#include "base/log.h"
#include "base/own.h"

#include <fcntl.h>
#include <net/if.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>

enum { OPEN_FILES_MAX = 1 << 20, OPEN_FILES = 1024 };

#define PLAIN (MS_NOSUID | MS_NODEV | MS_NOEXEC)

static const struct {
    const char *type, *at, *options;
    unsigned long flags;
    bool essential;
} mounts[] = {
    {"proc", "/proc", NULL, PLAIN, true}, /* the agent finds processes there */
    {"sysfs", "/sys", NULL, PLAIN, false},
    {"devtmpfs", "/dev", "mode=0755", MS_NOSUID, true},
    {"devpts", "/dev/pts", "gid=5,mode=620,ptmxmode=666", MS_NOSUID | MS_NOEXEC, false},
    {"tmpfs", "/dev/shm", "mode=1777", MS_NOSUID | MS_NODEV, false},
    {"tmpfs", "/run", "mode=0755", MS_NOSUID | MS_NODEV, true}, /* a fork's id and token lie there */
    {"tmpfs", "/tmp", "mode=1777", MS_NOSUID | MS_NODEV, false},
    {"cgroup2", "/sys/fs/cgroup", NULL, PLAIN, false},
};

static const char *const links[][2] = {
    {"/proc/self/fd", "/dev/fd"},
    {"/proc/self/fd/0", "/dev/stdin"},
    {"/proc/self/fd/1", "/dev/stdout"},
    {"/proc/self/fd/2", "/dev/stderr"},
};

void init_panic(const char *fmt, ...)
{
    char line[ERR_TEXT_MAX + 16];
    va_list args;
    va_start(args, fmt);
    int n = vsnprintf(line, sizeof line - 1, fmt, args);
    va_end(args);
    n = n < (int)sizeof line - 2 ? n : (int)sizeof line - 2;
    line[n] = '\n';
    ssize_t written = write(STDERR_FILENO, line, (size_t)n + 1);
    (void)written; /* there is nowhere else to complain */
    sync();
    reboot(RB_POWER_OFF);
    for (;;)
        pause(); /* a machine that cannot be switched off is left to its host */
}

/* A file system is mounted at a directory whose device is not its parent's. */
static bool is_mounted(const char *path)
{
    char parent[64];
    struct stat here, above;
    snprintf(parent, sizeof parent, "%s/..", path);
    return stat(path, &here) == 0 && stat(parent, &above) == 0 && here.st_dev != above.st_dev;
}

static int init_mount(struct err *err)
{
    for (size_t i = 0; i < sizeof mounts / sizeof *mounts; i++) {
        if (is_mounted(mounts[i].at))
            continue;
        mkdir(mounts[i].at, 0755);
        if (mount(mounts[i].type, mounts[i].at, mounts[i].type, mounts[i].flags, mounts[i].options) == 0)
            continue;
        if (mounts[i].essential)
            return err_set(err, errno, "mount %s at %s", mounts[i].type, mounts[i].at);
        log_warn("mount %s at %s: %s", mounts[i].type, mounts[i].at, strerrordesc_np(errno));
    }
    for (size_t i = 0; i < sizeof links / sizeof *links; i++)
        if (symlink(links[i][0], links[i][1]) < 0 && errno != EEXIST)
            log_warn("link %s: %s", links[i][1], strerrordesc_np(errno));
    return 0;
}

static void init_console(void)
{
    int fd = open("/dev/console", O_RDWR | O_NOCTTY | O_CLOEXEC);
    if (fd < 0)
        return;
    for (int i = 0; i < 3; i++)
        dup2(fd, i);
    if (fd > 2)
        close(fd);
}

static void init_loopback(void)
{
    own_fd int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    struct ifreq request = {.ifr_name = "lo"};
    if (fd < 0 || ioctl(fd, SIOCGIFFLAGS, &request) < 0)
        return; /* a kernel without networking */
    request.ifr_flags = (short)(request.ifr_flags | IFF_UP);
    if (ioctl(fd, SIOCSIFFLAGS, &request) < 0)
        log_warn("bring up lo: %s", strerrordesc_np(errno));
}

static void init_hostname(void)
{
    char name[65];
    if (io_read_text(AT_FDCWD, "/etc/hostname", name, sizeof name, NULL) <= 0)
        strcpy(name, "forkd");
    name[strcspn(name, " \t\r\n")] = 0;
    if (sethostname(name, strlen(name)) < 0)
        log_warn("set the host name: %s", strerrordesc_np(errno));
}

static void init_limits(void)
{
    struct rlimit core = {0, RLIM_INFINITY}, files = {OPEN_FILES, OPEN_FILES_MAX};
    setrlimit(RLIMIT_CORE, &core);
    if (setrlimit(RLIMIT_NOFILE, &files) == 0)
        return;
    getrlimit(RLIMIT_NOFILE, &files); /* the hard limit is what a container allows */
    files.rlim_cur = files.rlim_max < OPEN_FILES ? files.rlim_max : OPEN_FILES;
    setrlimit(RLIMIT_NOFILE, &files);
}

int init_setup(const struct effects *effects, struct err *err)
{
    reboot(RB_DISABLE_CAD); /* the three keys become SIGINT, which is answered like SHUTDOWN */
    setsid();
    umask(022);
    int rc = init_mount(err);
    if (rc < 0)
        return rc;
    if (!effects->test_root)
        init_console();
    init_loopback();
    init_hostname();
    init_limits();
    return 0;
}

/* Reaps until no process is left or the time is over. */
static void init_wait_for_processes(uint64_t for_ns)
{
    uint64_t deadline = clock_monotonic_ns() + for_ns;
    sigset_t child;
    sigemptyset(&child);
    sigaddset(&child, SIGCHLD);
    for (;;) {
        pid_t pid = waitpid(-1, NULL, WNOHANG);
        if (pid > 0)
            continue;
        uint64_t now = clock_monotonic_ns();
        if (pid < 0 || now >= deadline)
            return;
        struct timespec left = {(time_t)((deadline - now) / NS_PER_SEC), (long)((deadline - now) % NS_PER_SEC)};
        sigtimedwait(&child, NULL, &left);
    }
}

void init_end_processes(void)
{
    kill(-1, SIGTERM);
    init_wait_for_processes(1 * NS_PER_SEC);
    kill(-1, SIGKILL);
    init_wait_for_processes(1 * NS_PER_SEC);
    sync();
    mount(NULL, "/", NULL, MS_REMOUNT | MS_RDONLY, NULL);
}
