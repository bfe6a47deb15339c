/* fuzz_vcpu_state.c: whatever a state file holds, a vCPU's or the IOAPIC's state is refused or is the one encoding
 * of what it was unpacked to.
 *
 * The first byte chooses which of the two, and whether the rest is the file or changes to a good one: two bytes
 * say where, the third what. What is accepted keeps the bounds that the restore relies on. */
#include "arch/ioapic.h"
#include "arch/vcpu_state.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static uint8_t again[VCPU_STATE_PACKED_MAX];

static void check_repacked(const struct pack *p, const uint8_t *data, size_t took)
{
    if (p->full || p->len != took || memcmp(again, data, took) != 0)
        abort();
}

static void vcpu_check(const uint8_t *data, size_t size)
{
    static struct vcpu_state state;
    struct err err = {0};
    struct unpack u = unpack_from(data, size);
    if (vcpu_state_unpack(&state, &u, &err) < 0) {
        if (!err.text[0])
            abort();
        return;
    }
    if (state.cpuid.nent > CPUID_ENTRIES_MAX || state.msrs.nmsrs > MSR_STATE_MAX || state.xcrs.nr_xcrs > KVM_MAX_XCRS ||
        state.xsave_size > VCPU_XSAVE_MAX)
        abort();
    struct pack p = pack_into(again, sizeof again);
    vcpu_state_pack(&state, &p);
    check_repacked(&p, data, u.at);
}

static void send(void *owner, uint64_t address, uint32_t data)
{
    (*(unsigned *)owner)++;
}

/* An IOAPIC that was accepted sends each pending pin at most once when the guest unmasks everything. */
static void ioapic_check(const uint8_t *data, size_t size)
{
    struct ioapic ioapic;
    unsigned sent = 0;
    struct unpack u = unpack_from(data, size);
    ioapic_init(&ioapic, send, &sent);
    if (ioapic_load(&ioapic, &u, NULL) < 0)
        return;
    struct pack p = pack_into(again, sizeof again);
    ioapic_save(&ioapic, &p);
    check_repacked(&p, data, u.at);
    unsigned pending = (unsigned)__builtin_popcount(ioapic.pending);
    for (uint32_t reg = 0x10; reg < 0x40; reg += 2) {
        const uint32_t edge = 0x31;
        ioapic_mmio_write(&ioapic, 0x00, &reg, sizeof reg);
        ioapic_mmio_write(&ioapic, 0x10, &edge, sizeof edge);
    }
    if (sent != pending || ioapic.pending)
        abort();
}

static size_t good_vcpu(uint8_t *buf, size_t cap)
{
    static struct vcpu_state state;
    state.cpuid.nent = 2;
    state.cpuid.entry[0] = (struct kvm_cpuid_entry2){.function = 0, .eax = 0xd};
    state.cpuid.entry[1] = (struct kvm_cpuid_entry2){.function = 7, .flags = KVM_CPUID_FLAG_SIGNIFCANT_INDEX};
    state.msrs.nmsrs = 3;
    state.msrs.entry[0].index = MSR_TSC;
    state.msrs.entry[1].index = 0x277;
    state.msrs.entry[2].index = MSR_TSC_DEADLINE;
    state.xcrs.nr_xcrs = 1;
    state.xsave_size = 4096;
    struct pack p = pack_into(buf, cap);
    vcpu_state_pack(&state, &p);
    return p.len;
}

static size_t good_ioapic(uint8_t *buf, size_t cap)
{
    struct ioapic ioapic;
    ioapic_init(&ioapic, send, NULL);
    ioapic_raise(&ioapic, 3);
    struct pack p = pack_into(buf, cap);
    ioapic_save(&ioapic, &p);
    return p.len;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static uint8_t changed[VCPU_STATE_PACKED_MAX];
    if (!size)
        return 0;
    bool vcpu = data[0] & 1, changes = data[0] & 2;
    data++;
    size--;
    if (changes) {
        size_t len = vcpu ? good_vcpu(changed, sizeof changed) : good_ioapic(changed, sizeof changed);
        for (; size >= 3; data += 3, size -= 3)
            changed[(data[0] | data[1] << 8) % len] = data[2];
        data = changed;
        size = len;
    }
    if (vcpu)
        vcpu_check(data, size);
    else
        ioapic_check(data, size);
    return 0;
}
