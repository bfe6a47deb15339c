/* sockdir.c: see sockdir.h. */
#include "sys/sockdir.h"

#include "base/own.h"

#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

_Static_assert(sizeof "/proc/self/fd/2147483647/" + SOCKDIR_NAME_MAX <= sizeof((struct sockaddr_un *)0)->sun_path,
               "any name fits behind any descriptor");

/* A socket, and the address it is to have or to find. */
static int socket_for(int dirfd, const char *name, int type, struct sockaddr_un *address, struct err *err)
{
    if (!*name || strlen(name) > SOCKDIR_NAME_MAX || strchr(name, '/'))
        return err_say(err, EINVAL, "'%s' is no name for a socket: 1 to %d bytes without a slash", name,
                       SOCKDIR_NAME_MAX);
    *address = (struct sockaddr_un){.sun_family = AF_UNIX};
    snprintf(address->sun_path, sizeof address->sun_path, "/proc/self/fd/%d/%s", dirfd, name);
    int fd = socket(AF_UNIX, type | SOCK_CLOEXEC, 0);
    return fd < 0 ? err_set(err, errno, "socket") : fd;
}

int sockdir_listen(int dirfd, const char *name, int type, int backlog, struct err *err)
{
    struct sockaddr_un address;
    own_fd int fd = socket_for(dirfd, name, type, &address, err);
    if (fd < 0)
        return fd;
    /* The file takes its mode from the socket's, so it is never open to others, not even for a moment. */
    if (fchmod(fd, 0600) < 0)
        return err_set(err, errno, "fchmod of socket %s", name);
    if (bind(fd, (struct sockaddr *)&address, sizeof address) < 0)
        return err_set(err, errno, "bind socket %s", name);
    if (listen(fd, backlog) < 0)
        return err_set(err, errno, "listen at socket %s", name);
    return steal_fd(&fd);
}

/* How long connect(2) waits, and any later send: 0 is for ever. */
static int set_patience(int fd, unsigned ms, struct err *err)
{
    const struct timeval patience = {.tv_sec = ms / 1000, .tv_usec = ms % 1000 * 1000L};
    return setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience) < 0
               ? err_set(err, errno, "set the time limit of a socket")
               : 0;
}

int sockdir_connect(int dirfd, const char *name, int type, unsigned wait_ms, struct err *err)
{
    struct sockaddr_un address;
    own_fd int fd = socket_for(dirfd, name, type, &address, err);
    if (fd < 0)
        return fd;
    int rc = set_patience(fd, wait_ms, err);
    if (rc < 0)
        return rc;
    do
        rc = connect(fd, (struct sockaddr *)&address, sizeof address);
    while (rc < 0 && errno == EINTR);
    if (rc < 0 && errno == EAGAIN)
        return err_say(err, ETIMEDOUT, "who listens at socket %s does not accept anybody", name);
    if (rc < 0)
        return err_set(err, errno, "connect to socket %s", name);
    rc = set_patience(fd, 0, err);
    return rc < 0 ? rc : steal_fd(&fd);
}

int sockdir_unlink(int dirfd, const char *name, struct err *err)
{
    if (unlinkat(dirfd, name, 0) < 0 && errno != ENOENT)
        return err_set(err, errno, "unlink socket %s", name);
    return 0;
}
