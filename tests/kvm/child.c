/* child.c: see child.h. */
#include "kvm/child.h"

#include "base/io.h"
#include "base/own.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/* The child's side. */
struct life {
    struct rig *rig;
    struct child *self;
    struct loop_source orders;
    bool branch;
};

static void on_order(struct loop_source *source, uint32_t events)
{
    struct life *life = (struct life *)((char *)source - offsetof(struct life, orders));
    char c;
    if (read(life->self->orders_fd, &c, 1) == 1) {
        life->branch = true;
    } else {
        loop_remove(&life->rig->loop, source); /* the test is gone */
    }
    loop_stop(&life->rig->loop);
}

static int child_run(struct rig *rig, void *arg);

static int branch(struct life *life, struct err *err)
{
    int rc = rig_park(life->rig, err);
    if (rc == 0 && rig_fork(life->rig, child_run, life->self + 1) < 0)
        rc = err_set(err, errno, "fork");
    char done = rc == 0 ? 'y' : 'n';
    return rc == 0 && write(life->self->orders_fd, &done, 1) != 1 ? err_set(err, errno, "tell the test") : rc;
}

/* One life after the other until the guest powers off. */
static int child_live(struct life *life, struct err *err)
{
    struct rig *rig = life->rig;
    for (;;) {
        int rc = rig_live(rig, life->self->listen_fd, err);
        life->branch = false;
        life->orders = (struct loop_source){.fd = -1, .fn = on_order};
        if (rc == 0)
            rc = loop_add(&rig->loop, &life->orders, life->self->orders_fd, EPOLLIN, err);
        if (rc == 0)
            rc = rig_run(rig, rig_over, err);
        if (rc < 0)
            return rc;
        if (rig->ended)
            return rig->why == MACHINE_POWEROFF ? 0 : err_say(err, EIO, "the guest ended otherwise: %s", rig->text);
        loop_remove(&rig->loop, &life->orders);
        if (!life->branch)
            return err_say(err, EPIPE, "the test is gone");
        rc = branch(life, err);
        if (rc < 0)
            return rc;
    }
}

static int child_run(struct rig *rig, void *arg)
{
    struct err err = {0};
    struct life life = {.rig = rig, .self = arg};
    int rc = child_live(&life, &err);
    if (rc < 0)
        fprintf(stderr, "a child: %s\n", err.text);
    return rc < 0 ? 1 : 0;
}

/* The test's side. */
int child_prepare(struct child *line, unsigned n, struct err *err)
{
    for (unsigned i = 0; i < n; i++) {
        struct child *c = &line[i];
        int pair[2];
        c->pid = 0;
        c->last = i + 1 == n;
        c->listen_fd = client_listen(&c->at, err);
        if (c->listen_fd < 0)
            return c->listen_fd;
        if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0)
            return err_set(err, errno, "make a socket pair");
        c->order_fd = pair[0];
        c->orders_fd = pair[1];
    }
    return 0;
}

int child_start(struct child *c, struct rig *rig, struct err *err)
{
    c->pid = rig_fork(rig, child_run, c);
    return c->pid < 0 ? err_set(err, errno, "fork") : 0;
}

int child_branch(struct child *c, struct err *err)
{
    char done = 'b';
    int rc = io_write_all(c->order_fd, &done, 1, err);
    if (rc == 0)
        rc = io_read_all(c->order_fd, &done, 1, err);
    return rc < 0 || done == 'y' ? rc : err_say(err, EIO, "the child could not fork");
}

int child_end(struct child *c, struct err *err)
{
    struct client_result result;
    int rc = client_exec(&c->at, "poweroff", &result, err);
    if (rc == 0 && c->pid && rig_wait(c->pid) != 0)
        rc = err_say(err, EIO, "a child did not end well");
    fd_close(&c->listen_fd);
    fd_close(&c->order_fd);
    fd_close(&c->orders_fd);
    return rc;
}

int child_says(const struct child *c, const char *line, const char *expected, struct err *err)
{
    static struct client_result result;
    int rc = client_exec(&c->at, line, &result, err);
    if (rc == 0 && strcmp(result.output, expected))
        rc = err_say(err, EIO, "\"%s\" says %s instead of %s", line, result.output, expected);
    return rc;
}
