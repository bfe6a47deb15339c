/* throttle.c: a guest that is held back is let go when the timer of its slices fails, at whatever call, and a later
 * branch may hold it back again. The linker puts the calls of this file before those of the C library (--wrap). */
#include "kvm/check.h"

#include "snap/throttle.h"

#include <string.h>
#include <sys/timerfd.h>

static struct throttle throttle;
static struct {
    bool create;
    unsigned settime; /* this call from now on the throttle's timer; 0: none */
} failing;

int __real_timerfd_create(int clock, int flags);
int __wrap_timerfd_create(int clock, int flags);
int __real_timerfd_settime(int fd, int flags, const struct itimerspec *when, struct itimerspec *old);
int __wrap_timerfd_settime(int fd, int flags, const struct itimerspec *when, struct itimerspec *old);

static int fail_with(int code)
{
    errno = code;
    return -1;
}

int __wrap_timerfd_create(int clock, int flags)
{
    return failing.create ? fail_with(EMFILE) : __real_timerfd_create(clock, flags);
}

int __wrap_timerfd_settime(int fd, int flags, const struct itimerspec *when, struct itimerspec *old)
{
    bool fails = fd == throttle.timer.fd && failing.settime && --failing.settime == 0;
    return fails ? fail_with(ECANCELED) : __real_timerfd_settime(fd, flags, when, old);
}

static bool is_idle(const struct rig *rig)
{
    return throttle.timer.fd < 0 && !throttle.holding && rig->m->phase == MACHINE_RUNNING;
}

static uint32_t wanted;

static bool answers_are_there(struct rig *rig)
{
    return atomic_load(&rig->answers) >= wanted;
}

static bool failed_and_answered(struct rig *rig)
{
    return !failing.settime && answers_are_there(rig);
}

/* Some more answers, and whatever else `until` wants. */
static void goes_on(struct rig *rig, bool (*until)(struct rig *rig))
{
    enum { ANSWERS = 5 };
    struct err err = {0};
    wanted = atomic_load(&rig->answers) + ANSWERS;
    must(rig_run(rig, until, &err));
    assert_false(rig->ended);
}

static void boot_ticking(struct rig *rig)
{
    struct err err = {0};
    failing.create = false;
    failing.settime = 0;
    throttle_init(&throttle);
    must(rig_boot(rig, &(struct rig_config){.guest = "timer", .cmdline = "mode=1 ms=1 repeat=1"}, &err));
}

/* Held back as much as it can be, in slices, and let go. */
static void can_be_held_back(struct rig *rig)
{
    struct err err = {0};
    must(throttle_set(&throttle, rig->m, THROTTLE_LEVELS - 1, &err));
    goes_on(rig, answers_are_there);
    assert_true(throttle.timer.fd >= 0);
    throttle_end(&throttle);
    assert_true(is_idle(rig));
    goes_on(rig, answers_are_there);
}

static void a_timer_that_cannot_be_made_is_told_and_holds_nobody(void **state)
{
    struct rig rig;
    struct err err = {0};
    boot_ticking(&rig);
    goes_on(&rig, answers_are_there);
    failing.create = true;
    assert_int_equal(throttle_set(&throttle, rig.m, 1, &err), -EMFILE);
    assert_non_null(strstr(err.text, "make the timer of a guest that is held back"));
    assert_true(is_idle(&rig));
    goes_on(&rig, answers_are_there);
    failing.create = false;
    can_be_held_back(&rig);
    rig_close(&rig);
}

/* The first arms it; its owner, who is told, ends it. */
static void a_timer_that_cannot_be_set_is_told_and_holds_nobody(void **state)
{
    struct rig rig;
    struct err err = {0};
    boot_ticking(&rig);
    failing.settime = 1;
    assert_int_equal(throttle_set(&throttle, rig.m, 1, &err), -ECANCELED);
    assert_non_null(strstr(err.text, "set the timer of a guest that is held back"));
    throttle_end(&throttle);
    assert_true(is_idle(&rig));
    goes_on(&rig, answers_are_there);
    can_be_held_back(&rig);
    rig_close(&rig);
}

/* Those after the first begin and end slices in turn: nobody is told but the log. */
static void a_guest_is_let_go_at_whatever_slice_its_timer_fails(void **state)
{
    enum { CALLS = 9 };
    struct rig rig;
    struct err err = {0};
    boot_ticking(&rig);
    for (unsigned call = 2; call <= CALLS; call++) {
        failing.settime = call;
        must(throttle_set(&throttle, rig.m, 1 + call % (THROTTLE_LEVELS - 1), &err));
        goes_on(&rig, failed_and_answered);
        assert_true(is_idle(&rig));
    }
    can_be_held_back(&rig);
    rig_close(&rig);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_timer_that_cannot_be_made_is_told_and_holds_nobody),
        cmocka_unit_test(a_timer_that_cannot_be_set_is_told_and_holds_nobody),
        cmocka_unit_test(a_guest_is_let_go_at_whatever_slice_its_timer_fails),
    };
    check_kvm();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
