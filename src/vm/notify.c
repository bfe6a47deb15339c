/* notify.c: see notify.h. */
#include "vm/notify.h"

#include "base/log.h"
#include "base/own.h"
#include "sys/kvm.h"

#include <sys/eventfd.h>

/* Offset of QueueNotify in a device's window (virtio 1.2, section 4.2.2). */
enum { QUEUE_NOTIFY = 0x50 };

static void on_event(struct loop_source *source, uint32_t events)
{
    struct notifier *n = list_entry(source, struct notifier, source);
    struct virtio_dev *dev = machine_virtio(n->machine, n->slot);
    uint64_t count;
    if (read(source->fd, &count, sizeof count) != sizeof count)
        return;
    pthread_mutex_lock(&n->machine->lock);
    virtio_notify(dev, n->queue);
    virtio_serve(dev);
    pthread_mutex_unlock(&n->machine->lock);
}

/* On failure the queue stays with exits, which always work. */
static int attach(struct notifier *n, struct err *err)
{
    struct machine *m = n->machine;
    own_fd int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (fd < 0)
        return err_set(err, errno, "eventfd");
    int rc = loop_add(m->host.loop, &n->source, fd, EPOLLIN, err);
    if (rc < 0)
        return rc;
    rc = kvm_ioeventfd_add(m->vm_fd, board_virtio(n->slot).gpa + QUEUE_NOTIFY, fd, true, n->queue, err);
    if (rc < 0)
        loop_remove(m->host.loop, &n->source);
    else
        steal_fd(&fd);
    return rc;
}

static void count_exit(struct notifier *n)
{
    struct err err = {0};
    if (++n->exits != NOTIFY_EXITS)
        return;
    if (attach(n, &err) < 0)
        log_warn("no ioeventfd for queue %u of %s: %s", n->queue, machine_virtio(n->machine, n->slot)->kind->name,
                 err.text);
}

void notify_init(struct machine *m)
{
    for (unsigned slot = 0; slot < MACHINE_SLOTS; slot++)
        for (unsigned queue = 0; queue < VIRTIO_QUEUES_MAX; queue++)
            m->notifier[slot][queue] =
                (struct notifier){.source = {.fd = -1, .fn = on_event}, .machine = m, .slot = slot, .queue = queue};
}

void notify_destroy(struct machine *m)
{
    for (unsigned slot = 0; slot < MACHINE_SLOTS; slot++) {
        for (unsigned queue = 0; queue < VIRTIO_QUEUES_MAX; queue++) {
            struct loop_source *source = &m->notifier[slot][queue].source;
            int fd = source->fd;
            loop_remove(m->host.loop, source);
            fd_close(&fd);
        }
    }
}

void notify_serve(struct machine *m)
{
    for (unsigned slot = 0; slot < MACHINE_SLOTS; slot++) {
        struct virtio_dev *dev = machine_virtio(m, slot);
        if (!dev || !dev->notified)
            continue;
        for (unsigned queue = 0; queue < VIRTIO_QUEUES_MAX; queue++)
            if (dev->notified & 1u << queue)
                count_exit(&m->notifier[slot][queue]);
        virtio_serve(dev);
    }
}
