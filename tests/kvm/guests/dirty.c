/* dirty: rewrites a hot set of pages without end, reads a cold one once, and measures the longest time a step of
 * its loop took: what the guest itself feels of a pause. All of it at CPL 3.
 *
 *   hot=N     bytes written again and again (64m)
 *   cold=N    bytes behind them, read once (0)
 *   spin=N    rounds of an empty loop after each page (0)
 *   total=N   stop after so many pages (0: never) */
#include "dirty.h"
#include "rt.h"

static struct dirty_stat *const stat = (struct dirty_stat *)DIRTY_STAT;
static volatile uint64_t *const copy = (volatile uint64_t *)DIRTY_PAIR;

static void page_write(uint64_t at, uint64_t n, uint64_t spin)
{
    *(volatile uint64_t *)at = n;
    stat->pair = n;
    *copy = n;
    for (uint64_t i = 0; i < spin; i++)
        __asm__ volatile("");
}

static void dirty_forever(uint64_t end, uint64_t spin, uint64_t total)
{
    uint64_t n = 1, last = rdtsc();
    for (;; stat->passes++)
        for (uint64_t at = DIRTY_HOT; at < end; at += 4096) {
            page_write(at, n++, spin);
            uint64_t now = rdtsc();
            if (now - last > stat->gap)
                stat->gap = now - last;
            last = now;
            stat->writes = n;
            if (total && n > total)
                return;
        }
}

void guest_main(unsigned cpu)
{
    uint64_t hot = option("hot", 64 << 20), cold = option("cold", 0), sum = 0;
    memory_map();
    stat->ticks_s = tsc_hz();
    for (uint64_t at = 0; at < cold; at += 4096)
        sum += *(volatile uint64_t *)(DIRTY_HOT + hot + at);
    mark((uint32_t)(1 + (sum != 0)));
    dirty_forever(DIRTY_HOT + hot, option("spin", 0), option("total", 0));
    out32(PORT_ANSWER, (uint32_t)stat->writes);
    ask();
    guest_poweroff();
}
