/* smp: every CPU counts in a place of its own and keeps a value of its own in a register.
 *
 *   cpus=N    as many as the machine has
 *
 * When all count, the first CPU marks 1; asked, it says at PORT_ANSWER how many CPUs have counted on
 * since it was asked before, with their registers as they should be. */
#include "rt.h"

enum { CPUS_MAX = 16 };

static struct {
    volatile uint64_t count;
    volatile uint64_t bad;
    uint8_t apart[112];
} cpu_state[CPUS_MAX];

static volatile uint32_t running;

static void count_forever(unsigned cpu)
{
    uint64_t mine = UINT64_C(0x1111111111111111) * cpu;
    __atomic_add_fetch(&running, 1, __ATOMIC_SEQ_CST);
    for (;;) {
        uint64_t held = mine;
        for (unsigned i = 0; i < 1000; i++)
            __asm__ volatile("pause" : "+r"(held));
        cpu_state[cpu].bad += held != mine;
        cpu_state[cpu].count++;
    }
}

/* CPUs that count on. Each is waited for: how fast another CPU runs is the host's affair. */
static unsigned cpus_alive(unsigned cpus)
{
    unsigned alive = 1;
    for (unsigned i = 1; i < cpus; i++) {
        uint64_t from = cpu_state[i].count;
        while (cpu_state[i].count == from)
            cpu_relax();
        alive += !cpu_state[i].bad;
    }
    return alive;
}

void guest_main(unsigned cpu)
{
    if (cpu)
        count_forever(cpu);
    unsigned cpus = (unsigned)option("cpus", 1);
    cpus_start(cpus);
    while (running + 1 < cpus)
        cpu_relax();
    mark(1);
    for (;;) {
        out32(PORT_ANSWER, cpus_alive(cpus));
        ask();
    }
}
