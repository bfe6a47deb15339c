/* listen.c: the controller's listening socket; see http.h. */
#include "controller/http.h"

#include "base/own.h"
#include "sys/sockdir.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netdb.h>
#include <string.h>
#include <sys/socket.h>

enum { BACKLOG = 511, CONNECT_MS = 5000 };

/* "HOST:PORT" and "[HOST]:PORT" apart. */
static int split(const char *bind, char *host, size_t host_cap, const char **port, struct err *err)
{
    const char *colon = strrchr(bind, ':');
    size_t len = colon ? (size_t)(colon - bind) : 0;
    if (!colon || len + 1 > host_cap || !colon[1])
        return err_say(err, EINVAL, "--bind %s is neither ADDRESS:PORT nor unix:/path", bind);
    if (len > 1 && bind[0] == '[' && bind[len - 1] == ']') {
        bind++;
        len -= 2;
    }
    memcpy(host, bind, len);
    host[len] = 0;
    *port = colon + 1;
    return 0;
}

static bool is_loopback(const struct sockaddr *addr)
{
    if (addr->sa_family == AF_INET)
        return ntohl(((const struct sockaddr_in *)addr)->sin_addr.s_addr) >> 24 == 127;
    return addr->sa_family == AF_INET6 && IN6_IS_ADDR_LOOPBACK(&((const struct sockaddr_in6 *)addr)->sin6_addr);
}

static int listen_inet(const char *where, bool *loopback, struct err *err)
{
    char host[128];
    const char *port = NULL;
    int rc = split(where, host, sizeof host, &port, err);
    if (rc < 0)
        return rc;
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE | AI_NUMERICSERV}, *found;
    int failed = getaddrinfo(*host ? host : NULL, port, &hints, &found);
    if (failed)
        return err_say(err, EINVAL, "--bind %s: %s", where, gai_strerror(failed));
    *loopback = is_loopback(found->ai_addr);
    int one = 1;
    own_fd int fd = socket(found->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one) < 0 ||
        bind(fd, found->ai_addr, found->ai_addrlen) < 0 || listen(fd, BACKLOG) < 0)
        rc = err_set(err, errno, "listen on %s", where);
    freeaddrinfo(found);
    return rc < 0 ? rc : steal_fd(&fd);
}

static int listen_unix(const char *path, struct err *err)
{
    const char *slash = strrchr(path, '/'), *name = slash ? slash + 1 : path;
    char dir[4096];
    if ((size_t)snprintf(dir, sizeof dir, "%.*s", slash ? (int)(slash - path) + 1 : 2, slash ? path : "./") >=
        sizeof dir)
        return err_say(err, ENAMETOOLONG, "--bind unix:%s is too long", path);
    own_fd int dirfd = open(dir, O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (dirfd < 0)
        return err_set(err, errno, "--bind unix:%s: open %s", path, dir);
    int fd = sockdir_listen(dirfd, name, SOCK_STREAM | SOCK_NONBLOCK, BACKLOG, err);
    if (fd != -EADDRINUSE)
        return fd < 0 ? err_wrap(err, "--bind unix:%s", path) : fd;
    own_fd int other = sockdir_connect(dirfd, name, SOCK_STREAM, CONNECT_MS, err);
    if (other != -ECONNREFUSED)
        return err_say(err, EADDRINUSE, "--bind unix:%s: somebody listens there already", path);
    int rc = sockdir_unlink(dirfd, name, err);
    return rc < 0 ? rc : sockdir_listen(dirfd, name, SOCK_STREAM | SOCK_NONBLOCK, BACKLOG, err);
}

int http_listen(const char *bind, bool *loopback, bool *over_unix, struct err *err)
{
    *over_unix = !strncmp(bind, "unix:", 5);
    *loopback = *over_unix;
    return *over_unix ? listen_unix(bind + 5, err) : listen_inet(bind, loopback, err);
}
