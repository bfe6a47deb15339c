/* own.h: resources that are released when their scope ends.
 *
 * SECCOMP: close - whatever was opened, or came with a message
 *
 * Declare them empty (`own_fd int fd = -1;`), fill them, and hand them on with steal_fd or steal_ptr.
 * A function uses these or a goto ladder, not both. */
#ifndef FORKD_BASE_OWN_H
#define FORKD_BASE_OWN_H

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

/* Closes *fd if it is open and marks it closed; keeps errno. */
static inline void fd_close(int *fd)
{
    if (*fd < 0)
        return;
    int saved = errno;
    close(*fd);
    errno = saved;
    *fd = -1;
}

static inline void own_free_release(void *p)
{
    free(*(void **)p);
}

static inline void own_file_release(FILE **f)
{
    if (*f)
        fclose(*f);
}

static inline void own_dir_release(DIR **d)
{
    if (*d)
        closedir(*d);
}

#define own_fd   __attribute__((cleanup(fd_close)))
#define own_free __attribute__((cleanup(own_free_release)))
#define own_file __attribute__((cleanup(own_file_release)))
#define own_dir  __attribute__((cleanup(own_dir_release)))

/* Takes the descriptor out of its variable, so that the scope's end leaves it open. */
static inline int steal_fd(int *fd)
{
    int taken = *fd;
    *fd = -1;
    return taken;
}

#define steal_ptr(p)                                                                                                   \
    ({                                                                                                                 \
        __typeof__(p) *steal_at_ = &(p);                                                                               \
        __typeof__(p) steal_taken_ = *steal_at_;                                                                       \
        *steal_at_ = NULL;                                                                                             \
        steal_taken_;                                                                                                  \
    })

#endif
