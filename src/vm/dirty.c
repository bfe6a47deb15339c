/* dirty.c: see dirty.h. */
#include "vm/dirty.h"

#include "sys/kvm.h"

#include <errno.h>
#include <sys/random.h>

int dirty_init(struct dirty *dirty, const struct machine *m, struct err *err)
{
    size_t words = bitmap_words(gmem_pages(&m->gmem));
    *dirty = (struct dirty){.words = words,
                            .since_birth = bitmap_map(words),
                            .since_branch = bitmap_map(words),
                            .fetched = bitmap_map(words),
                            .birth = m->instant};
    int rc = 0;
    if (!dirty->since_birth || !dirty->since_branch || !dirty->fetched)
        rc = err_set(err, ENOMEM, "map the bitmaps of written pages");
    else if (getrandom(&dirty->captured.source, sizeof dirty->captured.source, 0) != sizeof dirty->captured.source)
        rc = err_set(err, errno, "getrandom for the name of a branch's source");
    if (rc < 0)
        dirty_destroy(dirty);
    return rc;
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

/* Clears what `log` has set, a piece at a time: KVM holds its lock over a piece, write-protecting page by page, and a
 * CPU that writes waits for it. */
static int clear_slot(const struct machine *m, uint32_t slot, const uint64_t *log, uint64_t pages, struct err *err)
{
    enum { PIECE_WORDS = 64 };
    int rc = 0;
    size_t words = bitmap_words(pages), next;
    for (size_t at = bitmap_next(log, words, 0); rc == 0 && at < words; at = bitmap_next(log, words, next)) {
        next = words - at < PIECE_WORDS ? words : at + PIECE_WORDS;
        uint64_t last = next * 64 < pages ? next * 64 : pages;
        rc = kvm_dirty_clear(m->vm_fd, slot, at * 64, (uint32_t)(last - at * 64), log + at, err);
    }
    return rc;
}

/* The log of a slot that has `pages` pages of RAM. */
static int fetch_slot(const struct machine *m, uint32_t slot, uint64_t *log, uint64_t pages, bool clear,
                      struct err *err)
{
    int rc = kvm_dirty_get(m->vm_fd, slot, log, err);
    return rc < 0 || !clear ? rc : clear_slot(m, slot, log, pages, err);
}

static int fetch(struct dirty *dirty, struct machine *m, struct bitmap_summed *into, bool clear, struct err *err)
{
    uint64_t low = m->gmem.low / GMEM_PAGE, pages = gmem_pages(&m->gmem);
    int rc = fetch_slot(m, 0, dirty->fetched, low, clear, err);
    if (rc == 0 && pages > low)
        rc = fetch_slot(m, 1, dirty->fetched + low / 64, pages - low, clear, err);
    if (rc < 0)
        return rc;
    gmem_fetch_marks(&m->gmem, dirty->fetched);
    for (size_t i = bitmap_next(dirty->fetched, dirty->words, 0); i < dirty->words;
         i = bitmap_next(dirty->fetched, dirty->words, i + 1)) {
        uint64_t word = dirty->fetched[i];
        dirty->since_birth[i] |= word;
        dirty->since_branch[i] |= word;
        bitmap_summed_or(into, i, word);
    }
    return 0;
}

int dirty_fetch(struct dirty *dirty, struct machine *m, struct bitmap_summed *into, struct err *err)
{
    return fetch(dirty, m, into, true, err);
}

int dirty_look(struct dirty *dirty, struct machine *m, struct bitmap_summed *into, struct err *err)
{
    return fetch(dirty, m, into, false, err);
}

struct machine_instant dirty_capture(struct dirty *dirty)
{
    dirty->captured.number++;
    return dirty->captured;
}

void dirty_branched(struct dirty *dirty)
{
    dirty->branched = dirty->captured.number;
    bitmap_clear(dirty->since_branch, dirty->words);
}

/* The bitmap of what a template of that instant lacks, or NULL. */
static const uint64_t *lacked_by(const struct dirty *dirty, struct machine_instant have)
{
    if (have.source == dirty->birth.source && have.number == dirty->birth.number)
        return dirty->since_birth;
    if (have.source != dirty->captured.source || have.number > dirty->branched)
        return NULL;
    return have.number == dirty->branched ? dirty->since_branch : dirty->since_birth;
}

int dirty_add_since(const struct dirty *dirty, struct machine_instant have, struct bitmap_summed *into, struct err *err)
{
    const uint64_t *lacked = lacked_by(dirty, have);
    if (!lacked)
        return err_say(err, EINVAL, "the template to branch from is not one of this sandbox");
    bitmap_summed_add(into, lacked);
    return 0;
}
