/* storm.h: what busy CPUs of the agent guest keep true, for harness and guest alike.
 *
 * Every CPU but the first writes its pages in turn, each page and then its mirror, with the number of the pass. So at
 * any instant a page is at most one pass ahead of its mirror, and pages before the one that is being written are one
 * pass ahead of those behind it. A state in which that is not so is of two instants. Each CPU checks the page it is
 * about to write against the number in its registers: memory and registers of two instants show as `bad`. */
#ifndef GUEST_STORM_H
#define GUEST_STORM_H

#include <stdint.h>

enum { STORM_PAGES = 256 };

#define STORM_STAT    0x2f00000 /* a page for each CPU but the first */
#define STORM_MEMORY  0x3000000 /* its pages, then their mirrors */
#define STORM_PER_CPU (2 * STORM_PAGES * 4096)

struct storm_stat {
    volatile uint64_t passes, bad;
};

#endif
