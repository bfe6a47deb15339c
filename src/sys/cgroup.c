/* cgroup.c: see cgroup.h. Files and rules: Documentation/admin-guide/cgroup-v2.rst of the kernel. */
#include "sys/cgroup.h"

#include "base/io.h"
#include "base/own.h"

#include <fcntl.h>
#include <inttypes.h>
#include <mntent.h>
#include <string.h>
#include <sys/stat.h>

static int file_write(int cgroup, const char *file, const char *text, struct err *err)
{
    own_fd int fd = openat(cgroup, file, O_WRONLY | O_CLOEXEC);
    if (fd < 0)
        return err_set(err, errno, "open %s", file);
    if (write(fd, text, strlen(text)) < 0)
        return err_set(err, errno, "write '%s' to %s", text, file);
    return 0;
}

/* The number after `key` and a space in a flat-keyed file, 0 if it has none. */
static int file_read_key(int cgroup, const char *file, const char *key, uint64_t *value, struct err *err)
{
    char text[2048];
    ssize_t n = io_read_text(cgroup, file, text, sizeof text, err);
    if (n < 0)
        return (int)n;
    *value = 0;
    size_t key_len = strlen(key);
    for (const char *line = text; *line;) {
        if (!strncmp(line, key, key_len) && line[key_len] == ' ')
            *value = strtoull(line + key_len + 1, NULL, 10);
        const char *end = strchr(line, '\n');
        line = end ? end + 1 : line + strlen(line);
    }
    return 0;
}

static bool has_word(const char *text, const char *word)
{
    size_t len = strlen(word);
    for (const char *at = text; (at = strstr(at, word)); at += len) {
        bool starts = at == text || at[-1] == ' ';
        bool ends = at[len] == 0 || at[len] == ' ' || at[len] == '\n';
        if (starts && ends)
            return true;
    }
    return false;
}

/* The first mount of type cgroup2. On a hybrid host it exists but has no memory controller. */
static int mount_open(struct err *err)
{
    own_file FILE *mounts = setmntent("/proc/self/mounts", "re");
    if (!mounts)
        return err_set(err, errno, "open /proc/self/mounts");
    struct mntent entry;
    char strings[4096];
    while (getmntent_r(mounts, &entry, strings, sizeof strings)) {
        if (strcmp(entry.mnt_type, "cgroup2") != 0)
            continue;
        int fd = open(entry.mnt_dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        return fd < 0 ? err_set(err, errno, "open %s", entry.mnt_dir) : fd;
    }
    return err_say(err, ENOTSUP, "no cgroup v2 is mounted");
}

/* The caller's own group below the mount, from the line "0::/PATH". */
static int own_group_open(int mount, struct err *err)
{
    char text[4096];
    ssize_t n = io_read_text(AT_FDCWD, "/proc/self/cgroup", text, sizeof text, err);
    if (n < 0)
        return (int)n;
    char *path = !strncmp(text, "0::/", 4) ? text : strstr(text, "\n0::/");
    if (!path)
        return err_say(err, ENOTSUP, "this process is in no cgroup v2");
    path = strchr(path, '/') + 1;
    path[strcspn(path, "\n")] = 0;
    int fd = openat(mount, *path ? path : ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    return fd < 0 ? err_set(err, errno, "open the cgroup %s", path) : fd;
}

static int require_memory(int cgroup, struct err *err)
{
    char text[512];
    ssize_t n = io_read_text(cgroup, "cgroup.controllers", text, sizeof text, err);
    if (n < 0)
        return (int)n;
    if (!has_word(text, "memory"))
        return err_say(err, ENOTSUP, "the cgroup v2 hierarchy has no memory controller (it is cgroup v1's)");
    return 0;
}

static int base_open(struct err *err)
{
    own_fd int mount = mount_open(err);
    if (mount < 0)
        return mount;
    own_fd int group = geteuid() == 0 ? steal_fd(&mount) : own_group_open(mount, err);
    if (group < 0)
        return group;
    int rc = require_memory(group, err);
    if (rc == 0)
        rc = cgroup_enable_memory(group, err);
    if (rc < 0)
        return rc;
    own_fd int base = -1;
    rc = cgroup_create(group, "forkd", &base, err);
    if (rc == 0)
        rc = cgroup_enable_memory(base, err);
    /* Root's, where nobody delegated a group to this user: there, but not for us. */
    if (rc == 0 && faccessat(base, ".", W_OK, AT_EACCESS) < 0)
        rc = err_set(err, errno, "make cgroups in forkd");
    return rc < 0 ? rc : steal_fd(&base);
}

int cgroup_base_open(struct err *err)
{
    int fd = base_open(err);
    if (fd >= 0 || fd == -ENOTSUP)
        return fd;
    /* Not ours to use: another user's, read-only in a container, or one that processes live in. */
    err_wrap(err, "no cgroup of our own");
    if (err)
        err->code = ENOTSUP;
    return -ENOTSUP;
}

int cgroup_create(int parent, const char *name, int *cgroup, struct err *err)
{
    *cgroup = -1;
    if (parent < 0)
        return 0;
    if (mkdirat(parent, name, 0755) < 0 && errno != EEXIST)
        return err_set(err, errno, "make the cgroup %s", name);
    *cgroup = openat(parent, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    return *cgroup < 0 ? err_set(err, errno, "open the cgroup %s", name) : 0;
}

int cgroup_enable_memory(int cgroup, struct err *err)
{
    if (cgroup < 0)
        return 0;
    char text[512];
    ssize_t n = io_read_text(cgroup, "cgroup.subtree_control", text, sizeof text, err);
    if (n < 0)
        return (int)n;
    return has_word(text, "memory") ? 0 : file_write(cgroup, "cgroup.subtree_control", "+memory", err);
}

int cgroup_delegate(int cgroup, uid_t uid, gid_t gid, struct err *err)
{
    if (cgroup < 0)
        return 0;
    if (fchownat(cgroup, "cgroup.procs", uid, gid, AT_SYMLINK_NOFOLLOW) < 0)
        return err_set(err, errno, "give cgroup.procs to uid %u", uid);
    return 0;
}

int cgroup_set_memory_max(int cgroup, uint64_t bytes, struct err *err)
{
    if (cgroup < 0)
        return 0;
    char text[24];
    snprintf(text, sizeof text, "%" PRIu64, bytes);
    int rc = file_write(cgroup, "memory.max", bytes ? text : "max", err);
    return rc < 0 ? rc : file_write(cgroup, "memory.oom.group", bytes ? "1" : "0", err);
}

int cgroup_memory_current(int cgroup, uint64_t *bytes, struct err *err)
{
    *bytes = 0;
    if (cgroup < 0)
        return 0;
    char text[32];
    ssize_t n = io_read_text(cgroup, "memory.current", text, sizeof text, err);
    if (n < 0)
        return (int)n;
    *bytes = strtoull(text, NULL, 10);
    return 0;
}

int cgroup_oom_kills(int cgroup, uint64_t *count, struct err *err)
{
    *count = 0;
    return cgroup < 0 ? 0 : file_read_key(cgroup, "memory.events", "oom_kill", count, err);
}

int cgroup_is_populated(int cgroup, bool *populated, struct err *err)
{
    *populated = false;
    if (cgroup < 0)
        return 0;
    uint64_t value;
    int rc = file_read_key(cgroup, "cgroup.events", "populated", &value, err);
    *populated = rc == 0 && value;
    return rc;
}

int cgroup_kill(int cgroup, struct err *err)
{
    return cgroup < 0 ? 0 : file_write(cgroup, "cgroup.kill", "1", err);
}

int cgroup_remove(int parent, const char *name, struct err *err)
{
    if (parent < 0)
        return 0;
    if (unlinkat(parent, name, AT_REMOVEDIR) < 0 && errno != ENOENT)
        return err_set(err, errno, "remove the cgroup %s", name);
    return 0;
}
