/* clock.h: time of this host. Monotonic nanoseconds for durations and deadlines, wall clock for people. */
#ifndef FORKD_BASE_CLOCK_H
#define FORKD_BASE_CLOCK_H

#include <stdint.h>
#include <time.h>

#define NS_PER_US  UINT64_C(1000)
#define NS_PER_MS  UINT64_C(1000000)
#define NS_PER_SEC UINT64_C(1000000000)

static inline uint64_t clock_read(clockid_t id)
{
    struct timespec t;
    clock_gettime(id, &t);
    return (uint64_t)t.tv_sec * NS_PER_SEC + (uint64_t)t.tv_nsec;
}

static inline uint64_t clock_monotonic_ns(void)
{
    return clock_read(CLOCK_MONOTONIC);
}

static inline uint64_t clock_realtime_ns(void)
{
    return clock_read(CLOCK_REALTIME);
}

/* `secs` from now, as a timed wait by the monotonic clock takes it. */
static inline struct timespec clock_secs_from_now(unsigned secs)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    t.tv_sec += secs;
    return t;
}

/* Milliseconds from now to a monotonic deadline, rounded up, for poll(2): never negative, 0 when it passed. */
static inline int clock_ms_until(uint64_t deadline_ns)
{
    uint64_t now = clock_monotonic_ns();
    if (now >= deadline_ns)
        return 0;
    uint64_t ms = (deadline_ns - now + NS_PER_MS - 1) / NS_PER_MS;
    return ms > INT32_MAX ? INT32_MAX : (int)ms;
}

#endif
