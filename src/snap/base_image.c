/* base_image.c: see base_image.h. */
#include "snap/base_image.h"

#include "base/clock.h"
#include "base/crc.h"
#include "base/io.h"
#include "base/own.h"
#include "disk/disk.h"

#include <sys/stat.h>

enum { READ_BYTES = 1 << 20 };

static int look(const struct snapshot_base *base, int fd, uint64_t *bytes, int64_t *mtime_ns, struct err *err)
{
    struct stat st;
    if (fd < 0)
        return err_say(err, ENOENT, "the disk's base image %s is not there", base->path);
    if (fstat(fd, &st) < 0)
        return err_set(err, errno, "look at the disk's base image %s", base->path);
    int64_t len = disk_image_bytes(fd, err); /* block devices have no size to fstat */
    if (len < 0)
        return err_wrap(err, "%s", base->path);
    *bytes = (uint64_t)len;
    *mtime_ns = (int64_t)st.st_mtim.tv_sec * (int64_t)NS_PER_SEC + st.st_mtim.tv_nsec;
    return 0;
}

static int sum(const struct snapshot_base *base, int fd, uint64_t bytes, uint32_t *crc, struct err *err)
{
    own_free uint8_t *buf = malloc(READ_BYTES);
    if (!buf)
        return err_set(err, ENOMEM, "sum up the disk's base image");
    *crc = 0;
    for (uint64_t at = 0; at < bytes; at += READ_BYTES) {
        size_t len = bytes - at < READ_BYTES ? (size_t)(bytes - at) : READ_BYTES;
        int rc = io_pread_all(fd, buf, len, at, err);
        if (rc < 0)
            return err_wrap(err, "the disk's base image %s", base->path);
        *crc = crc32c(*crc, buf, len);
    }
    return 0;
}

int base_image_note(struct snapshot_base *base, int fd, struct err *err)
{
    uint64_t bytes;
    int64_t mtime_ns;
    int rc = look(base, fd, &bytes, &mtime_ns, err);
    if (rc < 0 || (bytes == base->bytes && mtime_ns == base->mtime_ns))
        return rc;
    base->bytes = bytes;
    base->mtime_ns = mtime_ns;
    return sum(base, fd, bytes, &base->crc, err);
}

int base_image_check(const struct snapshot_base *base, int fd, struct err *err)
{
    uint64_t bytes;
    int64_t mtime_ns;
    uint32_t crc;
    int rc = look(base, fd, &bytes, &mtime_ns, err);
    if (rc < 0)
        return rc;
    if (bytes != base->bytes)
        return err_say(err, ESTALE, "the disk's base image %s has %llu bytes; it had %llu when the snapshot was made",
                       base->path, (unsigned long long)bytes, (unsigned long long)base->bytes);
    if (mtime_ns == base->mtime_ns)
        return 0;
    rc = sum(base, fd, bytes, &crc, err);
    if (rc == 0 && crc != base->crc)
        rc = err_say(err, ESTALE, "the disk's base image %s was changed since the snapshot was made", base->path);
    return rc;
}
