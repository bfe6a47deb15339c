/* rt.h: the runtime of test guests; see start.S for how they run. All of it at CPL 3.
 *
 * What a guest has to say goes through test ports, which the board does not have and the test harness answers. */
#ifndef GUEST_RT_H
#define GUEST_RT_H

#include "ports.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    PORT_SLEEP = 0x606, /* ACPI sleep control */
    PORT_RESET = 0x64,
};

enum {
    VECTOR_TIMER = 0x40,
    VECTOR_IPI = 0x41,
    VECTOR_GSI = 0x50, /* and one for each line */
};

/* Operations of the gate to CPL 0, in the order of start.S. */
enum gate { GATE_WAIT, GATE_WRMSR, GATE_RDMSR, GATE_STOP, GATE_CRASH };

enum { MSR_TSC_DEADLINE = 0x6e0 };

/* Data that every life of the guest writes: kept together. */
#define HOT __attribute__((section(".bss.hot")))

extern volatile uint32_t irq_count[256]; /* interrupts taken, by vector */
extern volatile uint32_t irq_any;        /* and all together */
extern volatile uint32_t cpus_started;

/* The program: called on every CPU, the first one has number 0; it may return, which stops the CPU. */
void guest_main(unsigned cpu);

static inline uint64_t gate(enum gate op, uint64_t a, uint64_t b)
{
    uint64_t rax = op;
    __asm__ volatile("ud2" : "+a"(rax) : "D"(a), "S"(b) : "memory");
    return rax;
}

static inline void out32(uint16_t port, uint32_t v)
{
    __asm__ volatile("outl %0, %1" : : "a"(v), "d"(port) : "memory");
}

static inline void out8(uint16_t port, uint8_t v)
{
    __asm__ volatile("outb %0, %1" : : "a"(v), "d"(port) : "memory");
}

static inline uint32_t in32(uint16_t port)
{
    uint32_t v;
    __asm__ volatile("inl %1, %0" : "=a"(v) : "d"(port) : "memory");
    return v;
}

/* MOV with a plain operand: an access that the emulator of any KVM knows. */
static inline void mmio_write32(uint64_t gpa, uint32_t v)
{
    __asm__ volatile("movl %0, (%1)" : : "r"(v), "r"(gpa) : "memory");
}

static inline uint32_t mmio_read32(uint64_t gpa)
{
    uint32_t v;
    __asm__ volatile("movl (%1), %0" : "=r"(v) : "r"(gpa) : "memory");
    return v;
}

static inline uint64_t rdtsc(void)
{
    uint32_t lo, hi;
    __asm__ volatile("rdtsc" : "=a"(lo), "=d"(hi) : : "memory");
    return (uint64_t)hi << 32 | lo;
}

static inline void cpu_relax(void)
{
    __asm__ volatile("pause" : : : "memory");
}

/* The program came to a point, and stays there as long as the harness likes. */
void mark(uint32_t point);
/* What the harness wants next: not 0, which means to sleep until an interrupt and to ask again. */
uint32_t ask(void);

/* Sleeps while *at == seen; any interrupt wakes it. */
static inline void irq_wait(volatile uint32_t *at, uint32_t seen)
{
    gate(GATE_WAIT, (uint64_t)(uintptr_t)at, seen);
}

/* NAME=NUMBER on the command line (decimal or 0x; suffixes k, m, g), or `otherwise`. */
uint64_t option(const char *name, uint64_t otherwise);

/* Maps all of RAM, which without this ends at 1 GiB. */
void memory_map(void);
/* A range of RAM from the boot's memory map; false past the last one. */
bool memory_range(unsigned n, uint64_t *start, uint64_t *end);
/* The first byte behind the guest's own data, a whole page. */
extern uint8_t guest_end[];

void lapic_enable(void);
uint32_t lapic_read(uint32_t at);
void lapic_write(uint32_t at, uint32_t v);
/* The timer interrupts (VECTOR_TIMER) when the TSC passes a deadline. */
void timer_deadline(uint64_t tsc);
/* The same after `ticks` of the LAPIC's clock, once. */
void timer_oneshot(uint32_t ticks);
uint64_t tsc_hz(void);

/* An edge on an IOAPIC line becomes vector VECTOR_GSI + gsi on the first CPU. */
void irq_route(unsigned gsi);

/* Starts the other CPUs, and waits until all `cpus` have come to guest_main(). */
void cpus_start(unsigned cpus);
/* Sends an interrupt to another CPU, by APIC id. */
void cpu_interrupt(unsigned apic_id, uint8_t vector);

_Noreturn void guest_poweroff(void);
_Noreturn void guest_crash(void);

#endif
