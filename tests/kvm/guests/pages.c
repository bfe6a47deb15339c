/* pages: writes the address of a page into it, over both regions of RAM, and later says how many do not hold what
 * they should.
 *
 *   stride=N  every Nth page only (64); the first and last pages of each region always
 *
 * After the first mark it answers how many pages are wrong, and asks: 1 checks again, 2 writes each page anew with
 * the address inverted, and from then on expects that. */
#include "rt.h"

static bool inverted;

static uint64_t expected(uint64_t at)
{
    return inverted ? ~at : at | 1;
}

/* Visits the pages; returns how many are wrong. */
static uint32_t pages_visit(bool write, uint64_t stride)
{
    uint64_t start, end;
    uint32_t bad = 0;
    for (unsigned n = 0; memory_range(n, &start, &end); n++) {
        if (end <= (uintptr_t)guest_end)
            continue;
        if (start < (uintptr_t)guest_end)
            start = (uintptr_t)guest_end;
        for (uint64_t at = start; at < end;) {
            volatile uint64_t *p = (volatile uint64_t *)at;
            if (write)
                *p = expected(at);
            else
                bad += *p != expected(at);
            /* The last page of the region is one of those visited. */
            uint64_t next = at + stride * 4096;
            at = next >= end && at != end - 4096 ? end - 4096 : next;
        }
    }
    return bad;
}

void guest_main(unsigned cpu)
{
    uint64_t stride = option("stride", 64);
    memory_map();
    pages_visit(true, stride);
    mark(1);
    for (;;) {
        out32(PORT_ANSWER, pages_visit(false, stride));
        if (ask() == 2) {
            inverted = true;
            pages_visit(true, stride);
        }
    }
}
