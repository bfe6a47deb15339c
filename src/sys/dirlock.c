/* dirlock.c: see dirlock.h. */
#include "sys/dirlock.h"

#include "base/clock.h"

#include <errno.h>
#include <sys/file.h>
#include <time.h>

enum { MOMENT_MS = 1000, LOOK_AGAIN_MS = 2 };

int dirlock_take(int fd)
{
    const struct timespec again = {.tv_nsec = LOOK_AGAIN_MS * (long)NS_PER_MS};
    uint64_t until = clock_monotonic_ns() + MOMENT_MS * NS_PER_MS;
    while (flock(fd, LOCK_EX | LOCK_NB) < 0) {
        if (errno != EWOULDBLOCK || clock_monotonic_ns() > until)
            return -errno;
        /* Whoever holds it cannot tell when it lets go. */
        nanosleep(&again, NULL);
    }
    return 0;
}
