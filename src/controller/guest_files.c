/* guest_files.c: see guest_files.h. */
#include "controller/guest_files.h"

#include "base/io.h"
#include "base/own.h"
#include "controller/refusal.h"

#include <fcntl.h>
#include <limits.h>
#include <string.h>
#include <sys/stat.h>

/* Opens a regular file, or a block device where that will do. */
static int file_open(const char *what, const char *path, bool device, struct err *err)
{
    own_fd int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0)
        return err_say(err, REFUSED_BAD, "%s %s: %s", what, path, strerrordesc_np(errno));
    struct stat st;
    if (fstat(fd, &st) < 0)
        return err_say(err, REFUSED_BAD, "%s %s: %s", what, path, strerrordesc_np(errno));
    if (!S_ISREG(st.st_mode) && !(device && S_ISBLK(st.st_mode)))
        return err_say(err, REFUSED_BAD, "%s %s is no file", what, path);
    if (S_ISREG(st.st_mode) && st.st_size == 0)
        return err_say(err, REFUSED_BAD, "%s %s is empty", what, path);
    return steal_fd(&fd);
}

/* Offsets in ext4's superblock (Documentation/filesystems/ext4/super.rst), which lies at 1024. */
enum { SUPER = 1024, SUPER_LEN = 1024, SUPER_MAGIC = 0x38, SUPER_LABEL = 0x78 };

static int agent_mark_check(int fd, const char *path, struct err *err)
{
    static const char mark[] = "forkd-agent-1";
    uint8_t super[SUPER_LEN];
    if (io_pread_all(fd, super, sizeof super, SUPER, NULL) < 0 || super[SUPER_MAGIC] != 0x53 ||
        super[SUPER_MAGIC + 1] != 0xef)
        return err_say(err, REFUSED_BAD, "rootfs %s is not an ext4 filesystem", path);
    if (memcmp(super + SUPER_LABEL, mark, sizeof mark) != 0)
        return err_say(err, REFUSED_BAD,
                       "%s has no forkd agent (/usr/lib/forkd/forkd-agent); add it with: forkd images add-agent %s",
                       path, path);
    return 0;
}

static int rootfs_open(const char *path, int *fd, struct err *err)
{
    *fd = file_open("rootfs", path, true, err);
    return *fd < 0 ? *fd : agent_mark_check(*fd, path, err);
}

static int image_open(const char *images, const char *name, struct guest_files *files, struct err *err)
{
    char path[PATH_MAX];
    if (!rest_tag_valid(name))
        return err_say(err, REFUSED_BAD, "image must be the name of a built image, such as python3");
    if ((size_t)snprintf(path, sizeof path, "%s/%s/image.json", images, name) >= sizeof path || access(path, R_OK) < 0)
        return err_say(err, REFUSED_BAD, "there is no image %s in %s; make it with: forkd images build %s", name,
                       images, name);
    snprintf(path, sizeof path, "%s/%s/vmlinux", images, name);
    files->kernel = file_open("kernel", path, false, err);
    if (files->kernel < 0)
        return files->kernel;
    snprintf(path, sizeof path, "%s/%s/initrd", images, name);
    files->initrd = file_open("initrd", path, false, err);
    if (files->initrd < 0)
        return files->initrd;
    snprintf(path, sizeof path, "%s/%s/rootfs.ext4", images, name);
    return rootfs_open(path, &files->rootfs, err);
}

/* `initrd` in the directory of the kernel, if it is there. */
static int initrd_beside(const char *kernel)
{
    char path[PATH_MAX];
    const char *slash = strrchr(kernel, '/');
    int dir_len = slash ? (int)(slash - kernel) + 1 : 0;
    if ((size_t)snprintf(path, sizeof path, "%.*sinitrd", dir_len, kernel) >= sizeof path)
        return -1;
    return open(path, O_RDONLY | O_CLOEXEC);
}

static int named_open(const struct rest_snapshot_create *rq, struct guest_files *files, struct err *err)
{
    files->kernel = file_open("kernel", rq->kernel, false, err);
    if (files->kernel < 0)
        return files->kernel;
    if (rq->initrd) {
        files->initrd = file_open("initrd", rq->initrd, false, err);
        if (files->initrd < 0)
            return files->initrd;
    }
    if (!rq->rootfs)
        return 0;
    if (!rq->initrd)
        files->initrd = initrd_beside(rq->kernel);
    return rootfs_open(rq->rootfs, &files->rootfs, err);
}

int guest_files_open(const char *images, const struct rest_snapshot_create *rq, struct guest_files *files,
                     struct err *err)
{
    int rc = rq->image ? image_open(images, rq->image, files, err) : named_open(rq, files, err);
    if (rc < 0)
        guest_files_close(files);
    return rc < 0 ? rc : 0;
}

void guest_files_close(struct guest_files *files)
{
    fd_close(&files->kernel);
    fd_close(&files->initrd);
    fd_close(&files->rootfs);
}
