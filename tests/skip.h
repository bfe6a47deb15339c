/* skip.h: how a test says that it cannot run here. The test runner lists the reason. */
#ifndef FORKD_TESTS_SKIP_H
#define FORKD_TESTS_SKIP_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#define skip_because(...)                                                                                              \
    do {                                                                                                               \
        print_message("[  REASON  ] " __VA_ARGS__);                                                                    \
        print_message("\n");                                                                                           \
        skip();                                                                                                        \
    } while (0)

#endif
