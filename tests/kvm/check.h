/* check.h: what the tests of this folder begin with. */
#ifndef TESTS_KVM_CHECK_H
#define TESTS_KVM_CHECK_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "kvm/rig.h"

enum { CHECK_SKIP = 77 }; /* meson's exit status of a test that was skipped */

/* A call that must succeed; `err` says why it did not. */
#define must(call)                                                                                                     \
    do {                                                                                                               \
        if ((call) < 0)                                                                                                \
            fail_msg("%s: %s", #call, err.text);                                                                       \
    } while (0)

/* How often what is rare is tried: `otherwise`, or FORKD_TEST_FORKS. */
static inline unsigned check_forks(unsigned otherwise)
{
    const char *s = getenv("FORKD_TEST_FORKS");
    return s && atoi(s) > 0 ? (unsigned)atoi(s) : otherwise;
}

/* In main: leaves the program, skipped, where KVM cannot be used. */
static inline void check_kvm(void)
{
    const char *why = rig_unusable();
    if (!why)
        return;
    printf("SKIP %s: %s\n", program_invocation_short_name, why);
    exit(CHECK_SKIP);
}

#endif
