/* notify.c: see notify.h. The protocol is one datagram to a Unix socket; a name that begins with '@' is abstract. */
#include "controller/notify.h"

#include "base/log.h"
#include "base/own.h"

#include <errno.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>

void notify_ready(void)
{
    static const char word[] = "READY=1";
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    const char *name = getenv("NOTIFY_SOCKET");
    size_t len = name ? strlen(name) : 0;
    if (!len)
        return;
    own_fd int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || len >= sizeof address.sun_path) {
        log_warn("NOTIFY_SOCKET %s cannot be used", name);
        return;
    }
    memcpy(address.sun_path, name, len);
    if (*name == '@')
        address.sun_path[0] = 0;
    socklen_t size = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + len);
    if (sendto(fd, word, sizeof word - 1, MSG_NOSIGNAL, (struct sockaddr *)&address, size) < 0)
        log_warn("NOTIFY_SOCKET %s: %s", name, strerrordesc_np(errno));
    unsetenv("NOTIFY_SOCKET");
}
