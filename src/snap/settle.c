/* settle.c: see settle.h. */
#include "snap/settle.h"

#include "base/own.h"
#include "mem/bitmap.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>

/* Zero pages stay holes: image_settle() finds them, and most of a guest is zero. */
static void copy_page(uint8_t *into, const uint8_t *ram, uint64_t page)
{
    if (!image_page_is_zero(ram + page * GMEM_PAGE))
        memcpy(into + page * GMEM_PAGE, ram + page * GMEM_PAGE, GMEM_PAGE);
}

/* Data of the image, its holes untouched. */
static int copy_image(const struct content *content, const struct gmem *gmem, uint8_t *into, struct err *err)
{
    for (uint64_t at = 0; at < gmem->size;) {
        off_t data = lseek(content->image_fd, (off_t)at, SEEK_DATA);
        if (data < 0 && errno == ENXIO)
            return 0;
        off_t hole = data < 0 ? data : lseek(content->image_fd, data, SEEK_HOLE);
        if (hole < 0)
            return err_set(err, errno, "look for data in the template's image");
        at = (uint64_t)hole < gmem->size ? (uint64_t)hole : gmem->size;
        for (uint64_t page = (uint64_t)data / GMEM_PAGE; page < at / GMEM_PAGE; page++)
            copy_page(into, gmem->base, page);
    }
    return 0;
}

static void copy_own(const struct content *content, const struct gmem *gmem, uint8_t *into)
{
    for (size_t i = bitmap_next(content->own, content->words, 0); i < content->words;
         i = bitmap_next(content->own, content->words, i + 1))
        for (uint64_t word = content->own[i]; word; word &= word - 1) {
            uint64_t page = i * 64 + (uint64_t)__builtin_ctzll(word);
            if (page < gmem_pages(gmem))
                copy_page(into, gmem->base, page);
        }
}

int settle_write(const struct content *content, const struct gmem *gmem, int memfd, struct image *image,
                 struct err *err)
{
    void *into;
    int rc = image_map_shared(memfd, gmem->size, &into, err);
    if (rc < 0)
        return rc;
    rc = copy_image(content, gmem, into, err);
    if (rc == 0) {
        copy_own(content, gmem, into);
        rc = image_settle(memfd, into, gmem->size, image, err);
    }
    munmap(into, gmem->size);
    return rc == 0 ? image_seal(memfd, err) : rc;
}

int settle_take(struct content *content, struct gmem *gmem, int memfd, const struct image *image, struct err *err)
{
    int rc = image_check(memfd, image, err);
    if (rc == 0)
        rc = image_map_over(memfd, image, gmem->base, err);
    if (rc < 0)
        return rc;
    fd_close(&content->image_fd);
    content->image_fd = memfd;
    bitmap_clear(content->own, content->words);
    return 0;
}
