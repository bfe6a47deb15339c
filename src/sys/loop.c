/* loop.c: see loop.h.
 *
 * SECCOMP: epoll_create1 - a forked sandbox makes a loop of its own
 * SECCOMP: epoll_ctl - sources come and go
 * SECCOMP: epoll_wait - the loop waits
 * SECCOMP: eventfd2 - the loop's wake-up, and those of devices */
#include "sys/loop.h"

#include "base/clock.h"
#include "base/own.h"

#include <sys/eventfd.h>

static void wake_deliver(struct loop_source *source, uint32_t events)
{
    struct loop *loop = list_entry(source, struct loop, wake);
    uint64_t count;
    if (read(loop->wake_fd, &count, sizeof count) == sizeof count && loop->on_wake)
        loop->on_wake(loop);
}

int loop_init(struct loop *loop, struct err *err)
{
    *loop = (struct loop)LOOP_EMPTY;
    list_init(&loop->timers);
    loop->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    if (loop->epoll_fd < 0)
        return err_set(err, errno, "epoll_create1");
    loop->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (loop->wake_fd < 0) {
        int rc = err_set(err, errno, "eventfd");
        loop_destroy(loop);
        return rc;
    }
    loop->wake.fn = wake_deliver;
    int rc = loop_add(loop, &loop->wake, loop->wake_fd, EPOLLIN, err);
    if (rc < 0)
        loop_destroy(loop);
    return rc;
}

void loop_destroy(struct loop *loop)
{
    fd_close(&loop->wake_fd);
    fd_close(&loop->epoll_fd);
}

static int control(struct loop *loop, int op, struct loop_source *source, int fd, uint32_t events, struct err *err)
{
    struct epoll_event e = {.events = events, .data.ptr = source};
    if (epoll_ctl(loop->epoll_fd, op, fd, &e) < 0)
        return err_set(err, errno, "epoll_ctl of descriptor %d", fd);
    return 0;
}

/* The source is complete before the kernel has it: the loop's thread may be serving it before that call returns. */
int loop_add(struct loop *loop, struct loop_source *source, int fd, uint32_t events, struct err *err)
{
    source->fd = fd;
    int rc = control(loop, EPOLL_CTL_ADD, source, fd, events, err);
    if (rc < 0)
        source->fd = -1;
    return rc;
}

int loop_change(struct loop *loop, struct loop_source *source, uint32_t events, struct err *err)
{
    return control(loop, EPOLL_CTL_MOD, source, source->fd, events, err);
}

void loop_remove(struct loop *loop, struct loop_source *source)
{
    if (source->fd < 0)
        return;
    control(loop, EPOLL_CTL_DEL, source, source->fd, 0, NULL);
    source->fd = -1;
    for (int i = 0; i < loop->batch_len; i++)
        if (loop->batch[i].data.ptr == source)
            loop->batch[i].data.ptr = NULL;
}

void loop_timer_set(struct loop *loop, struct loop_timer *timer, uint64_t at_ns)
{
    list_remove(&timer->link);
    timer->at_ns = at_ns;
    struct list *before = &loop->timers;
    list_for_each (n, &loop->timers) {
        if (list_entry(n, struct loop_timer, link)->at_ns > at_ns) {
            before = n;
            break;
        }
    }
    list_append(before, &timer->link);
}

void loop_timer_clear(struct loop_timer *timer)
{
    list_remove(&timer->link);
}

static void timers_fire(struct loop *loop)
{
    uint64_t now = clock_monotonic_ns();
    while (!list_empty(&loop->timers)) {
        struct loop_timer *first = list_entry(loop->timers.next, struct loop_timer, link);
        if (first->at_ns > now)
            return;
        list_remove(&first->link);
        first->fn(first);
    }
}

static int wait_ms(const struct loop *loop)
{
    if (list_empty(&loop->timers))
        return -1;
    return clock_ms_until(list_entry(loop->timers.next, struct loop_timer, link)->at_ns);
}

int loop_run(struct loop *loop, struct err *err)
{
    loop->stopped = false;
    while (!loop->stopped) {
        int n = epoll_wait(loop->epoll_fd, loop->batch, LOOP_BATCH, wait_ms(loop));
        if (n < 0 && errno != EINTR)
            return err_set(err, errno, "epoll_wait");
        loop->batch_len = n > 0 ? n : 0;
        for (int i = 0; i < loop->batch_len && !loop->stopped; i++) {
            struct loop_source *source = loop->batch[i].data.ptr;
            if (source)
                source->fn(source, loop->batch[i].events);
        }
        loop->batch_len = 0;
        if (!loop->stopped)
            timers_fire(loop);
    }
    return 0;
}

void loop_stop(struct loop *loop)
{
    loop->stopped = true;
}

void loop_wake(struct loop *loop)
{
    uint64_t one = 1;
    int saved = errno;
    ssize_t n = write(loop->wake_fd, &one, sizeof one);
    (void)n; /* EAGAIN: a wake-up is pending already */
    errno = saved;
}
