/* bus.c: see bus.h. */
#include "vm/bus.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

/* With the device lock held. */
static void end_locked(struct machine *m, enum machine_end why, const char *text)
{
    if (m->end_pending)
        return;
    m->end_pending = true;
    m->end_why = why;
    snprintf(m->end_text, sizeof m->end_text, "%s", text);
    loop_wake(m->host.loop);
}

void bus_end(struct machine *m, enum machine_end why, const char *fmt, ...)
{
    char text[sizeof m->end_text];
    va_list args;
    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    pthread_mutex_lock(&m->lock);
    end_locked(m, why, text);
    pthread_mutex_unlock(&m->lock);
}

/* One access of a port, with the device lock held. */
static void port_access(struct vcpu *v, uint16_t port, bool write, uint8_t *data, unsigned len)
{
    struct machine *m = v->machine;
    if (port >= BOARD_SERIAL_PORT && port < BOARD_SERIAL_PORT + BOARD_SERIAL_PORTS && len == 1) {
        if (write)
            serial_write(&m->serial, port - BOARD_SERIAL_PORT, *data);
        else
            *data = serial_read(&m->serial, port - BOARD_SERIAL_PORT);
        return;
    }
    if (write && port == BOARD_SLEEP_CONTROL_PORT && board_is_poweroff(*data)) {
        end_locked(m, MACHINE_POWEROFF, "the guest powered off");
        return;
    }
    if (write && port == BOARD_RESET_PORT && *data == BOARD_RESET_VALUE) {
        end_locked(m, MACHINE_RESET, "the guest asked for a reset");
        return;
    }
    if (m->hooks.pio && m->hooks.pio(m, v->index, port, write, data, len))
        return;
    if (!write)
        memset(data, port == BOARD_SLEEP_STATUS_PORT || port == BOARD_SLEEP_CONTROL_PORT ? 0 : 0xff, len);
}

static bool io_exit(struct vcpu *v)
{
    struct machine *m = v->machine;
    struct kvm_run *run = v->run;
    /* The kernel filled `io`; the data of a string instruction are `count` elements in a row. */
    uint8_t *data = (uint8_t *)run + run->io.data_offset;
    pthread_mutex_lock(&m->lock);
    for (uint32_t i = 0; i < run->io.count; i++, data += run->io.size)
        port_access(v, run->io.port, run->io.direction == KVM_EXIT_IO_OUT, data, run->io.size);
    bool goes_on = !m->end_pending;
    pthread_mutex_unlock(&m->lock);
    return goes_on;
}

/* A loop that is woken while the lock is held wakes to wait for it. */
static void access_begin(struct machine *m)
{
    pthread_mutex_lock(&m->lock);
    m->wake_later = true;
}

static void access_end(struct machine *m)
{
    bool wake = m->wake_due;
    m->wake_later = m->wake_due = false;
    pthread_mutex_unlock(&m->lock);
    if (wake)
        loop_wake(m->host.loop);
}

static bool mmio_exit(struct vcpu *v)
{
    struct machine *m = v->machine;
    struct kvm_run *run = v->run;
    uint64_t gpa = run->mmio.phys_addr;
    uint32_t len = run->mmio.len;
    if (!run->mmio.is_write)
        memset(run->mmio.data, 0xff, sizeof run->mmio.data);

    access_begin(m);
    if (gpa >= BOARD_IOAPIC_GPA && gpa - BOARD_IOAPIC_GPA < BOARD_IOAPIC_SIZE) {
        uint32_t at = (uint32_t)(gpa - BOARD_IOAPIC_GPA);
        if (run->mmio.is_write)
            ioapic_mmio_write(&m->ioapic, at, run->mmio.data, len);
        else
            ioapic_mmio_read(&m->ioapic, at, run->mmio.data, len);
    } else if (gpa >= BOARD_VIRTIO_GPA && gpa - BOARD_VIRTIO_GPA < MACHINE_SLOTS * BOARD_VIRTIO_SIZE) {
        uint64_t offset = gpa - BOARD_VIRTIO_GPA;
        struct virtio_dev *dev = machine_virtio(m, (unsigned)(offset / BOARD_VIRTIO_SIZE));
        uint32_t at = (uint32_t)(offset % BOARD_VIRTIO_SIZE);
        if (dev && run->mmio.is_write)
            virtio_mmio_write(dev, at, run->mmio.data, len);
        else if (dev)
            virtio_mmio_read(dev, at, run->mmio.data, len);
    }
    access_end(m);
    return true;
}

bool bus_exit(struct vcpu *v)
{
    const struct kvm_run *run = v->run;
    switch (run->exit_reason) {
    case KVM_EXIT_IO:
        return io_exit(v);
    case KVM_EXIT_MMIO:
        return mmio_exit(v);
    case KVM_EXIT_IOAPIC_EOI:
        pthread_mutex_lock(&v->machine->lock);
        ioapic_eoi(&v->machine->ioapic, run->eoi.vector);
        pthread_mutex_unlock(&v->machine->lock);
        return true;
    case KVM_EXIT_INTR:
    case KVM_EXIT_IRQ_WINDOW_OPEN:
        return true;
    case KVM_EXIT_SHUTDOWN:
        bus_end(v->machine, MACHINE_CRASH, "triple fault on vCPU %u", v->index);
        return false;
    case KVM_EXIT_SYSTEM_EVENT:
        bus_end(v->machine, MACHINE_CRASH, "the guest reported system event %u", run->system_event.type);
        return false;
    case KVM_EXIT_FAIL_ENTRY:
        bus_end(v->machine, MACHINE_CRASH, "vCPU %u cannot enter the guest (hardware reason 0x%llx)", v->index,
                (unsigned long long)run->fail_entry.hardware_entry_failure_reason);
        return false;
    case KVM_EXIT_INTERNAL_ERROR:
        bus_end(v->machine, MACHINE_CRASH, "KVM cannot go on with vCPU %u (internal error %u)", v->index,
                run->internal.suberror);
        return false;
    default:
        bus_end(v->machine, MACHINE_CRASH, "vCPU %u left the guest for reason %u, which nothing handles", v->index,
                run->exit_reason);
        return false;
    }
}
