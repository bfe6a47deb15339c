/* ports.h: the test ports, which the board does not have: what guests of tests and their harness say to each other. */
#ifndef GUEST_PORTS_H
#define GUEST_PORTS_H

enum {
    PORT_ANSWER = 0x510,    /* out: a value */
    PORT_MARK = 0x514,      /* out: a point of the program was reached */
    PORT_HOLD = 0x512,      /* in, after a mark: 1 while the harness wants the program to stay there */
    PORT_ASK = 0x518,       /* in: a value of the harness; see ask() */
    PORT_EXCEPTION = 0x51c, /* out: an exception nobody expected */
};

#endif
