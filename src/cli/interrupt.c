/* interrupt.c: see interrupt.h. */
#include "cli/interrupt.h"

#include "base/clock.h"
#include "base/own.h"

#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <sys/signalfd.h>

/* What is held. */
static sigset_t ends_of_program(void)
{
    struct sigaction hang_up;
    sigset_t ends;
    sigemptyset(&ends);
    sigaddset(&ends, SIGINT);
    sigaddset(&ends, SIGTERM);
    /* A signal that is blocked becomes pending though it is ignored. */
    if (sigaction(SIGHUP, NULL, &hang_up) == 0 && hang_up.sa_handler != SIG_IGN)
        sigaddset(&ends, SIGHUP);
    return ends;
}

void interrupts_hold(void)
{
    const sigset_t ends = ends_of_program();
    sigprocmask(SIG_BLOCK, &ends, NULL);
}

int interrupts_release(int status)
{
    const sigset_t ends = ends_of_program();
    fflush(stdout); /* a signal's default action does not */
    if (interrupts_came()) {
        /* A shell's background job ignores SIGINT: one that was obeyed ends it all the same. */
        signal(SIGINT, SIG_DFL);
        signal(SIGTERM, SIG_DFL);
    }
    sigprocmask(SIG_UNBLOCK, &ends, NULL);
    return status;
}

bool interrupts_came(void)
{
    sigset_t ends = ends_of_program(), pending;
    sigpending(&pending);
    sigandset(&ends, &ends, &pending);
    return !sigisemptyset(&ends);
}

int interrupts_fd(void)
{
    const sigset_t ends = ends_of_program();
    return signalfd(-1, &ends, SFD_CLOEXEC);
}

void interrupts_await(uint64_t deadline_ns)
{
    own_fd int fd = interrupts_fd();
    struct pollfd poll_fd = {.fd = fd, .events = POLLIN};
    for (int left; (left = clock_ms_until(deadline_ns)) > 0;)
        if (poll(&poll_fd, 1, left) > 0)
            return;
}
