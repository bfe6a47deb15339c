/* dirty: rewrites a hot set of pages without end, reads a cold one, and measures the longest time a turn of its loop
 * took: what the guest itself feels of a pause. All of it at CPL 3.
 *
 *   hot=N     bytes written again and again (64m)
 *   cold=N    bytes behind them, written once before the first mark, then only read (0)
 *   rate=N    pages to write in a second, by all CPUs together (0: as many as it can)
 *   spin=N    rounds of an empty loop after each page written (0)
 *   cpus=N    as many as the machine has (1); each has its part of both sets
 *   total=N   stop after so many pages, written by the first CPU (0: never)
 *
 * A page that is late, because the machine stood still, is not caught up with: what was lost stays lost, and can be
 * seen. */
#include "dirty.h"
#include "rt.h"

struct set {
    uint64_t begin, end, at;
};

static volatile uint32_t go;

static struct dirty_stat *stat_of(unsigned cpu)
{
    return (struct dirty_stat *)(uintptr_t)(DIRTY_STAT + cpu * 4096);
}

static struct set part(uint64_t base, uint64_t bytes, unsigned cpu, unsigned cpus)
{
    uint64_t pages = bytes / 4096, begin = base + pages * cpu / cpus * 4096,
             end = base + pages * (cpu + 1) / cpus * 4096;
    return (struct set){begin, end, begin};
}

static volatile uint64_t *next(struct set *s)
{
    volatile uint64_t *page = (volatile uint64_t *)s->at;
    s->at = s->at + 4096 < s->end ? s->at + 4096 : s->begin;
    return page;
}

static void page_write(struct set *hot, struct dirty_stat *stat, volatile uint64_t *copy, uint64_t spin)
{
    uint64_t n = stat->writes + 1;
    *next(hot) = n;
    stat->pair = n;
    *copy = n;
    for (uint64_t i = 0; i < spin; i++)
        __asm__ volatile("");
    stat->writes = n;
}

static void dirty_forever(unsigned cpu, unsigned cpus)
{
    struct dirty_stat *stat = stat_of(cpu);
    volatile uint64_t *copy = (volatile uint64_t *)(uintptr_t)(DIRTY_PAIR + cpu * 4096);
    uint64_t hot_bytes = option("hot", 64 << 20), rate = option("rate", 0), spin = option("spin", 0);
    uint64_t total = cpu ? 0 : option("total", 0);
    struct set hot = part(DIRTY_HOT, hot_bytes, cpu, cpus);
    struct set cold = part(DIRTY_HOT + hot_bytes, option("cold", 0), cpu, cpus);
    uint64_t period = rate ? stat_of(0)->ticks_s * cpus / rate : 0, last = rdtsc(), due = last;
    bool writes = hot.end > hot.begin, reads = cold.end > cold.begin;
    while (!total || stat->writes < total) {
        uint64_t now = rdtsc();
        if (now - last > stat->gap)
            stat->gap = now - last;
        last = now;
        if (writes && now >= due) {
            page_write(&hot, stat, copy, spin);
            due = due + period > now ? due + period : now;
        }
        if (reads)
            (void)*next(&cold);
        stat->turns++;
    }
}

void guest_main(unsigned cpu)
{
    unsigned cpus = (unsigned)option("cpus", 1);
    if (cpu) {
        while (!go)
            cpu_relax();
        dirty_forever(cpu, cpus);
    }
    memory_map();
    struct set cold = part(DIRTY_HOT + option("hot", 64 << 20), option("cold", 0), 0, 1);
    for (uint64_t at = cold.begin; at < cold.end; at += 4096)
        *(volatile uint64_t *)at = at;
    stat_of(0)->ticks_s = tsc_hz();
    cpus_start(cpus);
    mark(1);
    go = 1;
    dirty_forever(0, cpus);
    out32(PORT_ANSWER, (uint32_t)stat_of(0)->writes);
    ask();
    guest_poweroff();
}
