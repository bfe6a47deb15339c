/* io.h: whole reads and writes of descriptors, and small files as text.
 *
 * All retry on EINTR. "All" means exactly that many bytes or an error; an end of file before that is EPIPE
 * with a sentence. Blocking descriptors are assumed. */
#ifndef FORKD_BASE_IO_H
#define FORKD_BASE_IO_H

#include "base/err.h"

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

int io_read_all(int fd, void *buf, size_t len, struct err *err);
int io_write_all(int fd, const void *buf, size_t len, struct err *err);
int io_pread_all(int fd, void *buf, size_t len, uint64_t at, struct err *err);
int io_pwrite_all(int fd, const void *buf, size_t len, uint64_t at, struct err *err);

/* A small text file into `buf`, terminated, at most cap-1 bytes; returns its length. */
ssize_t io_read_text(int dirfd, const char *path, char *buf, size_t cap, struct err *err);

#endif
