/* initrd.c: forkd-initrd: /init of the initramfs. Loads the modules the root file system needs, mounts it and hands
 * over to what is to be pid 1 there.
 *
 * Theory of operation, in this order: /proc, /sys and /dev are mounted; the modules named by /modules/order are
 * loaded, one that is missing or fails is named and the next is tried, since the root may do without it; the root
 * device is waited for, by its appearing in /dev; it is mounted, the three file systems move into it, the initramfs
 * is emptied (its memory would be part of every template) and left. What cannot go on says why in one line and
 * powers the machine off: a host sees a console line and an end, never a hang.
 *
 * The kernel's command line says what is wanted:
 *     forkd.root=/dev/vda  forkd.rootfstype=ext4  forkd.rw=1  forkd.init=/usr/lib/forkd/forkd-agent
 * (the values shown are the defaults; forkd.rw=0 mounts read-only; forkd.init=/sbin/init leaves the guest to its own
 * init, which then starts the agent as a service).
 *
 * A console is expensive in an emulated host, so nothing is said when all goes well. */
#include "base/clock.h"
#include "base/io.h"
#include "base/own.h"

#include <fcntl.h>
#include <poll.h>
#include <stdarg.h>
#include <stdbool.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#define AGENT           "/usr/lib/forkd/forkd-agent"
#define NEW_ROOT        "/newroot"
#define DEVICE_WAIT     (30 * NS_PER_SEC)
#define COMPRESSED_FILE 4 /* MODULE_INIT_COMPRESSED_FILE of linux/module.h, since 5.17 */

enum { VALUE_MAX = 256, ORDER_MAX = 16 << 10, COMMAND_LINE_MAX = 4096 };

struct wanted {
    char root[VALUE_MAX], type[VALUE_MAX], init[VALUE_MAX], rw[VALUE_MAX];
};

__attribute__((format(printf, 1, 2))) static void say(const char *fmt, ...)
{
    char line[ERR_TEXT_MAX + 16] = "forkd: ";
    va_list args;
    va_start(args, fmt);
    int n = vsnprintf(line + 7, sizeof line - 8, fmt, args);
    va_end(args);
    size_t len = strnlen(line, sizeof line - 2);
    line[len++] = '\n';
    ssize_t written = n < 0 ? 0 : write(STDERR_FILENO, line, len);
    (void)written; /* there is nowhere else to complain */
}

static _Noreturn void power_off(void)
{
    sync();
    reboot(RB_POWER_OFF);
    for (;;)
        pause(); /* a machine that cannot be switched off is left to its host */
}

static void mount_or_say(const char *type, const char *at)
{
    mkdir(at, 0755);
    if (mount(type, at, type, 0, NULL) < 0 && errno != EBUSY)
        say("mount %s at %s: %s", type, at, strerrordesc_np(errno));
}

static void console_open(void)
{
    int fd = open("/dev/console", O_RDWR | O_NOCTTY);
    if (fd < 0)
        return;
    for (int i = 0; i < 3; i++)
        dup2(fd, i);
    if (fd > 2)
        close(fd);
}

static bool ends_with(const char *s, const char *end)
{
    size_t n = strlen(s), m = strlen(end);
    return n >= m && strcmp(s + n - m, end) == 0;
}

static void module_load(const char *name)
{
    char path[VALUE_MAX + 16];
    snprintf(path, sizeof path, "/modules/%s", name);
    own_fd int fd = open(path, O_RDONLY | O_CLOEXEC);
    int flags = ends_with(name, ".ko") ? 0 : COMPRESSED_FILE;
    if (fd < 0)
        say("module %s is missing: %s", name, strerrordesc_np(errno));
    else if (syscall(SYS_finit_module, fd, "", flags) < 0 && errno != EEXIST)
        say("module %s does not load: %s", name,
            errno == ENOENT ? "it needs a symbol no module before it has" : strerrordesc_np(errno));
}

static void modules_load(void)
{
    static char order[ORDER_MAX];
    char *rest = order;
    if (io_read_text(AT_FDCWD, "/modules/order", order, sizeof order, NULL) < 0)
        return; /* a kernel with all it needs built in */
    for (char *name; (name = strtok_r(rest, " \t\r\n", &rest));)
        module_load(name);
}

/* The value of KEY= on the command line; the last one counts, as with the kernel's own. */
static void wanted_take(const char *word, const char *key, char value[VALUE_MAX])
{
    size_t len = strlen(key);
    if (strncmp(word, key, len) == 0 && strlen(word + len) < VALUE_MAX && word[len])
        snprintf(value, VALUE_MAX, "%s", word + len);
}

static struct wanted wanted_read(void)
{
    struct wanted w = {.root = "/dev/vda", .type = "ext4", .init = AGENT, .rw = "1"};
    static char line[COMMAND_LINE_MAX];
    char *rest = line;
    struct err err = {0};
    if (io_read_text(AT_FDCWD, "/proc/cmdline", line, sizeof line, &err) < 0)
        say("%s", err.text);
    for (char *word; (word = strtok_r(rest, " \t\r\n", &rest));) {
        wanted_take(word, "forkd.root=", w.root);
        wanted_take(word, "forkd.rootfstype=", w.type);
        wanted_take(word, "forkd.init=", w.init);
        wanted_take(word, "forkd.rw=", w.rw);
    }
    return w;
}

/* The watch is set before the look, so that nothing appears between the two. */
static bool device_wait(const char *path)
{
    uint64_t deadline = clock_monotonic_ns() + DEVICE_WAIT;
    own_fd int fd = inotify_init1(IN_CLOEXEC);
    if (fd >= 0)
        inotify_add_watch(fd, "/dev", IN_CREATE);
    for (;;) {
        struct pollfd p = {.fd = fd, .events = POLLIN};
        char events[4096];
        if (access(path, F_OK) == 0)
            return true;
        if (poll(&p, 1, clock_ms_until(deadline)) == 0)
            return false;
        if (fd >= 0 && read(fd, events, sizeof events) < 0 && errno != EINTR)
            return false;
    }
}

/* Removes what is on the file system of `dev` below the directory, which it closes. What is mounted there stays. */
static void empty(int dirfd, dev_t dev)
{
    own_dir DIR *dir = fdopendir(dirfd);
    for (struct dirent *e; dir && (e = readdir(dir));) {
        struct stat st;
        if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0 ||
            fstatat(dirfd, e->d_name, &st, AT_SYMLINK_NOFOLLOW) < 0 || st.st_dev != dev)
            continue;
        int fd = S_ISDIR(st.st_mode) ? openat(dirfd, e->d_name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC) : -1;
        if (fd >= 0)
            empty(fd, dev);
        unlinkat(dirfd, e->d_name, S_ISDIR(st.st_mode) ? AT_REMOVEDIR : 0);
    }
}

/* Moves into the new root as switch_root(8) does. The old one cannot be unmounted, only emptied. */
static int root_switch(struct err *err)
{
    static const char *const moved[] = {"/proc", "/sys", "/dev"};
    struct stat st;
    own_fd int old = open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (old < 0 || fstat(old, &st) < 0)
        return err_set(err, errno, "open the initramfs");
    for (size_t i = 0; i < sizeof moved / sizeof *moved; i++) {
        char to[32];
        snprintf(to, sizeof to, NEW_ROOT "%s", moved[i]);
        mkdir(to, 0755);
        if (mount(moved[i], to, NULL, MS_MOVE, NULL) < 0)
            return err_set(err, errno, "move %s into the root file system", moved[i]);
    }
    if (chdir(NEW_ROOT) < 0 || mount(".", "/", NULL, MS_MOVE, NULL) < 0 || chroot(".") < 0 || chdir("/") < 0)
        return err_set(err, errno, "switch to the root file system");
    empty(steal_fd(&old), st.st_dev);
    return 0;
}

/* What the kernel passed to /init goes on to the init of the root file system. */
static int hand_over(struct wanted *w, char **argv, struct err *err)
{
    /* A time of access is a write: a fork that only reads would grow a disk layer of its own. */
    unsigned long flags = MS_NOATIME | (strcmp(w->rw, "0") == 0 ? MS_RDONLY : 0);
    if (!device_wait(w->root))
        return err_say(err, ENODEV, "the root device %s does not appear", w->root);
    mkdir(NEW_ROOT, 0755);
    if (mount(w->root, NEW_ROOT, w->type, flags, NULL) < 0)
        return err_set(err, errno, "mount %s as %s", w->root, w->type);
    if (access(NEW_ROOT AGENT, X_OK) < 0)
        return err_say(err, ENOENT, "root file system has no " AGENT);
    int rc = root_switch(err);
    if (rc < 0)
        return rc;
    argv[0] = w->init;
    char *const env[] = {"HOME=/", "TERM=linux", NULL};
    execve(w->init, argv, env);
    return err_set(err, errno, "start %s", w->init);
}

int main(int argc, char **argv)
{
    struct err err = {0};
    mount_or_say("devtmpfs", "/dev");
    console_open();
    mount_or_say("proc", "/proc");
    mount_or_say("sysfs", "/sys");
    modules_load();
    struct wanted w = wanted_read();
    hand_over(&w, argv, &err);
    say("%s", err.text);
    power_off();
}
