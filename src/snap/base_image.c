/* base_image.c: see base_image.h. */
#include "snap/base_image.h"

#include "base/clock.h"
#include "base/crc.h"
#include "base/io.h"
#include "base/own.h"
#include "base/pack.h"
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

static bool is_zero(const uint8_t *bytes, size_t len)
{
    for (size_t i = 0; i < len; i++)
        if (bytes[i])
            return false;
    return true;
}

/* The last block may be shorter than others. */
static uint32_t sum_blocks(uint32_t crc, const uint8_t *bytes, size_t len, uint64_t at)
{
    for (size_t done = 0; done < len; done += DISK_BLOCK) {
        size_t part = len - done < DISK_BLOCK ? len - done : DISK_BLOCK;
        if (is_zero(bytes + done, part))
            continue;
        uint8_t number[8];
        struct pack p = pack_into(number, sizeof number);
        pack_u64(&p, (at + done) / DISK_BLOCK);
        crc = crc32c(crc, number, sizeof number);
        crc = crc32c(crc, bytes + done, part);
    }
    return crc;
}

/* Where the next data is, at a block's begin; `bytes` when there is none. */
static uint64_t next_data(int fd, uint64_t at, uint64_t bytes)
{
    off_t data = lseek(fd, (off_t)at, SEEK_DATA);
    if (data < 0)
        return errno == ENXIO ? bytes : at; /* what knows no holes has none */
    return (uint64_t)data / DISK_BLOCK * DISK_BLOCK;
}

static int sum(const struct snapshot_base *base, int fd, uint64_t bytes, uint32_t *crc, struct err *err)
{
    own_free uint8_t *buf = malloc(READ_BYTES);
    if (!buf)
        return err_set(err, ENOMEM, "sum up the disk's base image");
    *crc = 0;
    for (uint64_t at = next_data(fd, 0, bytes); at < bytes; at = next_data(fd, at + READ_BYTES, bytes)) {
        size_t len = bytes - at < READ_BYTES ? (size_t)(bytes - at) : READ_BYTES;
        int rc = io_pread_all(fd, buf, len, at, err);
        if (rc < 0)
            return err_wrap(err, "the disk's base image %s", base->path);
        *crc = sum_blocks(*crc, buf, len, at);
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
