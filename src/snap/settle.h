/* settle.h: a template's own pages become part of a new sealed image.
 *
 * Theory of operation. A branch's template has pages of its own, and each fork of it pays for their page table entries.
 * Settling copies image and own pages into a fresh memfd, finds its zero ranges, seals it, and maps it over what was
 * there: the same bytes at the same addresses, and no page of its own left. The copying is done by a fork of the
 * template, which reads memory that never changes, so the template goes on forking meanwhile; reading in the template
 * itself would fill its page tables. It costs the host as much memory as the image holds, until the old image has no
 * other user.
 *
 * Invariants.
 * 1. A settling that fails at any step leaves a template of the same content: parts that are mapped anew hold the same
 *    bytes, and the old image stays the content's until all parts are. */
#ifndef FORKD_SNAP_SETTLE_H
#define FORKD_SNAP_SETTLE_H

#include "mem/image.h"
#include "snap/content.h"

/* In the fork: fills `memfd`, which is empty, and seals it. */
int settle_write(const struct content *content, const struct gmem *gmem, int memfd, struct image *image,
                 struct err *err);
/* In the template: takes what its fork wrote. On success `memfd` is the content's. */
int settle_take(struct content *content, struct gmem *gmem, int memfd, const struct image *image, struct err *err);

#endif
