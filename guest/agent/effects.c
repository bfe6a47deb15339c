/* effects.c: see effects.h. */
#include "effects.h"

#include "base/clock.h"
#include "base/io.h"
#include "base/own.h"
#include "base/pack.h"

#include <fcntl.h>
#include <linux/random.h>
#include <stdarg.h>
#include <stdbool.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/reboot.h>
#include <sys/stat.h>

enum { POOL_MAX = 512, HOSTS_MAX = 16 << 10 };

const char *effects_path(const struct effects *e, const char *path, char buf[EFFECTS_PATH_MAX])
{
    snprintf(buf, EFFECTS_PATH_MAX, "%s%s", e->test_root ? e->test_root : "", path);
    return buf;
}

/* A line of the test root's record. */
__attribute__((format(printf, 3, 4))) static int effects_record(const struct effects *e, struct err *err,
                                                                const char *fmt, ...)
{
    char path[EFFECTS_PATH_MAX], line[256];
    own_fd int fd = open(effects_path(e, "/effects", path), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
    if (fd < 0)
        return err_set(err, errno, "open %s", path);
    va_list args;
    va_start(args, fmt);
    int n = vsnprintf(line, sizeof line, fmt, args);
    va_end(args);
    return io_write_all(fd, line, (size_t)n < sizeof line ? (size_t)n : sizeof line - 1, err);
}

int effects_entropy(const struct effects *e, const uint8_t *bytes, size_t len, struct err *err)
{
    if (e->test_root)
        return effects_record(e, err, "entropy %zu\n", len);
    union {
        struct rand_pool_info info;
        uint8_t space[sizeof(struct rand_pool_info) + POOL_MAX];
    } pool = {0};
    if (len > POOL_MAX)
        return err_say(err, EINVAL, "%zu bytes of entropy are too many", len);
    pool.info.entropy_count = (int)(len * 8);
    pool.info.buf_size = (int)len;
    memcpy(pool.info.buf, bytes, len);
    own_fd int fd = open("/dev/urandom", O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return err_set(err, errno, "open /dev/urandom");
    if (ioctl(fd, RNDADDENTROPY, &pool.info) < 0)
        return err_set(err, errno, "add entropy to the kernel's generator");
    if (ioctl(fd, RNDRESEEDCRNG) < 0)
        return err_set(err, errno, "reseed the kernel's generator");
    explicit_bzero(&pool, sizeof pool);
    return 0;
}

int effects_clock(const struct effects *e, uint64_t realtime_ns, struct err *err)
{
    if (e->test_root)
        return effects_record(e, err, "clock %llu\n", (unsigned long long)realtime_ns);
    struct timespec t = {(time_t)(realtime_ns / NS_PER_SEC), (long)(realtime_ns % NS_PER_SEC)};
    if (clock_settime(CLOCK_REALTIME, &t) < 0)
        return err_set(err, errno, "set the clock");
    return 0;
}

/* Copies /etc/hosts with the old host name's words replaced. False when it does not fit. */
static bool hosts_rename(const char *hosts, const char *from, const char *to, struct pack *p)
{
    while (*hosts) {
        size_t blank = strspn(hosts, " \t\r\n"), word = strcspn(hosts + blank, " \t\r\n");
        bool old = word && word == strlen(from) && memcmp(hosts + blank, from, word) == 0;
        pack_bytes(p, hosts, blank);
        pack_bytes(p, old ? to : hosts + blank, old ? strlen(to) : word);
        hosts += blank + word;
    }
    return !p->full;
}

/* The name a machine has for itself resolves in /etc/hosts; that of a fork must as well. What cannot be read or is
 * unusually large is left alone: it is a courtesy. */
static void effects_hosts(const struct effects *e, const char *name)
{
    char path[EFFECTS_PATH_MAX], old[256];
    static char hosts[HOSTS_MAX], renamed[2 * HOSTS_MAX];
    struct pack p = pack_into(renamed, sizeof renamed);
    if (io_read_text(AT_FDCWD, effects_path(e, "/etc/hostname", path), old, sizeof old, NULL) <= 0)
        return;
    old[strcspn(old, " \t\r\n")] = 0;
    ssize_t len = io_read_text(AT_FDCWD, effects_path(e, "/etc/hosts", path), hosts, sizeof hosts, NULL);
    if (len <= 0 || len >= HOSTS_MAX - 1 || strcmp(old, "localhost") == 0 || !hosts_rename(hosts, old, name, &p))
        return;
    if (p.len != (size_t)len || memcmp(hosts, renamed, p.len) != 0)
        effects_file(e, "/etc/hosts", renamed, p.len, 0644, NULL);
}

int effects_hostname(const struct effects *e, const char *name, struct err *err)
{
    char line[256];
    if (e->test_root) {
        int rc = effects_record(e, err, "hostname %s\n", name);
        if (rc < 0)
            return rc;
    } else if (sethostname(name, strlen(name)) < 0) {
        return err_set(err, errno, "set the host name");
    }
    effects_hosts(e, name);
    int n = snprintf(line, sizeof line, "%s\n", name);
    int rc = effects_file(e, "/etc/hostname", line, (size_t)n, 0644, err);
    return rc == -EROFS ? 0 : rc;
}

int effects_file(const struct effects *e, const char *path, const void *bytes, size_t len, unsigned mode,
                 struct err *err)
{
    char real[EFFECTS_PATH_MAX], temp[EFFECTS_PATH_MAX + 8];
    effects_path(e, path, real);
    char *slash = strrchr(real, '/');
    *slash = 0;
    if (mkdir(real, 0755) < 0 && errno != EEXIST && errno != EROFS)
        return err_set(err, errno, "make the directory %s", real);
    *slash = '/';
    snprintf(temp, sizeof temp, "%s.new", real);
    unlink(temp);
    /* O_EXCL: what is at that name is never followed or reused. */
    own_fd int fd = open(temp, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, mode);
    if (fd < 0)
        return err_set(err, errno, "open %s", temp);
    int rc = io_write_all(fd, bytes, len, err);
    if (rc == 0 && (fchmod(fd, mode) < 0 || rename(temp, real) < 0))
        rc = err_set(err, errno, "write %s", real);
    if (rc < 0)
        unlink(temp);
    return rc;
}

void effects_poweroff(const struct effects *e)
{
    if (e->test_root) {
        effects_record(e, NULL, "poweroff\n");
        return;
    }
    sync();
    reboot(RB_POWER_OFF);
}
