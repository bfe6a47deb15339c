/* cpuid.c: see cpuid.h.
 *
 * SECCOMP: ioctl[a1 in KVM_GET_SUPPORTED_CPUID KVM_SET_CPUID2] - what the guest's CPUs say they are */
#include "arch/cpuid.h"

#include <assert.h>
#include <errno.h>
#include <stddef.h>
#include <string.h>
#include <sys/ioctl.h>

static_assert(offsetof(struct cpuid, entry) == offsetof(struct kvm_cpuid2, entries), "the layout of kvm_cpuid2");
static_assert(offsetof(struct cpuid_host, entry) == offsetof(struct kvm_cpuid2, entries), "the layout of kvm_cpuid2");

enum reg { EAX, EBX, ECX, EDX };

struct feature {
    uint32_t leaf, subleaf;
    enum reg reg;
    unsigned bit;
    const char *name;
};

static const struct feature features[] = {
#define F(leaf, subleaf, reg, bit, name) {leaf, subleaf, reg, bit, #name},
#include "arch/cpuid_features.inc"
#undef F
};

enum { FEATURES = sizeof features / sizeof features[0] };

/* Leaves that hold features in every register named, and nothing that must be kept beside them. */
struct feature_leaf {
    uint32_t leaf, subleaf;
    uint8_t regs; /* one bit for each register that is a set of features */
    bool indexed;
};

static const struct feature_leaf feature_leaves[] = {
    {0x1, 0, 1 << ECX | 1 << EDX, false},
    {0x6, 0, 1 << EAX | 1 << EBX | 1 << ECX | 1 << EDX, false},
    {0x7, 0, 1 << EBX | 1 << ECX | 1 << EDX, true},
    {0x7, 1, 1 << EAX | 1 << EBX | 1 << ECX | 1 << EDX, true},
    {0x7, 2, 1 << EAX | 1 << EBX | 1 << ECX | 1 << EDX, true},
    {0xd, 1, 1 << EAX | 1 << EBX | 1 << ECX | 1 << EDX, true},
    {0x40000001, 0, 1 << EAX | 1 << EBX | 1 << ECX | 1 << EDX, false},
    {0x80000001, 0, 1 << ECX | 1 << EDX, false},
    {0x80000007, 0, 1 << EAX | 1 << EBX | 1 << ECX | 1 << EDX, false},
    {0x80000008, 0, 1 << EBX, false},
    {0x80000021, 0, 1 << EAX | 1 << EBX | 1 << ECX | 1 << EDX, false},
};

/* Leaves that say how large, how old and what make: shown as they are. The brand string, cache sizes and TLBs. */
static const uint32_t plain_leaves[] = {0x2, 0x80000002, 0x80000003, 0x80000004, 0x80000005, 0x80000006, 0x8000001a};

/* The XSAVE components a guest may switch on in XCR0, and the feature each belongs to (SDM volume 1, 13.1).
 * Not: MPX (3, 4), every supervisor state, AMX (17, 18), APX (19). */
enum { XCR0_LEGACY = 3 };

#define XCR0_ALLOWED UINT32_C(0x2e7)

static const uint32_t max_basic_leaf = 0x1f, max_extended_leaf = 0x80000021;

static uint32_t *entry_reg(struct kvm_cpuid_entry2 *e, enum reg reg)
{
    switch (reg) {
    case EAX:
        return &e->eax;
    case EBX:
        return &e->ebx;
    case ECX:
        return &e->ecx;
    case EDX:
        return &e->edx;
    }
    __builtin_unreachable();
}

static struct kvm_cpuid_entry2 *entry_find(struct kvm_cpuid_entry2 *entries, uint32_t count, uint32_t leaf,
                                           uint32_t subleaf)
{
    for (uint32_t i = 0; i < count; i++) {
        struct kvm_cpuid_entry2 *e = &entries[i];
        if (e->function == leaf && (!(e->flags & KVM_CPUID_FLAG_SIGNIFCANT_INDEX) || e->index == subleaf))
            return e;
    }
    return NULL;
}

static const struct kvm_cpuid_entry2 *host_find(const struct cpuid_host *host, uint32_t leaf, uint32_t subleaf)
{
    return entry_find((struct kvm_cpuid_entry2 *)host->entry, host->nent, leaf, subleaf);
}

static struct kvm_cpuid_entry2 *guest_find(const struct cpuid *guest, uint32_t leaf, uint32_t subleaf)
{
    return entry_find((struct kvm_cpuid_entry2 *)guest->entry, guest->nent, leaf, subleaf);
}

/* The bits of one register that stand on the list. */
static uint32_t allowed_bits(uint32_t leaf, uint32_t subleaf, enum reg reg)
{
    uint32_t bits = 0;
    for (size_t i = 0; i < FEATURES; i++) {
        if (features[i].leaf == leaf && features[i].subleaf == subleaf && features[i].reg == reg)
            bits |= UINT32_C(1) << features[i].bit;
    }
    return bits;
}

static const struct feature_leaf *feature_leaf_find(uint32_t leaf, uint32_t subleaf)
{
    for (size_t i = 0; i < sizeof feature_leaves / sizeof feature_leaves[0]; i++) {
        const struct feature_leaf *f = &feature_leaves[i];
        if (f->leaf == leaf && (!f->indexed || f->subleaf == subleaf))
            return f;
    }
    return NULL;
}

int cpuid_host_read(int kvm_fd, struct cpuid_host *host, struct err *err)
{
    host->nent = CPUID_HOST_ENTRIES_MAX;
    if (ioctl(kvm_fd, KVM_GET_SUPPORTED_CPUID, host) < 0)
        return err_set(err, errno, "KVM_GET_SUPPORTED_CPUID");
    return 0;
}

static void add(struct cpuid *guest, struct kvm_cpuid_entry2 entry)
{
    /* What is added is bounded by the tables above, the XSAVE components and the cache levels. */
    if (guest->nent < CPUID_ENTRIES_MAX)
        guest->entry[guest->nent++] = entry;
}

/* A leaf that is absent reads as zero, and KVM searches a shorter list. */
static void add_unless_zero(struct cpuid *guest, struct kvm_cpuid_entry2 entry)
{
    if (entry.eax | entry.ebx | entry.ecx | entry.edx)
        add(guest, entry);
}

static void add_feature_leaf(struct cpuid *guest, const struct cpuid_host *host, const struct feature_leaf *leaf)
{
    const struct kvm_cpuid_entry2 *from = host_find(host, leaf->leaf, leaf->subleaf);
    if (!from)
        return;
    struct kvm_cpuid_entry2 e = *from;
    for (enum reg reg = EAX; reg <= EDX; reg++) {
        if (leaf->regs & 1 << reg)
            *entry_reg(&e, reg) &= allowed_bits(leaf->leaf, leaf->subleaf, reg);
    }
    add_unless_zero(guest, e);
}

static uint32_t at_most(uint32_t value, uint32_t limit)
{
    return value < limit ? value : limit;
}

/* Leaf 0 and its like: the vendor, and how far the leaves go. */
static void add_range_leaf(struct cpuid *guest, const struct cpuid_host *host, uint32_t leaf, uint32_t limit)
{
    const struct kvm_cpuid_entry2 *from = host_find(host, leaf, 0);
    if (!from)
        return;
    struct kvm_cpuid_entry2 e = *from;
    e.eax = at_most(e.eax, limit);
    add(guest, e);
}

static void fix_features(struct cpuid *guest, unsigned vcpus)
{
    struct kvm_cpuid_entry2 *e = guest_find(guest, 0x1, 0);
    if (e) {
        /* KVM offers both to every guest with a LAPIC in the kernel, and names neither in its list. */
        e->ecx |= UINT32_C(1) << 24 | UINT32_C(1) << 31;
        e->edx |= vcpus > 1 ? UINT32_C(1) << 28 : 0; /* HTT: there are several logical CPUs */
        e->ebx = (e->ebx & 0x0000ff00) | vcpus << 16;
    }
    e = guest_find(guest, 0x7, 0);
    if (e)
        e->eax = at_most(e->eax, 2);
    e = guest_find(guest, 0x80000001, 0);
    if (e) {
        e->ebx = 0;
        e->ecx |= vcpus > 1 ? UINT32_C(1) << 1 : 0; /* CMP_LEGACY: the logical CPUs are cores */
    }
}

static unsigned id_bits(unsigned vcpus)
{
    unsigned bits = 0;
    while (1u << bits < vcpus)
        bits++;
    return bits;
}

/* Caches: levels 1 and 2 are a core's own, what is beyond is everybody's. Intel's leaf 4, AMD's 0x8000001d. */
static void add_caches(struct cpuid *guest, const struct cpuid_host *host, uint32_t leaf, unsigned vcpus)
{
    enum { CACHES_MAX = 8 };
    for (uint32_t i = 0; i < CACHES_MAX; i++) {
        const struct kvm_cpuid_entry2 *from = host_find(host, leaf, i);
        if (!from || !(from->eax & 0x1f))
            return;
        struct kvm_cpuid_entry2 e = *from;
        unsigned level = e.eax >> 5 & 7, ids = 1u << id_bits(vcpus);
        e.eax &= 0x3fff;
        e.eax |= (level < 3 ? 0 : (leaf == 0x4 ? ids : vcpus) - 1) << 14;
        if (leaf == 0x4)
            e.eax |= (ids - 1) << 26;
        add(guest, e);
    }
}

/* Leaves 0xb and 0x1f: one thread a core, all cores in one package. */
static void add_topology(struct cpuid *guest, uint32_t leaf, unsigned vcpus)
{
    enum { TYPE_NONE = 0, TYPE_SMT = 1, TYPE_CORE = 2 };
    struct kvm_cpuid_entry2 e = {.function = leaf, .flags = KVM_CPUID_FLAG_SIGNIFCANT_INDEX};
    e.eax = 0;
    e.ebx = 1;
    e.ecx = TYPE_SMT << 8;
    add(guest, e);
    e.index = 1;
    e.eax = id_bits(vcpus);
    e.ebx = vcpus;
    e.ecx = TYPE_CORE << 8 | 1;
    add(guest, e);
    e.index = 2;
    e.eax = e.ebx = 0;
    e.ecx = TYPE_NONE << 8 | 2;
    add(guest, e);
}

static bool guest_has(const struct cpuid *guest, uint32_t leaf, uint32_t subleaf, enum reg reg, unsigned bit)
{
    struct kvm_cpuid_entry2 *e = guest_find(guest, leaf, subleaf);
    return e && *entry_reg(e, reg) >> bit & 1;
}

/* The components whose features the guest has. */
static uint32_t guest_xcr0(const struct cpuid *guest)
{
    uint32_t xcr0 = XCR0_LEGACY;
    if (guest_has(guest, 0x1, 0, ECX, 28))
        xcr0 |= 1 << 2;
    if (guest_has(guest, 0x7, 0, EBX, 16))
        xcr0 |= 7 << 5;
    if (guest_has(guest, 0x7, 0, ECX, 3))
        xcr0 |= 1 << 9;
    return xcr0 & XCR0_ALLOWED;
}

/* Leaf 0xd: sizes follow from the components (SDM volume 1, 13.2). KVM updates EBX of the first two subleaves
 * as the guest writes XCR0. */
static void add_xsave(struct cpuid *guest, const struct cpuid_host *host)
{
    enum { LEGACY_AND_HEADER = 512 + 64 };
    const struct kvm_cpuid_entry2 *main = host_find(host, 0xd, 0);
    if (!main || !guest_has(guest, 0x1, 0, ECX, 26))
        return;
    uint32_t xcr0 = main->eax & guest_xcr0(guest), end = LEGACY_AND_HEADER;
    for (uint32_t i = 2; i < 32; i++) {
        const struct kvm_cpuid_entry2 *from = host_find(host, 0xd, i);
        if (!(xcr0 >> i & 1) || !from)
            continue;
        add(guest, *from);
        if (from->ebx + from->eax > end)
            end = from->ebx + from->eax;
    }
    add(guest, (struct kvm_cpuid_entry2){.function = 0xd,
                                         .flags = KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
                                         .eax = xcr0,
                                         .ebx = LEGACY_AND_HEADER,
                                         .ecx = end});
    add_feature_leaf(guest, host, feature_leaf_find(0xd, 1));
}

/* 0x80000008: address widths as they are, the number of CPUs ours. 0x8000001e: this CPU in its package. */
static void add_amd_topology(struct cpuid *guest, const struct cpuid_host *host, unsigned vcpus)
{
    struct kvm_cpuid_entry2 *e = guest_find(guest, 0x80000008, 0);
    if (e) {
        e->ecx = (vcpus - 1) | (vcpus > 1 ? id_bits(vcpus) << 12 : 0);
        e->edx = 0;
    }
    if (!guest_has(guest, 0x80000001, 0, ECX, 22) || !host_find(host, 0x8000001e, 0))
        return;
    add_caches(guest, host, 0x8000001d, vcpus);
    add(guest, (struct kvm_cpuid_entry2){.function = 0x8000001e});
}

int cpuid_build(const struct cpuid_host *host, unsigned vcpus, struct cpuid *guest, struct err *err)
{
    memset(guest, 0, sizeof *guest);
    const struct kvm_cpuid_entry2 *first = host_find(host, 0, 0);
    if (!first || first->eax < 1 || !host_find(host, 1, 0))
        return err_say(err, ENOTSUP, "KVM names no CPU features for guests");
    add_range_leaf(guest, host, 0, max_basic_leaf);
    add_range_leaf(guest, host, 0x40000000, 0x40000001);
    add_range_leaf(guest, host, 0x80000000, max_extended_leaf);
    for (size_t i = 0; i < sizeof feature_leaves / sizeof feature_leaves[0]; i++) {
        if (feature_leaves[i].leaf != 0xd) /* means nothing without XSAVE: add_xsave() */
            add_feature_leaf(guest, host, &feature_leaves[i]);
    }
    for (size_t i = 0; i < sizeof plain_leaves / sizeof plain_leaves[0]; i++) {
        const struct kvm_cpuid_entry2 *from = host_find(host, plain_leaves[i], 0);
        if (from)
            add_unless_zero(guest, *from);
    }
    fix_features(guest, vcpus);
    add_xsave(guest, host);
    add_caches(guest, host, 0x4, vcpus);
    if (first->eax >= 0xb)
        add_topology(guest, 0xb, vcpus);
    if (first->eax >= 0x1f)
        add_topology(guest, 0x1f, vcpus);
    add_amd_topology(guest, host, vcpus);
    cpuid_for_vcpu(guest, 0);
    return 0;
}

void cpuid_for_vcpu(struct cpuid *guest, unsigned apic_id)
{
    for (uint32_t i = 0; i < guest->nent; i++) {
        struct kvm_cpuid_entry2 *e = &guest->entry[i];
        switch (e->function) {
        case 0x1:
            e->ebx = (e->ebx & 0x00ffffff) | apic_id << 24;
            break;
        case 0xb:
        case 0x1f:
            e->edx = apic_id;
            break;
        case 0x8000001e:
            e->eax = apic_id;
            e->ebx = apic_id & 0xff;
            break;
        default:
            break;
        }
    }
}

/* Features that KVM gives to guests without naming them in its list. */
static bool is_made_here(const struct feature *f)
{
    return f->leaf == 0x1 && f->reg == ECX && (f->bit == 24 || f->bit == 31);
}

static void vendor_text(const struct kvm_cpuid_entry2 *e, char text[13])
{
    memcpy(text, &e->ebx, 4);
    memcpy(text + 4, &e->edx, 4);
    memcpy(text + 8, &e->ecx, 4);
    text[12] = 0;
}

int cpuid_check_host(const struct cpuid *guest, const struct cpuid_host *host, struct err *err)
{
    const struct kvm_cpuid_entry2 *theirs = guest_find(guest, 0, 0), *ours = host_find(host, 0, 0);
    char was[13] = "?", is[13] = "?";
    if (theirs)
        vendor_text(theirs, was);
    if (ours)
        vendor_text(ours, is);
    if (strcmp(was, is) != 0)
        return err_say(err, ENOTSUP, "the state is of %s CPUs, this host's are %s", was, is);
    for (size_t i = 0; i < FEATURES; i++) {
        const struct feature *f = &features[i];
        if (is_made_here(f) || !guest_has(guest, f->leaf, f->subleaf, f->reg, f->bit))
            continue;
        struct kvm_cpuid_entry2 *e = (struct kvm_cpuid_entry2 *)host_find(host, f->leaf, f->subleaf);
        if (!e || !(*entry_reg(e, f->reg) >> f->bit & 1))
            return err_say(err, ENOTSUP, "the state uses the CPU feature %s, which this host lacks", f->name);
    }
    return 0;
}

/* Bits KVM keeps up to date as the guest writes CR4 and XCR0 (OSXSAVE, OSPKE, the size of the XSAVE area), and
 * those cpuid_build() makes. */
static uint32_t bits_beside_features(uint32_t leaf, uint32_t subleaf, enum reg reg)
{
    if (leaf == 0x1 && reg == ECX)
        return UINT32_C(1) << 27;
    if (leaf == 0x1 && reg == EDX)
        return UINT32_C(1) << 28;
    if (leaf == 0x7 && subleaf == 0 && reg == ECX)
        return UINT32_C(1) << 4;
    if (leaf == 0x80000001 && reg == ECX)
        return UINT32_C(1) << 1;
    if (leaf == 0xd && subleaf == 1 && reg == EBX)
        return UINT32_MAX;
    return 0;
}

static bool leaf_is_known(uint32_t leaf)
{
    static const uint32_t made[] = {0x0, 0x4, 0xb, 0xd, 0x1f, 0x40000000, 0x80000000, 0x8000001d, 0x8000001e};
    for (size_t i = 0; i < sizeof made / sizeof made[0]; i++) {
        if (made[i] == leaf)
            return true;
    }
    for (size_t i = 0; i < sizeof plain_leaves / sizeof plain_leaves[0]; i++) {
        if (plain_leaves[i] == leaf)
            return true;
    }
    return false;
}

/* The XSAVE leaf: user components on the list, and no supervisor component anywhere. */
static bool xsave_is_allowed(const struct kvm_cpuid_entry2 *e)
{
    if (e->index == 0)
        return !(e->eax & ~XCR0_ALLOWED) && !e->edx;
    if (e->index == 1)
        return !e->ecx && !e->edx;
    return e->index < 32 && (XCR0_ALLOWED >> e->index & 1) && !(e->ecx & 1);
}

int cpuid_check_list(const struct cpuid *guest, struct err *err)
{
    static const char *const reg_names[] = {"EAX", "EBX", "ECX", "EDX"};
    for (uint32_t i = 0; i < guest->nent; i++) {
        struct kvm_cpuid_entry2 e = guest->entry[i];
        if (e.function == 0xd && !xsave_is_allowed(&e))
            return err_say(err, EINVAL, "the state has an XSAVE component that is not for guests (leaf 0xd.%u)",
                           e.index);
        const struct feature_leaf *leaf = feature_leaf_find(e.function, e.index);
        if (!leaf && !leaf_is_known(e.function) && (e.eax | e.ebx | e.ecx | e.edx))
            return err_say(err, EINVAL, "the state has CPUID leaf 0x%x.%u, which is not for guests", e.function,
                           e.index);
        for (enum reg reg = EAX; leaf && reg <= EDX; reg++) {
            uint32_t beyond = *entry_reg(&e, reg) & ~allowed_bits(leaf->leaf, leaf->subleaf, reg) &
                              ~bits_beside_features(leaf->leaf, leaf->subleaf, reg);
            if ((leaf->regs & 1 << reg) && beyond)
                return err_say(err, EINVAL,
                               "the state has a CPU feature that is not for guests: bit %d of %s in CPUID leaf 0x%x.%u",
                               __builtin_ctz(beyond), reg_names[reg], leaf->leaf, leaf->subleaf);
        }
    }
    return 0;
}

int cpuid_set(int vcpu_fd, const struct cpuid *guest, struct err *err)
{
    return ioctl(vcpu_fd, KVM_SET_CPUID2, guest) < 0 ? err_set(err, errno, "KVM_SET_CPUID2") : 0;
}

void cpuid_pack(const struct cpuid *guest, struct pack *p)
{
    pack_u32(p, guest->nent);
    for (uint32_t i = 0; i < guest->nent && i < CPUID_ENTRIES_MAX; i++) {
        const struct kvm_cpuid_entry2 *e = &guest->entry[i];
        pack_u32(p, e->function);
        pack_u32(p, e->index);
        pack_u32(p, e->flags);
        pack_u32(p, e->eax);
        pack_u32(p, e->ebx);
        pack_u32(p, e->ecx);
        pack_u32(p, e->edx);
    }
}

bool cpuid_unpack(struct cpuid *guest, struct unpack *u)
{
    memset(guest, 0, sizeof *guest);
    uint32_t count = unpack_u32(u);
    if (count > CPUID_ENTRIES_MAX)
        u->bad = true;
    for (uint32_t i = 0; i < count && !u->bad; i++) {
        struct kvm_cpuid_entry2 *e = &guest->entry[i];
        e->function = unpack_u32(u);
        e->index = unpack_u32(u);
        e->flags = unpack_u32(u);
        e->eax = unpack_u32(u);
        e->ebx = unpack_u32(u);
        e->ecx = unpack_u32(u);
        e->edx = unpack_u32(u);
        if (e->flags & ~(uint32_t)KVM_CPUID_FLAG_SIGNIFCANT_INDEX)
            u->bad = true;
        guest->nent = i + 1;
    }
    return !u->bad;
}
