/* image.h: the sealed image of a template's memory.
 *
 * Theory of operation. A parent boots on a shared memfd. When it has parked for good, image_settle() looks for
 * pages that are zero, punches the longest runs of them out of the memfd, and image_seal() makes it immutable.
 * A template then maps it privately with image_map(): the punched runs as anonymous memory, the rest from the
 * memfd.
 *
 * A hole of a sealed memfd must never be mapped: reading one allocates a page in the memfd for good, writing
 * one costs that page and the private copy. So every page outside the zero ranges is data of the memfd, zero
 * or not, and every page inside one is anonymous. The number of ranges is bounded, because a fork pays for
 * every mapping (0.10 ms at 256 mappings, 0.32 at 1024): short runs of zeros stay data.
 *
 * Invariants.
 * 1. Zero ranges are sorted, apart from each other, whole pages; at most IMAGE_ZERO_MAX.
 * 2. After image_settle() the memfd has no hole outside them and no data inside them.
 * 3. The memfd is sealed before it is mapped privately: a mapping of a file still written is of no instant. */
#ifndef FORKD_MEM_IMAGE_H
#define FORKD_MEM_IMAGE_H

#include "base/err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { IMAGE_ZERO_MAX = 120 };

struct image_range {
    uint64_t offset, len; /* RAM offsets */
};

struct image {
    uint64_t size;       /* bytes of RAM */
    uint64_t data_bytes; /* of them in the memfd */
    unsigned zero_count;
    struct image_range zero[IMAGE_ZERO_MAX];
};

/* A memfd of `size` bytes to boot on, mapped shared at *base. Ends with close(*fd) and munmap(*base, size). */
int image_create(uint64_t size, int *fd, void **base, struct err *err);

/* Maps a memfd of that size shared, to be filled: what image_create() does. */
int image_map_shared(int fd, uint64_t size, void **base, struct err *err);

bool image_page_is_zero(const void *page);

/* Finds the zero ranges of the memfd that is mapped shared at `base` (nothing may write to it any more),
 * punches them, and fills every other hole. */
int image_settle(int fd, void *base, uint64_t size, struct image *image, struct err *err);

/* No writable shared mapping may be left: EBUSY otherwise. */
int image_seal(int fd, struct err *err);

/* Whether a memfd from elsewhere is sealed against writing, shrinking and growing, and as long as it should be. */
int image_check(int fd, const struct image *image, struct err *err);

/* Maps a sealed image for a template: private, small pages, no reserve, not in core dumps. The mapping is
 * image->size bytes at *base and keeps the memfd alive by itself. */
int image_map(int fd, const struct image *image, void **base, struct err *err);
/* The same over a mapping of that size that image_map() made, which it replaces part by part: after a failure some
 * parts are of this image, the others as they were. */
int image_map_over(int fd, const struct image *image, void *base, struct err *err);

#endif
