/* rt.c: see rt.h. */
#include "rt.h"

#include <string.h>

#define LAPIC  0xfee00000u
#define IOAPIC 0xfec00000u

enum {
    LAPIC_SPURIOUS = 0xf0,
    LAPIC_ICR_LOW = 0x300,
    LAPIC_ICR_HIGH = 0x310,
    LAPIC_TIMER = 0x320,
    LAPIC_TIMER_INITIAL = 0x380,
    LAPIC_TIMER_DIVIDE = 0x3e0,

    LAPIC_ENABLED = 1 << 8,
    LAPIC_TIMER_DEADLINE = 2 << 17,
    ICR_FIXED = 0x4000,
    ICR_INIT = 0x4500,
    ICR_STARTUP = 0x4600,
    ICR_ALL_OTHERS = 3 << 18,
};

enum { TRAMPOLINE = 0x30000, PAGE_OPEN = 0x27, PAGE_LARGE = 0xc0 };

#define GIB (UINT64_C(1) << 30)

extern uint8_t *boot_params;
extern uint8_t vectors[], trampoline[], trampoline_end[];
extern uint64_t pdpt[];
extern struct {
    uint16_t low, selector, flags, middle;
    uint32_t high, zero;
} idt[256];

static uint64_t tables[8][512] __attribute__((aligned(4096)));

void rt_main(unsigned cpu);

/* The compiler may call these four. */
void *memcpy(void *to, const void *from, size_t n)
{
    void *at = to;
    __asm__ volatile("rep movsb" : "+D"(at), "+S"(from), "+c"(n) : : "memory");
    return to;
}

void *memset(void *to, int c, size_t n)
{
    void *at = to;
    __asm__ volatile("rep stosb" : "+D"(at), "+c"(n) : "a"(c) : "memory");
    return to;
}

void *memmove(void *to, const void *from, size_t n)
{
    uint8_t *t = to;
    const uint8_t *f = from;
    if (t <= f)
        return memcpy(to, from, n);
    while (n--) {
        t[n] = f[n];
        __asm__ volatile("" : : : "memory"); /* or the compiler makes a call of memmove out of this */
    }
    return to;
}

int memcmp(const void *a, const void *b, size_t n)
{
    const uint8_t *x = a, *y = b;
    for (size_t i = 0; i < n; i++)
        if (x[i] != y[i])
            return x[i] < y[i] ? -1 : 1;
    return 0;
}

static const char *command_line(void)
{
    uint32_t at;
    memcpy(&at, boot_params + 0x228, sizeof at);
    return (const char *)(uintptr_t)at;
}

static uint64_t number(const char *s)
{
    uint64_t v = 0;
    unsigned base = 10;
    if (s[0] == '0' && s[1] == 'x') {
        base = 16;
        s += 2;
    }
    for (;; s++) {
        unsigned digit = (unsigned)*s - '0';
        if (digit > 9)
            digit = (unsigned)*s - 'a' + 10;
        if (digit >= base)
            break;
        v = v * base + digit;
    }
    return v << (*s == 'k' ? 10 : *s == 'm' ? 20 : *s == 'g' ? 30 : 0);
}

uint64_t option(const char *name, uint64_t otherwise)
{
    for (const char *at = command_line(); at && *at;) {
        size_t i = 0;
        while (name[i] && at[i] == name[i])
            i++;
        if (!name[i] && at[i] == '=')
            return number(at + i + 1);
        while (*at && *at != ' ')
            at++;
        while (*at == ' ')
            at++;
    }
    return otherwise;
}

bool memory_range(unsigned n, uint64_t *start, uint64_t *end)
{
    for (unsigned i = 0; i < boot_params[0x1e8]; i++) {
        uint64_t addr, size;
        uint32_t type;
        const uint8_t *e = boot_params + 0x2d0 + i * 20;
        memcpy(&addr, e, 8);
        memcpy(&size, e + 8, 8);
        memcpy(&type, e + 16, 4);
        if (type == 1 && n-- == 0) {
            *start = addr;
            *end = addr + size;
            return true;
        }
    }
    return false;
}

static void gib_map(uint64_t gib)
{
    static unsigned used;
    if (gib >= 512 || pdpt[gib] || used == sizeof tables / sizeof *tables)
        return;
    uint64_t *table = tables[used++];
    for (unsigned i = 0; i < 512; i++)
        table[i] = (gib * GIB + ((uint64_t)i << 21)) | PAGE_LARGE | PAGE_OPEN;
    pdpt[gib] = (uintptr_t)table | PAGE_OPEN;
}

void memory_map(void)
{
    uint64_t start, end;
    for (unsigned n = 0; memory_range(n, &start, &end); n++)
        for (uint64_t at = start & ~(GIB - 1); at < end; at += GIB)
            gib_map(at / GIB);
}

uint32_t lapic_read(uint32_t at)
{
    return mmio_read32(LAPIC + at);
}

void lapic_write(uint32_t at, uint32_t v)
{
    mmio_write32(LAPIC + at, v);
}

void lapic_enable(void)
{
    lapic_write(LAPIC_SPURIOUS, LAPIC_ENABLED | 0xff);
}

void timer_deadline(uint64_t tsc)
{
    lapic_write(LAPIC_TIMER, LAPIC_TIMER_DEADLINE | VECTOR_TIMER);
    gate(GATE_WRMSR, MSR_TSC_DEADLINE, tsc);
}

void timer_oneshot(uint32_t ticks)
{
    lapic_write(LAPIC_TIMER, VECTOR_TIMER);
    lapic_write(LAPIC_TIMER_DIVIDE, 0xb); /* by one */
    lapic_write(LAPIC_TIMER_INITIAL, ticks);
}

uint64_t tsc_hz(void)
{
    static uint64_t hz;
    if (hz)
        return hz;
    /* KVM's LAPIC counts at 1 GHz of the host's time. */
    enum { TICKS = 2000000 };
    lapic_write(LAPIC_TIMER, VECTOR_TIMER | 1 << 16);
    lapic_write(LAPIC_TIMER_DIVIDE, 0xb);
    uint64_t from = rdtsc();
    lapic_write(LAPIC_TIMER_INITIAL, UINT32_MAX);
    while (UINT32_MAX - lapic_read(0x390) < TICKS)
        ;
    uint64_t took = rdtsc() - from;
    uint32_t ticks = UINT32_MAX - lapic_read(0x390);
    lapic_write(LAPIC_TIMER_INITIAL, 0);
    return hz = took * 1000000000 / ticks;
}

void irq_route(unsigned gsi)
{
    mmio_write32(IOAPIC, 0x10 + gsi * 2 + 1);
    mmio_write32(IOAPIC + 0x10, 0); /* to APIC id 0 */
    mmio_write32(IOAPIC, 0x10 + gsi * 2);
    mmio_write32(IOAPIC + 0x10, VECTOR_GSI + gsi); /* edge, not masked */
}

void cpus_start(unsigned cpus)
{
    if (cpus < 2)
        return;
    uint8_t *at = (uint8_t *)(uintptr_t)TRAMPOLINE;
    memcpy(at, trampoline, (size_t)(trampoline_end - trampoline));
    lapic_write(LAPIC_ICR_LOW, ICR_ALL_OTHERS | ICR_INIT);
    lapic_write(LAPIC_ICR_LOW, ICR_ALL_OTHERS | ICR_STARTUP | TRAMPOLINE >> 12);
    while (cpus_started < cpus)
        cpu_relax();
}

void cpu_interrupt(unsigned apic_id, uint8_t vector)
{
    lapic_write(LAPIC_ICR_HIGH, apic_id << 24);
    lapic_write(LAPIC_ICR_LOW, ICR_FIXED | vector);
}

void mark(uint32_t point)
{
    out32(PORT_MARK, point);
    while (in32(PORT_HOLD) == 1) /* where there is no harness, a port nobody has reads as all ones */
        cpu_relax();
}

uint32_t ask(void)
{
    for (;;) {
        uint32_t seen = irq_any, v = in32(PORT_ASK);
        if (v)
            return v;
        irq_wait(&irq_any, seen);
    }
}

void guest_poweroff(void)
{
    out8(PORT_SLEEP, 5 << 2 | 1 << 5);
    for (;;)
        gate(GATE_STOP, 0, 0);
}

void guest_crash(void)
{
    for (;;)
        gate(GATE_CRASH, 0, 0);
}

static void interrupts_set_up(void)
{
    for (unsigned i = 0; i < 256; i++) {
        uintptr_t at = (uintptr_t)vectors + i * 16;
        idt[i].low = (uint16_t)at;
        idt[i].middle = (uint16_t)(at >> 16);
        idt[i].selector = 8;
        idt[i].flags = 0x8e00; /* present, interrupt gate */
    }
}

void rt_main(unsigned cpu)
{
    if (!cpu)
        interrupts_set_up();
    lapic_enable();
    guest_main(cpu);
}
