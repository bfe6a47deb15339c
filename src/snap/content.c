/* content.c: see content.h. */
#include "snap/content.h"

#include "base/io.h"
#include "base/own.h"
#include "mem/bitmap.h"
#include "mem/image.h"
#include "snap/template.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>

int content_init(struct content *content, const struct machine *m, int image_fd, struct err *err)
{
    *content = (struct content){.image_fd = image_fd, .words = bitmap_words(gmem_pages(&m->gmem))};
    content->own = bitmap_map(content->words);
    if (content->own)
        return 0;
    content_destroy(content);
    return err_set(err, ENOMEM, "map the bitmap of a template's own pages");
}

void content_destroy(struct content *content)
{
    fd_close(&content->image_fd);
    bitmap_unmap(content->own, content->words);
    bitmap_unmap(content->diff, content->words);
    *content = (struct content){.image_fd = -1};
}

int content_set_diff(struct content *content, const uint64_t *diff, unsigned birth_layers, struct err *err)
{
    uint64_t *fresh = bitmap_map(content->words);
    if (!fresh)
        return err_set(err, ENOMEM, "map the bitmap of a branch's diff");
    bitmap_add(fresh, diff, content->words);
    bitmap_unmap(content->diff, content->words);
    content->diff = fresh;
    content->birth_layers = birth_layers;
    return 0;
}

static int bitmap_file(const char *name, const uint64_t *bitmap, size_t words, int *fd, struct err *err)
{
    own_fd int made = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (made < 0)
        return err_set(err, errno, "create %s", name);
    int rc = io_pwrite_all(made, bitmap, words * sizeof *bitmap, 0, err);
    if (rc == 0)
        rc = image_seal(made, err);
    if (rc == 0)
        *fd = steal_fd(&made);
    return rc;
}

int content_export(const struct content *content, struct machine *m, struct content_export *e, struct err *err)
{
    *e = (struct content_export){content->image_fd, -1, -1, -1, 0};
    if (content->image_fd < 0)
        return err_say(err, EINVAL, "a machine without an image cannot be exported");
    int rc = bitmap_file("forkd-pages", content->own, content->words, &e->pages_fd, err);
    if (rc == 0 && content->diff)
        rc = bitmap_file("forkd-diff", content->diff, content->words, &e->diff_fd, err);
    if (rc == 0)
        rc = template_state(m, &e->state_fd, &e->state_bytes, err);
    if (rc < 0)
        content_export_close(e);
    return rc;
}

void content_export_close(struct content_export *e)
{
    fd_close(&e->state_fd);
    fd_close(&e->pages_fd);
    fd_close(&e->diff_fd);
}
