/* timer: arms its LAPIC timer, tells the harness, sleeps until it fires, and answers with how often it did.
 *
 *   mode=1      TSC deadline (the default), 2: one-shot
 *   ms=N        how far ahead, 20 by default
 *   repeat=1    again and again, instead of once */
#include "rt.h"

static void arm(uint64_t mode, uint64_t ms)
{
    if (mode == 1)
        timer_deadline(rdtsc() + ms * tsc_hz() / 1000);
    else
        timer_oneshot((uint32_t)(ms * 1000000));
}

void guest_main(unsigned cpu)
{
    uint64_t mode = option("mode", 1), ms = option("ms", 20), repeat = option("repeat", 0);
    tsc_hz();
    uint32_t seen = irq_count[VECTOR_TIMER];
    do {
        arm(mode, ms);
        mark(1);
        while (irq_count[VECTOR_TIMER] == seen)
            irq_wait(&irq_count[VECTOR_TIMER], seen);
        seen = irq_count[VECTOR_TIMER];
        out32(PORT_ANSWER, seen);
    } while (repeat);
    guest_poweroff();
}
