/* rundir.c: see rundir.h. */
#include "controller/rundir.h"

#include "base/io.h"
#include "base/own.h"
#include "sys/dirlock.h"
#include "sys/sockdir.h"

#include <fcntl.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>

enum { CONSOLE_LINES = 20, CONSOLE_WINDOW = 4096, VSOCK_BACKLOG = 64, CTL_BACKLOG = 4, CONNECT_MS = 5000 };

#define SHELF ".ready"

static const char *const seat_names[] = {"ctl", "vsock", "console.log"};

static void seat_remove(int parent, const char *id)
{
    own_fd int dirfd = openat(parent, id, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
    if (dirfd < 0)
        return;
    for (size_t i = 0; i < sizeof seat_names / sizeof *seat_names; i++)
        unlinkat(dirfd, seat_names[i], 0);
    unlinkat(parent, id, AT_REMOVEDIR);
}

/* Where this fails every seat is made when it is needed. */
static void shelf_open(struct rundir *run)
{
    if (mkdirat(run->fd, SHELF, 0700) < 0 && errno != EEXIST)
        return;
    run->shelf_fd = openat(run->fd, SHELF, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
}

int rundir_open(const char *path, struct rundir *run, struct err *err)
{
    *run = (struct rundir){.fd = -1, .shelf_fd = -1};
    if (mkdir(path, 0700) < 0 && errno != EEXIST)
        return err_set(err, errno, "make the run directory %s", path);
    own_fd int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return err_set(err, errno, "open the run directory %s", path);
    int rc = dirlock_take(fd);
    if (rc < 0)
        return rc == -EWOULDBLOCK
                   ? err_say(err, EWOULDBLOCK, "another forkd-controller is running on this state (it holds %s)", path)
                   : err_set(err, -rc, "lock the run directory %s", path);
    run->fd = steal_fd(&fd);
    shelf_open(run);
    return 0;
}

void rundir_close(struct rundir *run)
{
    if (run->fd < 0)
        return;
    unlinkat(run->fd, SHELF, AT_REMOVEDIR);
    unlinkat(run->fd, "pid", 0); /* the directory is still locked: no other controller's */
    fd_close(&run->shelf_fd);
    fd_close(&run->fd);
}

int rundir_note_pid(const struct rundir *run, struct err *err)
{
    own_fd int fd = openat(run->fd, "pid", O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (fd < 0)
        return err_set(err, errno, "write the pid into the run directory");
    char text[16];
    return io_write_all(fd, text, (size_t)snprintf(text, sizeof text, "%d\n", getpid()), err);
}

void seat_close(struct seat *seat)
{
    fd_close(&seat->vsock);
    fd_close(&seat->listen);
    fd_close(&seat->console);
    fd_close(&seat->layer);
}

/* A file without a name, on the state's disk where it can have such, else in memory. */
static int layer_make(int dirfd, struct err *err)
{
    int fd = openat(dirfd, ".", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    if (fd < 0 && (errno == EOPNOTSUPP || errno == EISDIR || errno == ENOENT))
        fd = memfd_create("forkd-layer", MFD_CLOEXEC);
    return fd < 0 ? err_set(err, errno, "make a disk layer") : fd;
}

static int seat_fill(int dirfd, bool with_layer, struct seat *seat, struct err *err)
{
    seat->listen = sockdir_listen(dirfd, "ctl", SOCK_SEQPACKET, CTL_BACKLOG, err);
    if (seat->listen < 0)
        return seat->listen;
    seat->vsock = sockdir_listen(dirfd, "vsock", SOCK_STREAM | SOCK_NONBLOCK, VSOCK_BACKLOG, err);
    if (seat->vsock < 0)
        return seat->vsock;
    seat->console = openat(dirfd, "console.log", O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (seat->console < 0)
        return err_set(err, errno, "make console.log");
    if (with_layer && (seat->layer = layer_make(dirfd, err)) < 0)
        return seat->layer;
    return 0;
}

static int seat_make(int parent, const char *id, bool with_layer, struct seat *seat, struct err *err)
{
    *seat = (struct seat)SEAT_EMPTY;
    if (mkdirat(parent, id, 0700) < 0)
        return err_set(err, errno, "make the run directory of %s", id);
    own_fd int dirfd = openat(parent, id, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int rc = dirfd < 0 ? err_set(err, errno, "open the run directory of %s", id) : 0;
    if (rc == 0)
        rc = seat_fill(dirfd, with_layer, seat, err);
    if (rc == 0)
        return 0;
    err_wrap(err, "the run directory of %s", id);
    seat_close(seat);
    seat_remove(parent, id);
    return rc;
}

int rundir_seat(struct rundir *run, const char *id, bool with_layer, struct seat *seat, struct err *err)
{
    return seat_make(run->fd, id, with_layer, seat, err);
}

int rundir_shelve(struct rundir *run, const char *id, struct seat *seat, struct err *err)
{
    *seat = (struct seat)SEAT_EMPTY;
    return run->shelf_fd < 0 ? err_say(err, ENOENT, "the run directory has no shelf")
                             : seat_make(run->shelf_fd, id, true, seat, err);
}

int rundir_unshelve(struct rundir *run, const char *id, struct err *err)
{
    return renameat(run->shelf_fd, id, run->fd, id) < 0
               ? err_set(err, errno, "put the run directory of %s in place", id)
               : 0;
}

void rundir_shelf_remove(const struct rundir *run, const char *id)
{
    if (run->shelf_fd >= 0)
        seat_remove(run->shelf_fd, id);
}

int seat_layer_frozen(const struct seat *seat, int *fd, struct err *err)
{
    *fd = -1;
    if (seat->layer < 0)
        return 0;
    char path[32];
    snprintf(path, sizeof path, "/proc/self/fd/%d", seat->layer);
    *fd = open(path, O_RDONLY | O_CLOEXEC);
    return *fd < 0 ? err_set(err, errno, "open the disk layer read-only") : 0;
}

void rundir_remove(const struct rundir *run, const char *id)
{
    seat_remove(run->fd, id);
}

/* Entries of a directory of seats are their ids, but for a few names that are none. */
static unsigned directory_sweep(int dirfd, bool (*known)(void *arg, const char *id), void *arg)
{
    unsigned removed = 0;
    int fd = openat(dirfd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    own_dir DIR *dir = fd < 0 ? NULL : fdopendir(fd);
    for (struct dirent *e; dir && (e = readdir(dir));) {
        if (e->d_name[0] == '.' || !strcmp(e->d_name, "pid") || known(arg, e->d_name))
            continue;
        seat_remove(dirfd, e->d_name);
        removed++;
    }
    return removed;
}

unsigned rundir_sweep(const struct rundir *run, bool (*known)(void *arg, const char *id), void *arg)
{
    return directory_sweep(run->fd, known, arg) + (run->shelf_fd < 0 ? 0 : directory_sweep(run->shelf_fd, known, arg));
}

static int connect_to(const struct rundir *run, const char *id, const char *name, int type, struct err *err)
{
    own_fd int dirfd = openat(run->fd, id, O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (dirfd < 0 && errno == ENOENT && run->shelf_fd >= 0)
        dirfd = openat(run->shelf_fd, id, O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (dirfd < 0)
        return err_set(err, errno, "open the run directory of %s", id);
    return sockdir_connect(dirfd, name, type, CONNECT_MS, err);
}

int rundir_connect_ctl(const struct rundir *run, const char *id, struct err *err)
{
    return connect_to(run, id, "ctl", SOCK_SEQPACKET, err);
}

int rundir_connect_vsock(const struct rundir *run, const char *id, struct err *err)
{
    return connect_to(run, id, "vsock", SOCK_STREAM, err);
}

/* Where the last CONSOLE_LINES lines begin. */
static size_t last_lines(const char *text, size_t len)
{
    unsigned lines = 0;
    for (size_t i = len; i > 0; i--)
        if (text[i - 1] == '\n' && i != len && ++lines == CONSOLE_LINES)
            return i;
    return 0;
}

void rundir_console_tail(const struct rundir *run, const char *id, char *text, size_t cap)
{
    text[0] = 0;
    own_fd int dirfd = openat(run->fd, id, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    own_fd int fd = dirfd < 0 ? -1 : openat(dirfd, "console.log", O_RDONLY | O_CLOEXEC);
    struct stat st;
    if (fd < 0 || fstat(fd, &st) < 0)
        return;
    char window[CONSOLE_WINDOW];
    size_t room = cap - 1 < sizeof window ? cap - 1 : sizeof window;
    size_t len = (uint64_t)st.st_size < room ? (size_t)st.st_size : room;
    if (io_pread_all(fd, window, len, (uint64_t)st.st_size - len, NULL) < 0)
        return;
    size_t put = 0;
    for (size_t i = last_lines(window, len); i < len; i++)
        if (window[i] == '\n' || (window[i] >= ' ' && window[i] < 0x7f))
            text[put++] = window[i];
    while (put && text[put - 1] == '\n')
        put--;
    text[put] = 0;
}
