/* state: fills registers nobody else uses (SSE, a masked timer that counts, a raised interrupt priority) and then
 * answers again and again whether they hold what they did: 1, or 0. */
#include "rt.h"

static const uint64_t pattern[2] __attribute__((aligned(16))) = {0x0123456789abcdef, 0xfedcba9876543210};

static void registers_fill(void)
{
    __asm__ volatile("movdqa %0, %%xmm0\n\t"
                     "movdqa %%xmm0, %%xmm7\n\t"
                     "movdqa %%xmm0, %%xmm15"
                     :
                     : "m"(pattern));
}

static bool registers_hold(void)
{
    static uint64_t seen[6] __attribute__((aligned(16)));
    __asm__ volatile("movdqa %%xmm0, %0\n\t"
                     "movdqa %%xmm7, 16+%0\n\t"
                     "movdqa %%xmm15, 32+%0"
                     : "=m"(seen));
    for (unsigned i = 0; i < 6; i++)
        if (seen[i] != pattern[i % 2])
            return false;
    return true;
}

void guest_main(unsigned cpu)
{
    lapic_write(0x80, 0x20); /* TPR: everything below vector 0x30 waits */
    lapic_write(0x3e0, 0x3);
    lapic_write(0x320, VECTOR_TIMER | 1 << 16);
    lapic_write(0x380, 0x7fffffff);
    registers_fill();
    mark(1);
    for (;;) {
        bool good = registers_hold() && lapic_read(0x80) == 0x20 && lapic_read(0x3e0) == 0x3 && lapic_read(0x390) != 0;
        out32(PORT_ANSWER, good);
        ask();
    }
}
