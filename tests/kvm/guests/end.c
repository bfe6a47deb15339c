/* end: ends as it is asked to.
 *
 *   wait=1 asks first
 *   how=1 powers off, 2 resets, 3 faults three times at once, 4 takes an exception nobody handles */
#include "rt.h"

void guest_main(unsigned cpu)
{
    mark(1);
    if (option("wait", 0))
        ask();
    switch (option("how", 1)) {
    case 1:
        guest_poweroff();
    case 2:
        out8(PORT_RESET, 0xfe);
        break;
    case 3:
        guest_crash();
    case 4:
        *(volatile uint32_t *)UINT64_C(0x7f0000000000) = 1;
    }
    out32(PORT_ANSWER, 0);
}
