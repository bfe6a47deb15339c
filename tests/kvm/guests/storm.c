/* storm.c: see storm.h. */
#include "storm.h"
#include "rt.h"
#include "shell.h"

static struct storm_stat *stat_of(unsigned cpu)
{
    return (struct storm_stat *)(uintptr_t)(STORM_STAT + (uint64_t)(cpu - 1) * 4096);
}

static volatile uint64_t *page_of(unsigned cpu, unsigned page)
{
    return (volatile uint64_t *)(uintptr_t)(STORM_MEMORY + (uint64_t)(cpu - 1) * STORM_PER_CPU + page * 4096ull);
}

_Noreturn void storm_forever(unsigned cpu)
{
    struct storm_stat *stat = stat_of(cpu);
    for (uint64_t pass = 1;; pass++) {
        for (unsigned i = 0; i < STORM_PAGES; i++) {
            volatile uint64_t *page = page_of(cpu, i), *mirror = page_of(cpu, STORM_PAGES + i);
            stat->bad += *page != pass - 1 || *mirror != pass - 1;
            *page = pass;
            *mirror = pass;
        }
        stat->passes = pass;
    }
}

unsigned storm_cpus(void)
{
    return (unsigned)option("storm", 1);
}

/* Waits until every CPU has come round again. */
void cmd_storm(struct command *cmd)
{
    for (unsigned cpu = 1; cpu < storm_cpus(); cpu++) {
        uint64_t from = stat_of(cpu)->passes;
        while (stat_of(cpu)->passes < from + 2)
            cpu_relax();
        cmd->code |= stat_of(cpu)->bad != 0;
    }
}
