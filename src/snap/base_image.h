/* base_image.h: whether a disk's base image is the one a snapshot was made on.
 *
 * A snapshot names its base image by path and keeps its length, the time of its last change and a sum: the CRC-32C of
 * those of its blocks that are not zero, each with its number before it, so that holes need no reading and a copy
 * may have others. Length and time as they were are taken for the same image; with another time (a copy, a touch) the
 * sum decides, which takes as long as reading the image. */
#ifndef FORKD_SNAP_BASE_IMAGE_H
#define FORKD_SNAP_BASE_IMAGE_H

#include "proto/snapshot_meta.h"

/* Notes length, time and sum of the image. Where `base` has the length and the time that it has now, from an earlier
 * snapshot, its sum is kept. */
int base_image_note(struct snapshot_base *base, int fd, struct err *err);

/* -ESTALE with a sentence that names the image where it is another one. */
int base_image_check(const struct snapshot_base *base, int fd, struct err *err);

#endif
