/* vcpu_pack.c: a vCPU's state as it stands in the state file, field by field in the order below.
 *
 * The static_asserts tie this file to KVM's structures: one that grows must be looked at here. */
#include "arch/vcpu_state.h"

#include <assert.h>
#include <errno.h>
#include <string.h>

static_assert(sizeof(struct kvm_regs) == 18 * 8, "18 registers");
static_assert(sizeof(struct kvm_segment) == 24, "a segment");
static_assert(sizeof(struct kvm_dtable) == 16, "a descriptor table");
static_assert(sizeof(struct kvm_sregs) == 8 * 24 + 2 * 16 + 7 * 8 + 4 * 8, "segments, tables, registers, bitmap");
static_assert(sizeof(struct kvm_debugregs) == 7 * 8 + 9 * 8, "seven registers and nine reserved");
static_assert(sizeof(struct kvm_vcpu_events) == 64, "the events");

enum { EVENTS_RESERVED = 26 };

static void pack_words(struct pack *p, const void *words, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        uint64_t v;
        memcpy(&v, (const char *)words + i * sizeof v, sizeof v);
        pack_u64(p, v);
    }
}

static void unpack_words(struct unpack *u, void *words, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        uint64_t v = unpack_u64(u);
        memcpy((char *)words + i * sizeof v, &v, sizeof v);
    }
}

static void segment_pack(const struct kvm_segment *s, struct pack *p)
{
    pack_u64(p, s->base);
    pack_u32(p, s->limit);
    pack_u16(p, s->selector);
    const uint8_t bytes[] = {s->type, s->present, s->dpl, s->db, s->s, s->l, s->g, s->avl, s->unusable};
    pack_bytes(p, bytes, sizeof bytes);
}

static void segment_unpack(struct kvm_segment *s, struct unpack *u)
{
    uint8_t b[9] = {0};
    s->base = unpack_u64(u);
    s->limit = unpack_u32(u);
    s->selector = unpack_u16(u);
    unpack_bytes(u, b, sizeof b);
    s->type = b[0];
    s->present = b[1];
    s->dpl = b[2];
    s->db = b[3];
    s->s = b[4];
    s->l = b[5];
    s->g = b[6];
    s->avl = b[7];
    s->unusable = b[8];
}

enum { SEGMENTS = 8, TABLES = 2 };

/* The segments and tables lie one after the other at the head of kvm_sregs. */
static_assert(offsetof(struct kvm_sregs, ldt) == (SEGMENTS - 1) * sizeof(struct kvm_segment), "cs to ldt in a row");
static_assert(offsetof(struct kvm_sregs, gdt) == SEGMENTS * sizeof(struct kvm_segment), "and the tables after");

static void sregs_pack(const struct kvm_sregs *s, struct pack *p)
{
    const struct kvm_segment *segments[SEGMENTS] = {&s->cs, &s->ds, &s->es, &s->fs, &s->gs, &s->ss, &s->tr, &s->ldt};
    const struct kvm_dtable *tables[TABLES] = {&s->gdt, &s->idt};
    for (int i = 0; i < SEGMENTS; i++)
        segment_pack(segments[i], p);
    for (int i = 0; i < TABLES; i++) {
        pack_u64(p, tables[i]->base);
        pack_u16(p, tables[i]->limit);
    }
    const uint64_t registers[] = {s->cr0, s->cr2, s->cr3, s->cr4, s->cr8, s->efer, s->apic_base};
    pack_words(p, registers, 7);
    pack_words(p, s->interrupt_bitmap, 4);
}

static void sregs_unpack(struct kvm_sregs *s, struct unpack *u)
{
    struct kvm_segment *segments[SEGMENTS] = {&s->cs, &s->ds, &s->es, &s->fs, &s->gs, &s->ss, &s->tr, &s->ldt};
    struct kvm_dtable *tables[TABLES] = {&s->gdt, &s->idt};
    for (int i = 0; i < SEGMENTS; i++)
        segment_unpack(segments[i], u);
    for (int i = 0; i < TABLES; i++) {
        tables[i]->base = unpack_u64(u);
        tables[i]->limit = unpack_u16(u);
    }
    uint64_t registers[7];
    unpack_words(u, registers, 7);
    s->cr0 = registers[0];
    s->cr2 = registers[1];
    s->cr3 = registers[2];
    s->cr4 = registers[3];
    s->cr8 = registers[4];
    s->efer = registers[5];
    s->apic_base = registers[6];
    unpack_words(u, s->interrupt_bitmap, 4);
}

static void xcrs_pack(const struct kvm_xcrs *x, struct pack *p)
{
    pack_u32(p, x->nr_xcrs);
    for (uint32_t i = 0; i < x->nr_xcrs && i < KVM_MAX_XCRS; i++) {
        pack_u32(p, x->xcrs[i].xcr);
        pack_u64(p, x->xcrs[i].value);
    }
}

static void xcrs_unpack(struct kvm_xcrs *x, struct unpack *u)
{
    uint32_t count = unpack_u32(u);
    if (count > KVM_MAX_XCRS)
        u->bad = true;
    for (uint32_t i = 0; i < count && !u->bad; i++) {
        x->xcrs[i].xcr = unpack_u32(u);
        x->xcrs[i].value = unpack_u64(u);
        x->nr_xcrs = i + 1;
    }
}

static void events_pack(const struct kvm_vcpu_events *e, struct pack *p)
{
    const uint8_t bytes[] = {
        e->exception.injected,
        e->exception.nr,
        e->exception.has_error_code,
        e->exception.pending,
        e->interrupt.injected,
        e->interrupt.nr,
        e->interrupt.soft,
        e->interrupt.shadow,
        e->nmi.injected,
        e->nmi.pending,
        e->nmi.masked,
        e->smi.smm,
        e->smi.pending,
        e->smi.smm_inside_nmi,
        e->smi.latched_init,
        e->triple_fault.pending,
        e->exception_has_payload,
    };
    pack_bytes(p, bytes, sizeof bytes);
    pack_u32(p, e->exception.error_code);
    pack_u32(p, e->sipi_vector);
    pack_u32(p, e->flags);
    pack_u64(p, e->exception_payload);
}

static void events_unpack(struct kvm_vcpu_events *e, struct unpack *u)
{
    uint8_t b[17] = {0};
    unpack_bytes(u, b, sizeof b);
    e->exception.injected = b[0];
    e->exception.nr = b[1];
    e->exception.has_error_code = b[2];
    e->exception.pending = b[3];
    e->interrupt.injected = b[4];
    e->interrupt.nr = b[5];
    e->interrupt.soft = b[6];
    e->interrupt.shadow = b[7];
    e->nmi.injected = b[8];
    e->nmi.pending = b[9];
    e->nmi.masked = b[10];
    e->smi.smm = b[11];
    e->smi.pending = b[12];
    e->smi.smm_inside_nmi = b[13];
    e->smi.latched_init = b[14];
    e->triple_fault.pending = b[15];
    e->exception_has_payload = b[16];
    e->exception.error_code = unpack_u32(u);
    e->sipi_vector = unpack_u32(u);
    e->flags = unpack_u32(u);
    e->exception_payload = unpack_u64(u);
}

static void msrs_pack(const struct msr_state *m, struct pack *p)
{
    pack_u32(p, m->nmsrs);
    for (uint32_t i = 0; i < m->nmsrs && i < MSR_STATE_MAX; i++) {
        pack_u32(p, m->entry[i].index);
        pack_u64(p, m->entry[i].data);
    }
}

static void msrs_unpack(struct msr_state *m, struct unpack *u)
{
    uint32_t count = unpack_u32(u);
    if (count > MSR_STATE_MAX)
        u->bad = true;
    for (uint32_t i = 0; i < count && !u->bad; i++) {
        m->entry[i].index = unpack_u32(u);
        m->entry[i].data = unpack_u64(u);
        m->nmsrs = i + 1;
    }
}

void vcpu_state_pack(const struct vcpu_state *s, struct pack *p)
{
    cpuid_pack(&s->cpuid, p);
    msrs_pack(&s->msrs, p);
    pack_u32(p, s->tsc_khz);
    pack_u32(p, s->mp_state.mp_state);
    pack_words(p, &s->regs, sizeof s->regs / 8);
    sregs_pack(&s->sregs, p);
    xcrs_pack(&s->xcrs, p);
    const uint64_t debug[] = {s->debugregs.db[0], s->debugregs.db[1], s->debugregs.db[2], s->debugregs.db[3],
                              s->debugregs.dr6,   s->debugregs.dr7,   s->debugregs.flags};
    pack_words(p, debug, 7);
    pack_bytes(p, s->lapic.regs, sizeof s->lapic.regs);
    events_pack(&s->events, p);
    pack_blob(p, s->xsave, s->xsave_size);
}

static int msrs_check(const struct msr_state *m, struct err *err)
{
    char name[64];
    for (uint32_t i = 0; i < m->nmsrs; i++) {
        uint32_t index = m->entry[i].index;
        if (!msr_is_state(index))
            return err_say(err, EINVAL, "the state has the MSR 0x%x, which is not a guest's", index);
        if ((index == MSR_TSC && i != 0) || (index == MSR_TSC_DEADLINE && i != m->nmsrs - 1))
            return err_say(err, EINVAL, "the state has the MSR %s out of order", msr_name(index, name, sizeof name));
        for (uint32_t j = 0; j < i; j++) {
            if (m->entry[j].index == index)
                return err_say(err, EINVAL, "the state has the MSR %s twice", msr_name(index, name, sizeof name));
        }
    }
    return 0;
}

/* What x86 KVM can be told to be: running, waiting for INIT or SIPI, halted. */
static bool mp_state_is_valid(uint32_t mp_state)
{
    return mp_state <= KVM_MP_STATE_SIPI_RECEIVED || mp_state == KVM_MP_STATE_AP_RESET_HOLD;
}

int vcpu_state_unpack(struct vcpu_state *s, struct unpack *u, struct err *err)
{
    memset(s, 0, sizeof *s);
    cpuid_unpack(&s->cpuid, u);
    msrs_unpack(&s->msrs, u);
    s->tsc_khz = unpack_u32(u);
    s->mp_state.mp_state = unpack_u32(u);
    unpack_words(u, &s->regs, sizeof s->regs / 8);
    sregs_unpack(&s->sregs, u);
    xcrs_unpack(&s->xcrs, u);
    unpack_words(u, &s->debugregs, 7);
    unpack_bytes(u, s->lapic.regs, sizeof s->lapic.regs);
    events_unpack(&s->events, u);
    size_t len;
    const uint8_t *xsave = unpack_blob(u, &len);
    if (u->bad)
        return err_say(err, EINVAL, "the state of a vCPU is cut short or malformed");
    if (len < sizeof(struct kvm_xsave) || len > sizeof s->xsave)
        return err_say(err, EINVAL, "the state of a vCPU has %zu bytes of XSAVE state", len);
    memcpy(s->xsave, xsave, len);
    s->xsave_size = (uint32_t)len;
    if (!mp_state_is_valid(s->mp_state.mp_state))
        return err_say(err, EINVAL, "the state of a vCPU has the unknown MP state %u", s->mp_state.mp_state);
    int rc = msrs_check(&s->msrs, err);
    return rc < 0 ? rc : cpuid_check_list(&s->cpuid, err);
}
