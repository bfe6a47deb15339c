/* doctor_disk.c: the file systems of snapshots and of guest images, tried with unnamed files of this program's own. */
#include "base/own.h"
#include "cli/doctor.h"
#include "cli/private.h"
#include "proto/places.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/fs.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/statvfs.h>
#include <unistd.h>

enum { BLOCK = 4096, FAIL_BELOW_MIB = 512, WARN_BELOW_MIB = 4096, DIRTY_MAX_MIB = 4096 };

/* Where the controller that `forkd` would use keeps snapshots, as well as this program can know. */
static void snapshots_dir(char *path, size_t cap)
{
    const char *chosen = getenv("FORKD_SNAPSHOT_ROOT");
    if (chosen && *chosen)
        snprintf(path, cap, "%s", chosen);
    else
        private_snapshots(path, cap);
}

/* The nearest directory of the path that exists. */
static void near(char *path)
{
    while (access(path, F_OK) < 0) {
        char *slash = strrchr(path, '/');
        if (!slash || slash == path) {
            memcpy(path, "/", sizeof "/");
            return;
        }
        *slash = 0;
    }
}

static void check_space_of(struct finding *f, char *path, const char *remedy, const char *what)
{
    struct statvfs vfs;
    near(path);
    looked_at(f, "%s", path);
    if (statvfs(path, &vfs) < 0) {
        found(f, WARN, remedy, "cannot be asked for its free space: %s", strerrordesc_np(errno));
        return;
    }
    unsigned long long mib = (unsigned long long)vfs.f_bavail * vfs.f_frsize >> 20;
    enum verdict verdict = mib < FAIL_BELOW_MIB ? FAIL : mib < WARN_BELOW_MIB ? WARN : PASS;
    found(f, verdict, verdict == PASS ? "" : remedy, "has %llu MiB free%s%s", mib, verdict == PASS ? "" : "; ",
          verdict == PASS ? "" : what);
}

static void check_images_space(struct finding *f, const struct args *args)
{
    char path[PATH_MAX];
    place_images(path, sizeof path);
    check_space_of(f, path, "free some space there, or set FORKD_IMAGES to another disk",
                   "an image and its building need some 3000");
}

static void check_snapshots_space(struct finding *f, const struct args *args)
{
    char path[PATH_MAX];
    snapshots_dir(path, sizeof path);
    check_space_of(f, path, "forkd rmi TAG of what is not needed, or set FORKD_SNAPSHOT_ROOT to another disk",
                   "a snapshot takes up to its memory and what was written to its disk");
}

/* An unnamed file where snapshots are kept; -1 and a finding where this user may not make one. */
static int trial_open(struct finding *f)
{
    char dir[PATH_MAX], path[PATH_MAX + 32];
    snapshots_dir(dir, sizeof dir);
    near(dir);
    looked_at(f, "%s", dir);
    snprintf(path, sizeof path, "%s/.doctor-XXXXXX", dir);
    int fd = mkostemp(path, O_CLOEXEC);
    if (fd < 0)
        found(f, WARN, "sudo forkd doctor", "cannot be tried by this user: %s", strerrordesc_np(errno));
    else
        unlink(path);
    return fd;
}

static void check_fallocate(struct finding *f, const struct args *args)
{
    own_fd int fd = trial_open(f);
    if (fd < 0)
        return;
    if (fallocate(fd, 0, 0, 1 << 20) == 0)
        found(f, PASS, "", "can reserve space (fallocate)");
    else
        found(f, WARN, "set FORKD_SNAPSHOT_ROOT to a disk with ext4 or XFS",
              "cannot reserve space (fallocate: %s): snapshots are written more slowly", strerrordesc_np(errno));
}

static void check_direct(struct finding *f, const struct args *args)
{
    own_fd int fd = trial_open(f);
    own_free void *block = aligned_alloc(BLOCK, BLOCK);
    if (fd < 0 || !block)
        return;
    memset(block, 0, BLOCK);
    if (fcntl(fd, F_SETFL, O_DIRECT) == 0 && pwrite(fd, block, BLOCK, 0) == BLOCK)
        found(f, PASS, "", "can be written past the page cache (O_DIRECT)");
    else
        found(f, WARN, "set FORKD_SNAPSHOT_ROOT to a disk with ext4 or XFS",
              "cannot be written past the page cache (O_DIRECT: %s): many snapshots in a row become slow",
              strerrordesc_np(errno));
}

static void check_reflink(struct finding *f, const struct args *args)
{
    own_fd int from = trial_open(f);
    if (from < 0)
        return;
    own_fd int to = trial_open(f);
    if (to < 0)
        return;
    if (ftruncate(from, BLOCK) == 0 && ioctl(to, FICLONE, from) == 0)
        found(f, PASS, "", "can share blocks between files (reflink)");
    else
        found(f, PASS, "",
              "cannot share blocks between files (reflink); forkd does without, only copies of snapshots take "
              "their whole size");
}

/* Dirty pages of other programs delay the fsync of a snapshot: up to this much is written first. */
static void check_writeback(struct finding *f, const struct args *args)
{
    char text[8192];
    looked_at(f, "/proc/sys/vm/dirty_bytes and dirty_ratio");
    long long bytes = host_text("/proc/sys/vm/dirty_bytes", text, sizeof text) > 0 ? strtoll(text, NULL, 10) : 0;
    long long ratio = host_text("/proc/sys/vm/dirty_ratio", text, sizeof text) > 0 ? strtoll(text, NULL, 10) : 0;
    long long kib = host_text("/proc/meminfo", text, sizeof text) > 0 ? text_number(text, "MemAvailable") : 0;
    long long mib = bytes > 0 ? bytes >> 20 : kib * ratio / 100 >> 10;
    if (mib > DIRTY_MAX_MIB)
        found(f, WARN, "sysctl vm.dirty_bytes=1073741824 vm.dirty_background_bytes=268435456 (and in /etc/sysctl.d)",
              "let %lld MiB wait to be written: a snapshot may wait for other programs' files", mib);
    else
        found(f, PASS, "", "let at most %lld MiB wait to be written", mib);
}

const struct doctor_check doctor_disk[] = {{"images-space", check_images_space},
                                           {"snapshots-space", check_snapshots_space},
                                           {"fallocate", check_fallocate},
                                           {"direct-io", check_direct},
                                           {"reflink", check_reflink},
                                           {"writeback", check_writeback},
                                           {0}};
