/* timer.c: a guest's timer survives being saved and restored.
 *
 * The LAPIC is restored before the MSRs, or the deadline is silently lost; a deadline that passed before the fork
 * fires at once. A timer that is lost leaves the guest in HLT for ever: the test runs into its time limit. */
#include "kvm/check.h"

#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { AT_ONCE = 4 };

static int wakes(struct rig *rig, void *arg)
{
    struct err err = {0};
    int rc = rig_live(rig, -1, &err);
    if (rc == 0)
        rc = rig_run(rig, rig_answered, &err);
    if (rc < 0)
        fprintf(stderr, "%s\n", err.text);
    return rc == 0 && rig->answers > 0 ? 0 : 1;
}

static void all_wake(const char *cmdline, unsigned forks)
{
    struct rig rig;
    struct err err = {0};
    must(rig_ready(&rig, &(struct rig_config){.guest = "timer", .cmdline = cmdline}, &err));
    assert_int_equal(rig_fork_many(&rig, forks, AT_ONCE, wakes, NULL), 0);
    rig_close(&rig);
}

/* The deadline lies ahead when the state is saved, and in most forks has passed before they run. */
static void test_deadline_survives(void **state)
{
    all_wake("mode=1 ms=30 repeat=1", check_forks(1000));
}

static void test_oneshot_survives(void **state)
{
    all_wake("mode=2 ms=30 repeat=1", check_forks(200));
}

/* Ticks one after the other, so that the park hits timers about to fire, firing and just fired; each life of the
 * guest goes on ticking. */
static void test_ticking_guest_survives(void **state)
{
    struct rig rig;
    struct err err = {0};
    must(rig_boot(&rig, &(struct rig_config){.guest = "timer", .cmdline = "mode=1 ms=1 repeat=1"}, &err));
    must(rig_run(&rig, rig_marked, &err));
    must(rig_park(&rig, &err));
    for (unsigned life = 0; life < check_forks(200); life++) {
        must(rig_live(&rig, -1, &err));
        must(rig_run(&rig, rig_answered, &err));
        must(rig_park(&rig, &err));
    }
    rig_close(&rig);
}

int main(void)
{
    check_kvm();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_deadline_survives),
        cmocka_unit_test(test_oneshot_survives),
        cmocka_unit_test(test_ticking_guest_survives),
    };
    return cmocka_run_group_tests_name("timers of forks", tests, NULL, NULL);
}
