/* content.h: what a template's memory and disk are made of.
 *
 * Theory of operation. A template's memory is a sealed image, mapped privately, and pages of its own that differ from
 * it: none in a template that was loaded, and what the stream brought in a branch. The content names them, so that
 * whoever stores the template reads the image from its memfd and only those pages from the process: reading the others
 * there would give the process a page table entry for each, which every fork would copy.
 *
 * A branch also knows what differs from the template that its source was forked from: pages by a bitmap, disk blocks by
 * the number of layers there were. That is what a diff holds.
 *
 * Bitmaps have one bit per page of RAM, in 64-bit words, mapped without reserve: untouched words cost nothing. A
 * fork inherits all of it. */
#ifndef FORKD_SNAP_CONTENT_H
#define FORKD_SNAP_CONTENT_H

#include "vm/machine.h"

struct content {
    int image_fd; /* sealed memfd; -1: a machine that came from nowhere, as tests make them */
    size_t words;
    uint64_t *own;         /* pages that differ from the image, or may */
    uint64_t *diff;        /* pages written since the source was forked; NULL: not a branch */
    unsigned birth_layers; /* of the disk its source was forked with */
};

/* Takes the descriptor, whether it succeeds or not. */
int content_init(struct content *content, const struct machine *m, int image_fd, struct err *err);
void content_destroy(struct content *content);

/* It is a branch now: `diff` is copied. */
int content_set_diff(struct content *content, const uint64_t *diff, unsigned birth_layers, struct err *err);

/* The same for whoever stores it, as files. Descriptors are the caller's; layers stay the machine's. */
struct content_export {
    int image_fd, state_fd, pages_fd, diff_fd; /* diff: -1 where there is none; the image stays the content's */
    uint64_t state_bytes;
};

int content_export(const struct content *content, struct machine *m, struct content_export *e, struct err *err);
void content_export_close(struct content_export *e);

#endif
