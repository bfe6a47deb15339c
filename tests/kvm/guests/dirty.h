/* dirty.h: what the dirty guest tells through its memory, at DIRTY_STAT, for harness and guest alike. */
#ifndef GUEST_DIRTY_H
#define GUEST_DIRTY_H

#include <stdint.h>

/* Between the boot's data and the guest; each CPU has a page of its own there, by its number. */
#define DIRTY_STAT 0x180000
#define DIRTY_PAIR 0x190000 /* the copy of `pair`, pages away */
#define DIRTY_CPUS 16
#define DIRTY_HOT  0x2000000

struct dirty_stat {
    volatile uint64_t writes;  /* pages written */
    volatile uint64_t pair;    /* counts up; its copy follows, so that they never differ by more than one */
    volatile uint64_t gap;     /* TSC ticks of the longest turn of the loop; written 0 to begin anew */
    volatile uint64_t turns;   /* of the loop, each of which reads a cold page, if there are any */
    volatile uint64_t ticks_s; /* TSC ticks in a second, as the guest measured; the first CPU's alone */
};

#endif
