/* control.c: see control.h.
 * SECCOMP: accept4 - a new controller adopts the process
 */
#include "vmm/control.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/own.h"

#include <string.h>
#include <sys/socket.h>

/* The guest's devices stand still meanwhile. */
enum { PATIENCE_SECONDS = 5 };

static void close_source(struct control *control, struct loop_source *source)
{
    int fd = source->fd;
    loop_remove(control->loop, source);
    fd_close(&fd);
}

static bool same_secret(const uint8_t *a, const uint8_t *b)
{
    unsigned differ = 0;
    for (unsigned i = 0; i < CTL_SECRET_LEN; i++)
        differ |= a[i] ^ b[i];
    return differ == 0;
}

static void on_request(struct loop_source *source, uint32_t events)
{
    struct control *control = list_entry(source, struct control, sock);
    struct ctl_message m;
    struct err err = {0};
    int rc = ctl_recv(source->fd, &m, &err);
    if (rc == -EAGAIN)
        return;
    if (rc > 0) {
        control->request(control, &m);
        return;
    }
    if (rc < 0)
        log_warn("%s: %s; closing the control socket", control->id, err.text);
    close_source(control, source);
    control->lost(control);
}

static void adopt(struct control *control, uint32_t request)
{
    int fd = control->candidate.fd;
    loop_remove(control->loop, &control->candidate);
    close_source(control, &control->sock);
    struct err err = {0};
    if (loop_add(control->loop, &control->sock, fd, EPOLLIN, &err) < 0) {
        log_warn("%s: %s", control->id, err.text);
        fd_close(&fd);
        return;
    }
    struct ctl_message m;
    ctl_message_init(&m, CTL_ADOPTED, request);
    memcpy(m.adopted.id, control->id, sizeof m.adopted.id);
    m.adopted.pid = (uint32_t)getpid();
    m.adopted.role = (uint8_t)control->role;
    m.adopted.stalled = control->stalled;
    m.adopted.handed = control->handed;
    m.fd[CTL_FD_OWN_MEMORY] = control->own_memory_fd;
    control_send(control, &m);
}

static void on_candidate(struct loop_source *source, uint32_t events)
{
    struct control *control = list_entry(source, struct control, candidate);
    struct ctl_message m;
    int rc = ctl_recv(source->fd, &m, NULL);
    if (rc == -EAGAIN)
        return;
    if (rc > 0 && m.type == CTL_ADOPT && same_secret(m.adopt.secret, control->secret)) {
        adopt(control, m.request);
        return;
    }
    if (rc > 0)
        ctl_message_close(&m);
    close_source(control, source);
}

static void on_connect(struct loop_source *source, uint32_t events)
{
    struct control *control = list_entry(source, struct control, listen);
    own_fd int fd = accept4(source->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (fd < 0)
        return;
    close_source(control, &control->candidate);
    if (loop_add(control->loop, &control->candidate, fd, EPOLLIN, NULL) == 0)
        steal_fd(&fd);
}

int control_init(struct control *control, struct loop *loop, enum ctl_role role, const char *id,
                 const uint8_t secret[CTL_SECRET_LEN], int sock, int listen_fd, int own_memory_fd, struct err *err)
{
    control->loop = loop;
    control->role = role;
    control->stalled = control->handed = false;
    control->own_memory_fd = own_memory_fd;
    control->sock = (struct loop_source){.fd = -1, .fn = on_request};
    control->listen = (struct loop_source){.fd = -1, .fn = on_connect};
    control->candidate = (struct loop_source){.fd = -1, .fn = on_candidate};
    snprintf(control->id, sizeof control->id, "%s", id);
    memcpy(control->secret, secret, CTL_SECRET_LEN);
    int rc = loop_add(loop, &control->sock, sock, EPOLLIN, err);
    if (rc == 0 && listen_fd >= 0)
        rc = loop_add(loop, &control->listen, listen_fd, EPOLLIN, err);
    return rc;
}

void control_destroy(struct control *control)
{
    close_source(control, &control->sock);
    close_source(control, &control->listen);
    close_source(control, &control->candidate);
    fd_close(&control->own_memory_fd);
    explicit_bzero(control->secret, sizeof control->secret);
}

void control_send(struct control *control, const struct ctl_message *m)
{
    struct err err = {0};
    if (control->sock.fd < 0)
        return;
    uint64_t deadline = m->type == CTL_DOORBELL ? 0 : clock_monotonic_ns() + PATIENCE_SECONDS * NS_PER_SEC;
    int rc = ctl_send_until(control->sock.fd, m, deadline, &err);
    if (rc < 0 && rc != -EPIPE && rc != -ECONNRESET && m->type != CTL_DOORBELL)
        log_warn("%s: %s", control->id, err.text);
}

void control_send_failed(struct control *control, uint32_t request, const struct err *why)
{
    struct ctl_message m;
    ctl_message_init(&m, CTL_FAILED, request);
    m.failed.code = (uint32_t)why->code;
    snprintf(m.failed.text, sizeof m.failed.text, "%s", why->text);
    control_send(control, &m);
}

void control_send_birth(struct control *control, enum ctl_type type, uint32_t request)
{
    struct ctl_message m;
    ctl_message_init(&m, type, request);
    m.pid.pid = (uint32_t)getpid();
    m.fd[CTL_FD_OWN_MEMORY] = control->own_memory_fd;
    control_send(control, &m);
}
