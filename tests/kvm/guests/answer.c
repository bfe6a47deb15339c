/* answer: says a value; after that, whatever the harness asks it to say.
 *
 *   value=N   what it says
 *   fill=N    bytes of memory it writes first, behind its own */
#include "rt.h"

#include <string.h>

static void memory_fill(uint64_t bytes)
{
    uint64_t start, end;
    memory_map();
    for (unsigned n = 0; memory_range(n, &start, &end) && bytes; n++) {
        if (end <= (uintptr_t)guest_end)
            continue;
        if (start < (uintptr_t)guest_end)
            start = (uintptr_t)guest_end;
        for (; start < end && bytes; start += 4096, bytes = bytes > 4096 ? bytes - 4096 : 0)
            *(volatile uint64_t *)start = start | 1;
    }
}

void guest_main(unsigned cpu)
{
    uint32_t value = (uint32_t)option("value", 42);
    memory_fill(option("fill", 0));
    mark(1);
    for (;;) {
        out32(PORT_ANSWER, value);
        value = ask();
    }
}
