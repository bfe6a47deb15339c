/* own_memory.c: see own_memory.h.
 *
 * SECCOMP: openat - its own files of /proc at birth; the jail left it no other path to open
 * SECCOMP: prctl[a0 == PR_SET_DUMPABLE] - dumpable for the moment in which it opens them */
#include "sys/own_memory.h"

#include "base/own.h"

#include <fcntl.h>
#include <sys/prctl.h>

int own_memory_proc_open(struct err *err)
{
    int fd = open("/proc", O_PATH | O_DIRECTORY | O_CLOEXEC);
    return fd < 0 ? err_set(err, errno, "open /proc") : fd;
}

static int open_own(int proc_fd, const char *name, int flags, struct err *err)
{
    if (prctl(PR_SET_DUMPABLE, 1) < 0)
        return err_set(err, errno, "become dumpable");
    int fd = openat(proc_fd, name, flags | O_CLOEXEC);
    int failed = errno;
    if (prctl(PR_SET_DUMPABLE, 0) < 0) {
        int rc = err_set(err, errno, "stop being dumpable");
        fd_close(&fd);
        return rc;
    }
    return fd < 0 ? err_set(err, failed, "open /proc/%s", name) : fd;
}

int own_memory_open(int proc_fd, struct err *err)
{
    return open_own(proc_fd, "self/mem", O_RDONLY, err);
}

int own_memory_set_oom_score(int proc_fd, int adj, struct err *err)
{
    own_fd int fd = open_own(proc_fd, "self/oom_score_adj", O_WRONLY, err);
    if (fd < 0)
        return fd;
    char text[16];
    int len = snprintf(text, sizeof text, "%d", adj);
    if (write(fd, text, (size_t)len) < 0)
        return err_set(err, errno, "set oom_score_adj to %d", adj);
    return 0;
}
