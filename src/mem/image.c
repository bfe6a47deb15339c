/* image.c: see image.h.
 * SECCOMP: memfd_create - memory to boot on, and for the state of a parked machine
 * SECCOMP: ftruncate - gives them their sizes
 * SECCOMP: lseek - finds data and holes of the image
 * SECCOMP: fallocate - punches zero ranges, fills other holes
 * SECCOMP: fcntl[a1 in F_ADD_SEALS F_GET_SEALS] - seals images, and checks those that were handed over
 */
#include "mem/image.h"

#include "base/own.h"
#include "mem/gmem.h"

#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

enum { HUGE_PAGE = 2 << 20 };

static const int image_seals = F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW;

int image_create(uint64_t size, int *fd, void **base, struct err *err)
{
    own_fd int memfd = memfd_create("forkd-memory", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (memfd < 0)
        return err_set(err, errno, "create the guest's memory");
    if (ftruncate(memfd, (off_t)size) < 0)
        return err_set(err, errno, "make guest memory of %llu MiB", (unsigned long long)(size >> 20));
    int rc = image_map_shared(memfd, size, base, err);
    if (rc == 0)
        *fd = steal_fd(&memfd);
    return rc;
}

int image_map_shared(int fd, uint64_t size, void **base, struct err *err)
{
    void *map = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd, 0);
    if (map == MAP_FAILED)
        return err_set(err, errno, "map guest memory of %llu MiB", (unsigned long long)(size >> 20));
    /* Where the host allows them for shmem, huge pages make the boot cheaper; templates map small pages. */
    madvise(map, size, MADV_HUGEPAGE);
    madvise(map, size, MADV_DONTDUMP);
    *base = map;
    return 0;
}

bool image_page_is_zero(const void *page)
{
    const uint64_t *word = page;
    for (size_t i = 0; i < GMEM_PAGE / sizeof *word; i += 8)
        if (word[i] | word[i + 1] | word[i + 2] | word[i + 3] | word[i + 4] | word[i + 5] | word[i + 6] | word[i + 7])
            return false;
    return true;
}

/* Keeps the IMAGE_ZERO_MAX longest runs seen so far, in order of their offsets. */
static void keep_run(struct image *image, uint64_t offset, uint64_t len)
{
    if (image->zero_count == IMAGE_ZERO_MAX) {
        unsigned shortest = 0;
        for (unsigned i = 1; i < IMAGE_ZERO_MAX; i++)
            if (image->zero[i].len < image->zero[shortest].len)
                shortest = i;
        if (image->zero[shortest].len >= len)
            return;
        memmove(&image->zero[shortest], &image->zero[shortest + 1],
                (IMAGE_ZERO_MAX - 1 - shortest) * sizeof image->zero[0]);
        image->zero_count--;
    }
    image->zero[image->zero_count++] = (struct image_range){offset, len};
}

/* Walks the memfd's data: a hole reads as zeros without being touched. */
static int find_zero_runs(int fd, const uint8_t *base, uint64_t size, struct image *image, struct err *err)
{
    uint64_t run = 0; /* where the run of zeros that reaches `at` began */
    for (uint64_t at = 0; at < size;) {
        off_t data = lseek(fd, (off_t)at, SEEK_DATA);
        if (data < 0 && errno != ENXIO)
            return err_set(err, errno, "look for data in the guest's memory");
        uint64_t begin = data < 0 ? size : (uint64_t)data;
        off_t hole = data < 0 ? (off_t)size : lseek(fd, data, SEEK_HOLE);
        if (hole < 0)
            return err_set(err, errno, "look for holes in the guest's memory");
        at = (uint64_t)hole > size ? size : (uint64_t)hole;
        for (uint64_t page = begin; page < at; page += GMEM_PAGE) {
            if (image_page_is_zero(base + page))
                continue;
            if (page > run)
                keep_run(image, run, page - run);
            run = page + GMEM_PAGE;
        }
    }
    if (size > run)
        keep_run(image, run, size - run);
    return 0;
}

/* What is between two zero ranges becomes data, all of it. */
static int fill(int fd, uint64_t offset, uint64_t len, struct err *err)
{
    if (len && fallocate(fd, 0, (off_t)offset, (off_t)len) < 0)
        return err_set(err, errno, "get memory for the image");
    return 0;
}

int image_settle(int fd, void *base, uint64_t size, struct image *image, struct err *err)
{
    *image = (struct image){.size = size};
    int rc = find_zero_runs(fd, base, size, image, err);
    uint64_t at = 0;
    for (unsigned i = 0; rc == 0 && i < image->zero_count; i++) {
        const struct image_range *z = &image->zero[i];
        rc = fill(fd, at, z->offset - at, err);
        image->data_bytes += z->offset - at;
        at = z->offset + z->len;
        if (rc == 0 && fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)z->offset, (off_t)z->len) < 0)
            rc = err_set(err, errno, "give back the zero pages of the image");
    }
    if (rc == 0)
        rc = fill(fd, at, size - at, err);
    image->data_bytes += size - at;
    return rc;
}

int image_seal(int fd, struct err *err)
{
    if (fcntl(fd, F_ADD_SEALS, image_seals | F_SEAL_SEAL) < 0)
        return err_set(err, errno, "seal the image");
    return 0;
}

int image_check(int fd, const struct image *image, struct err *err)
{
    struct stat st;
    int seals = fcntl(fd, F_GET_SEALS);
    if (seals < 0 || (seals & image_seals) != image_seals)
        return err_say(err, EINVAL, "the image of the template's memory is not a sealed memfd");
    if (fstat(fd, &st) < 0)
        return err_set(err, errno, "look at the image");
    if ((uint64_t)st.st_size != image->size)
        return err_say(err, EINVAL, "the image of the template's memory has %lld bytes instead of %llu",
                       (long long)st.st_size, (unsigned long long)image->size);
    return 0;
}

/* Address space aligned to huge pages, so that every page table of the mapping is its own. */
static void *reserve(uint64_t size)
{
    uint8_t *raw = mmap(NULL, size + HUGE_PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (raw == MAP_FAILED)
        return MAP_FAILED;
    uint64_t skip = -(uintptr_t)raw & (HUGE_PAGE - 1);
    if (skip)
        munmap(raw, skip);
    munmap(raw + skip + size, HUGE_PAGE - skip);
    return raw + skip;
}

static int map_part(uint8_t *base, uint64_t offset, uint64_t len, int fd, struct err *err)
{
    if (!len)
        return 0;
    int flags = MAP_PRIVATE | MAP_FIXED | MAP_NORESERVE | (fd < 0 ? MAP_ANONYMOUS : 0);
    if (mmap(base + offset, len, PROT_READ | PROT_WRITE, flags, fd, fd < 0 ? 0 : (off_t)offset) == MAP_FAILED)
        return err_set(err, errno, "map the image of the template's memory");
    return 0;
}

int image_map_over(int fd, const struct image *image, void *base, struct err *err)
{
    uint8_t *map = base;
    int rc = 0;
    uint64_t at = 0;
    for (unsigned i = 0; rc == 0 && i < image->zero_count; i++) {
        const struct image_range *z = &image->zero[i];
        rc = map_part(map, at, z->offset - at, fd, err);
        if (rc == 0)
            rc = map_part(map, z->offset, z->len, -1, err);
        at = z->offset + z->len;
    }
    if (rc == 0)
        rc = map_part(map, at, image->size - at, fd, err);
    /* With huge pages a child that touches 64 scattered pages costs 109 MiB. */
    madvise(map, image->size, MADV_NOHUGEPAGE);
    madvise(map, image->size, MADV_DONTDUMP);
    return rc;
}

int image_map(int fd, const struct image *image, void **base, struct err *err)
{
    void *map = reserve(image->size);
    if (map == MAP_FAILED)
        return err_set(err, errno, "find address space for %llu MiB", (unsigned long long)(image->size >> 20));
    int rc = image_map_over(fd, image, map, err);
    if (rc < 0)
        munmap(map, image->size);
    else
        *base = map;
    return rc;
}
