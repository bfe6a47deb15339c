/* dirty.c: see dirty.h. */
#include "vm/dirty.h"

#include "sys/kvm.h"

#include <errno.h>
#include <sys/mman.h>

static uint64_t *bitmap_map(size_t words)
{
    void *map = mmap(NULL, words * sizeof(uint64_t), PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    return map == MAP_FAILED ? NULL : map;
}

int dirty_init(struct dirty *dirty, const struct machine *m, struct err *err)
{
    size_t words = (gmem_pages(&m->gmem) + 63) / 64;
    *dirty = (struct dirty){.words = words,
                            .since_birth = bitmap_map(words),
                            .since_branch = bitmap_map(words),
                            .fetched = bitmap_map(words)};
    if (dirty->since_birth && dirty->since_branch && dirty->fetched)
        return 0;
    dirty_destroy(dirty);
    return err_set(err, ENOMEM, "map the bitmaps of written pages");
}

static void bitmap_unmap(uint64_t *map, size_t words)
{
    if (map)
        munmap(map, words * sizeof(uint64_t));
}

void dirty_destroy(struct dirty *dirty)
{
    bitmap_unmap(dirty->since_birth, dirty->words);
    bitmap_unmap(dirty->since_branch, dirty->words);
    bitmap_unmap(dirty->fetched, dirty->words);
    *dirty = (struct dirty){0};
}

/* A slot begins at a multiple of 64 pages of RAM: both bounds of the hole are. */
_Static_assert(GMEM_LOW_END % (64 * GMEM_PAGE) == 0, "the high slot's bits begin at a word");

int dirty_fetch(struct dirty *dirty, struct machine *m, uint64_t *into, struct err *err)
{
    int rc = kvm_dirty_get(m->vm_fd, 0, dirty->fetched, err);
    if (rc == 0 && m->gmem.size > m->gmem.low)
        rc = kvm_dirty_get(m->vm_fd, 1, dirty->fetched + m->gmem.low / GMEM_PAGE / 64, err);
    if (rc < 0)
        return rc;
    gmem_fetch_marks(&m->gmem, dirty->fetched);
    for (size_t i = 0; i < dirty->words; i++) {
        uint64_t word = dirty->fetched[i];
        if (!word)
            continue;
        dirty->since_birth[i] |= word;
        dirty->since_branch[i] |= word;
        into[i] |= word;
    }
    return 0;
}

void dirty_branched(struct dirty *dirty)
{
    /* Fresh zero pages instead of writing zeros: private anonymous memory that was given back reads as zero. */
    madvise(dirty->since_branch, dirty->words * sizeof(uint64_t), MADV_DONTNEED);
}

void dirty_add_since_branch(const struct dirty *dirty, uint64_t *into)
{
    for (size_t i = 0; i < dirty->words; i++)
        if (dirty->since_branch[i])
            into[i] |= dirty->since_branch[i];
}
