/* machine_state.c: see machine_state.h. */
#include "snap/machine_state.h"

#include "snap/state_file.h"

#include <errno.h>
#include <string.h>

enum { MACHINE_VERSION = 1, PART_VERSION = MACHINE_PART_VERSION, DEVICE_BOUND = 64 << 10 };

size_t machine_state_bound(const struct machine *m)
{
    size_t bound = (size_t)m->config.vcpus * VCPU_STATE_PACKED_MAX + (MACHINE_SLOTS + 4) * DEVICE_BOUND +
                   (m->config.disk ? disk_state_bound(&m->disk) : 0);
    return bound < STATE_FILE_MAX ? bound : STATE_FILE_MAX;
}

static const enum state_section virtio_section[MACHINE_SLOTS] = {
    [MACHINE_VSOCK] = STATE_VSOCK, [MACHINE_RNG] = STATE_RNG, [MACHINE_BLK] = STATE_BLK};

static void write_config(struct pack *p, const struct machine_config *config)
{
    pack_u64(p, config->mem_bytes);
    pack_u32(p, config->vcpus);
    pack_u8(p, config->disk);
    pack_u8(p, config->disk_read_only);
    pack_u64(p, config->disk_bytes);
}

static void write_clock(struct pack *p, const struct kvm_clock_data *clock)
{
    pack_u64(p, clock->clock);
    pack_u32(p, clock->flags);
}

static void write_instant(struct state_writer *w, const struct machine_instant *instant)
{
    if (!instant->source)
        return;
    struct pack *p = state_writer_begin(w, STATE_INSTANT, 0, PART_VERSION);
    pack_u64(p, instant->source);
    pack_u64(p, instant->number);
    state_writer_end(w);
}

int64_t machine_state_write(struct machine *m, void *buf, size_t cap, struct err *err)
{
    struct state_writer w;
    state_writer_init(&w, buf, cap);
    write_config(state_writer_begin(&w, STATE_MACHINE, 0, MACHINE_VERSION), &m->config);
    state_writer_end(&w);
    write_clock(state_writer_begin(&w, STATE_CLOCK, 0, PART_VERSION), &m->clock);
    state_writer_end(&w);
    write_instant(&w, &m->instant);
    for (unsigned i = 0; i < m->config.vcpus; i++) {
        vcpu_state_pack(&m->vcpu[i].state, state_writer_begin(&w, STATE_VCPU, i, PART_VERSION));
        state_writer_end(&w);
    }
    pthread_mutex_lock(&m->lock);
    ioapic_save(&m->ioapic, state_writer_begin(&w, STATE_IOAPIC, 0, PART_VERSION));
    state_writer_end(&w);
    serial_save(&m->serial, state_writer_begin(&w, STATE_SERIAL, 0, PART_VERSION));
    state_writer_end(&w);
    for (unsigned slot = 0; slot < MACHINE_SLOTS; slot++) {
        if (!machine_virtio(m, slot))
            continue;
        virtio_save(machine_virtio(m, slot), state_writer_begin(&w, virtio_section[slot], 0, PART_VERSION));
        state_writer_end(&w);
    }
    if (m->config.disk) {
        disk_save(&m->disk, state_writer_begin(&w, STATE_DISK, 0, PART_VERSION));
        state_writer_end(&w);
    }
    pthread_mutex_unlock(&m->lock);
    return state_writer_finish(&w, err);
}

/* A section whose parts were all there, and nothing else. */
static int section_done(const struct unpack *u, enum state_section type, struct err *err)
{
    if (unpack_done(u))
        return 0;
    return err_say(err, EINVAL, "section %s of the state file is malformed", state_section_name(type));
}

static int read_config(const struct state_reader *r, struct machine_config *config, struct err *err)
{
    struct unpack u;
    int rc = state_reader_section(r, STATE_MACHINE, 0, MACHINE_VERSION, &u, err);
    if (rc < 0)
        return rc;
    *config = (struct machine_config){.mem_bytes = unpack_u64(&u), .vcpus = unpack_u32(&u)};
    config->disk = unpack_u8(&u);
    config->disk_read_only = unpack_u8(&u);
    config->disk_bytes = unpack_u64(&u);
    return section_done(&u, STATE_MACHINE, err);
}

int machine_state_config(const void *buf, size_t len, struct machine_config *config, struct err *err)
{
    struct state_reader r;
    int rc = state_reader_init(&r, buf, len, err);
    return rc < 0 ? rc : read_config(&r, config, err);
}

static int read_clock(const struct state_reader *r, struct kvm_clock_data *clock, struct err *err)
{
    struct unpack u;
    int rc = state_reader_section(r, STATE_CLOCK, 0, PART_VERSION, &u, err);
    if (rc < 0)
        return rc;
    memset(clock, 0, sizeof *clock);
    clock->clock = unpack_u64(&u);
    clock->flags = unpack_u32(&u);
    return section_done(&u, STATE_CLOCK, err);
}

/* What was booted has none, and what was written before there were any. */
static int read_instant(const struct state_reader *r, struct machine_instant *instant, struct err *err)
{
    struct unpack u;
    *instant = (struct machine_instant){0};
    int rc = state_reader_section(r, STATE_INSTANT, 0, PART_VERSION, &u, err);
    if (rc < 0)
        return rc == -ENOENT ? 0 : rc;
    instant->source = unpack_u64(&u);
    instant->number = unpack_u64(&u);
    return section_done(&u, STATE_INSTANT, err);
}

static int read_vcpus(struct machine *m, const struct state_reader *r, struct err *err)
{
    int rc = 0;
    for (unsigned i = 0; rc == 0 && i < m->config.vcpus; i++) {
        struct unpack u;
        rc = state_reader_section(r, STATE_VCPU, i, PART_VERSION, &u, err);
        if (rc == 0)
            rc = vcpu_state_unpack(&m->vcpu[i].state, &u, err);
        if (rc == 0)
            rc = section_done(&u, STATE_VCPU, err);
    }
    return rc;
}

static int read_devices(struct machine *m, const struct state_reader *r, struct err *err)
{
    struct unpack u;
    int rc = state_reader_section(r, STATE_IOAPIC, 0, PART_VERSION, &u, err);
    if (rc == 0)
        rc = ioapic_load(&m->ioapic, &u, err);
    if (rc == 0)
        rc = state_reader_section(r, STATE_SERIAL, 0, PART_VERSION, &u, err);
    if (rc == 0)
        rc = serial_load(&m->serial, &u, err);
    for (unsigned slot = 0; rc == 0 && slot < MACHINE_SLOTS; slot++) {
        if (!machine_virtio(m, slot))
            continue;
        rc = state_reader_section(r, virtio_section[slot], 0, PART_VERSION, &u, err);
        if (rc == 0)
            rc = virtio_load(machine_virtio(m, slot), &u, err);
    }
    if (rc == 0 && m->config.disk) {
        rc = state_reader_section(r, STATE_DISK, 0, PART_VERSION, &u, err);
        if (rc == 0)
            rc = disk_load(&m->disk, &u, err);
    }
    return rc;
}

int machine_state_read(struct machine *m, const void *buf, size_t len, struct err *err)
{
    struct state_reader r;
    int rc = state_reader_init(&r, buf, len, err);
    if (rc == 0)
        rc = read_clock(&r, &m->clock, err);
    if (rc == 0)
        rc = read_instant(&r, &m->instant, err);
    if (rc == 0)
        rc = read_vcpus(m, &r, err);
    if (rc == 0)
        rc = read_devices(m, &r, err);
    return rc;
}
