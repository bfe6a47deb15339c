/* snapshot_root.c: see snapshot_root.h. */
#include "controller/snapshot_root.h"

#include "base/io.h"
#include "base/log.h"
#include "base/own.h"
#include "sys/dirlock.h"

#include <fcntl.h>
#include <limits.h>
#include <string.h>
#include <sys/stat.h>

static void writing_name(const char *id, char name[NAME_MAX])
{
    snprintf(name, NAME_MAX, ".writing-%s", id);
}

/* A directory of files, with them. */
static int remove_dir(int root, const char *name, struct err *err)
{
    int fd = openat(root, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0)
        return errno == ENOENT ? 0 : err_set(err, errno, "open %s to remove it", name);
    own_dir DIR *dir = fdopendir(fd);
    if (!dir)
        return err_set(err, errno, "read %s", name);
    for (struct dirent *e; (e = readdir(dir));)
        if (strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0 && unlinkat(fd, e->d_name, 0) < 0)
            return err_set(err, errno, "remove %s/%s", name, e->d_name);
    return unlinkat(root, name, AT_REMOVEDIR) < 0 ? err_set(err, errno, "remove %s", name) : 0;
}

static int sync_names(int root, struct err *err)
{
    return fsync(root) < 0 ? err_set(err, errno, "sync the snapshot root") : 0;
}

static int walk(int root, void (*fn)(void *arg, const char *name), void *arg, struct err *err)
{
    int fd = openat(root, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    own_dir DIR *dir = fd < 0 ? NULL : fdopendir(fd);
    if (!dir)
        return err_set(err, errno, "read the snapshot root");
    for (struct dirent *e; (e = readdir(dir));)
        fn(arg, e->d_name);
    return 0;
}

static void remove_litter(void *arg, const char *name)
{
    struct err err;
    if (strncmp(name, ".writing-", 9) != 0 && strncmp(name, ".removing-", 10) != 0)
        return;
    log_info("the snapshot root holds %s, which was never finished: it is removed", name);
    if (remove_dir(*(int *)arg, name, &err) < 0)
        log_warn("%s", err.text);
}

static int make_with_parents(const char *path, struct err *err)
{
    char copy[PATH_MAX];
    snprintf(copy, sizeof copy, "%s", path);
    for (char *slash = strchr(copy + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
        *slash = 0;
        if (mkdir(copy, 0755) < 0 && errno != EEXIST)
            return err_set(err, errno, "make the directory %s", copy);
        *slash = '/';
    }
    /* What is in it was some guest's memory. */
    return mkdir(path, 0700) < 0 && errno != EEXIST ? err_set(err, errno, "make the directory %s", path) : 0;
}

int snapshot_root_open(const char *path, struct err *err)
{
    int rc = make_with_parents(path, err);
    if (rc < 0)
        return rc;
    own_fd int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return err_set(err, errno, "open the snapshot root %s", path);
    if (dirlock_take(fd) == -EWOULDBLOCK)
        return err_say(err, EWOULDBLOCK, "another controller keeps its snapshots in %s; choose another --snapshot-root",
                       path);
    rc = walk(fd, remove_litter, &fd, err);
    return rc < 0 ? rc : steal_fd(&fd);
}

int snapshot_root_begin(int root, const char *id, struct err *err)
{
    char name[NAME_MAX];
    writing_name(id, name);
    int rc = remove_dir(root, name, err); /* of an attempt before */
    if (rc < 0)
        return rc;
    if (mkdirat(root, name, 0700) < 0)
        return err_set(err, errno, "make the directory %s", name);
    int fd = openat(root, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    return fd < 0 ? err_set(err, errno, "open the directory %s", name) : fd;
}

int snapshot_root_publish(int root, const char *id, const char *tag, struct err *err)
{
    char name[NAME_MAX];
    writing_name(id, name);
    /* Over a directory that holds something, rename(2) fails. */
    if (renameat(root, name, root, tag) < 0)
        return errno == ENOTEMPTY || errno == EEXIST ? err_say(err, EEXIST, "there is a directory %s already", tag)
                                                     : err_set(err, errno, "call the new directory %s", tag);
    return sync_names(root, err);
}

void snapshot_root_discard(int root, const char *id)
{
    char name[NAME_MAX];
    struct err err;
    writing_name(id, name);
    if (remove_dir(root, name, &err) < 0)
        log_warn("%s", err.text);
}

int snapshot_root_dir(int root, const char *tag, struct err *err)
{
    int fd = openat(root, tag, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    return fd < 0 ? err_set(err, errno, "open %s", tag) : fd;
}

int snapshot_root_describe(int root, const char *tag, struct snapshot_meta *meta, struct err *err)
{
    char path[NAME_MAX], text[SNAPSHOT_META_MAX];
    snprintf(path, sizeof path, "%s/snapshot.json", tag);
    ssize_t len = io_read_text(root, path, text, sizeof text, err);
    if (len < 0)
        return (int)len;
    int rc = snapshot_meta_decode(meta, text, (size_t)len, err);
    if (rc == 0 && (!meta->written || strcmp(meta->tag, tag) != 0))
        rc = err_say(err, EINVAL, "snapshot.json is %s", meta->written ? "of another snapshot" : "not complete");
    return rc;
}

void snapshot_root_file(int root, const char *tag, const char *name, uint64_t *physical, uint64_t *logical)
{
    char path[NAME_MAX];
    struct stat st;
    snprintf(path, sizeof path, "%s/%s", tag, name);
    bool there = fstatat(root, path, &st, 0) == 0;
    *physical = there ? (uint64_t)st.st_blocks * 512 : 0;
    *logical = there ? (uint64_t)st.st_size : 0;
}

int snapshot_root_remove(int root, const char *tag, struct err *err)
{
    char name[NAME_MAX];
    snprintf(name, sizeof name, ".removing-%s", tag);
    int rc = remove_dir(root, name, err);
    if (rc < 0)
        return rc;
    if (renameat(root, tag, root, name) < 0)
        return errno == ENOENT ? 0 : err_set(err, errno, "remove the directory %s", tag);
    rc = sync_names(root, err);
    return rc < 0 ? rc : remove_dir(root, name, err);
}

struct visit {
    void (*fn)(void *arg, const char *tag);
    void *arg;
};

static void visit_tag(void *arg, const char *name)
{
    const struct visit *visit = arg;
    if (*name != '.' && rest_tag_valid(name))
        visit->fn(visit->arg, name);
}

int snapshot_root_each(int root, void (*fn)(void *arg, const char *tag), void *arg, struct err *err)
{
    struct visit visit = {fn, arg};
    return walk(root, visit_tag, &visit, err);
}
