/* inport: reads a port, and says what it read and how often it asked. A guest saved between the exit of an IN and
 * its completion must have the value all the same, and must not ask twice. */
#include "rt.h"

void guest_main(unsigned cpu)
{
    mark(1);
    for (;;)
        out32(PORT_ANSWER, in32(PORT_ASK));
}
