/* guest_files.h: finding, opening and checking what a parent boots from.
 *
 * A built image is a directory with vmlinux, initrd and rootfs.ext4. Otherwise the request names a kernel, and
 * perhaps a root filesystem and an initrd; without the latter a file `initrd` beside the kernel is taken. A root
 * filesystem must carry the mark of forkd's agent, the volume label of its superblock. */
#ifndef FORKD_CONTROLLER_GUEST_FILES_H
#define FORKD_CONTROLLER_GUEST_FILES_H

#include "base/err.h"
#include "proto/rest.h"

struct guest_files {
    int kernel, initrd, rootfs; /* -1: none */
};

#define GUEST_FILES_EMPTY                                                                                              \
    {                                                                                                                  \
        -1, -1, -1                                                                                                     \
    }

/* `images` is the directory of built ones. -REFUSED_BAD with a sentence that names the file. */
int guest_files_open(const char *images, const struct rest_snapshot_create *rq, struct guest_files *files,
                     struct err *err);
void guest_files_close(struct guest_files *files);

#endif
