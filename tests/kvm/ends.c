/* ends.c: a guest that is over is reported with the way it ended, in a first life and in a fork alike. */
#include "kvm/check.h"

#include <poll.h>
#include <string.h>

struct expected {
    const char *cmdline;
    enum machine_end why;
    const char *word; /* of the reason */
};

static const struct expected ends[] = {
    {"how=1", MACHINE_POWEROFF, "power"},
    {"how=2", MACHINE_RESET, "reset"},
    {"how=3", MACHINE_CRASH, "triple fault"},
    {"how=4", MACHINE_CRASH, "triple fault"},
};

static bool ends_as(const struct rig *rig, const struct expected *e)
{
    bool as = rig->ended && rig->why == e->why && strstr(rig->text, e->word);
    if (!as)
        fprintf(stderr, "%s: ended %d, way %d (%s)\n", e->cmdline, rig->ended, (int)rig->why, rig->text);
    return as;
}

static int fork_ends(struct rig *rig, void *arg)
{
    struct err err = {0};
    int rc = rig_live(rig, -1, &err);
    if (rc == 0)
        rc = rig_run(rig, rig_over, &err);
    return rc == 0 && ends_as(rig, arg) ? 0 : 1;
}

static void test_first_life_reports_its_end(void **state)
{
    for (size_t i = 0; i < sizeof ends / sizeof *ends; i++) {
        struct rig rig;
        struct err err = {0};
        must(rig_boot(&rig, &(struct rig_config){.guest = "end", .cmdline = ends[i].cmdline}, &err));
        must(rig_run(&rig, rig_over, &err));
        assert_true(ends_as(&rig, &ends[i]));
        rig_close(&rig);
    }
}

static void test_forks_report_their_ends(void **state)
{
    for (size_t i = 0; i < sizeof ends / sizeof *ends; i++) {
        struct rig rig;
        struct err err = {0};
        char cmdline[32];
        snprintf(cmdline, sizeof cmdline, "%s wait=1", ends[i].cmdline);
        must(rig_ready(&rig, &(struct rig_config){.guest = "end", .cmdline = cmdline}, &err));
        rig.ask = 1;
        assert_int_equal(rig_wait(rig_fork(&rig, fork_ends, (void *)&ends[i])), 0);
        rig_close(&rig);
    }
}

/* The guest is over, and the loop has not heard of it. */
static void await_end_unheard(struct machine *m)
{
    for (bool over = false; !over; poll(NULL, 0, 1)) {
        pthread_mutex_lock(&m->lock);
        over = m->end_pending;
        pthread_mutex_unlock(&m->lock);
    }
}

/* Its forks would be machines that are switched off. */
static void test_guest_that_ended_is_not_saved(void **state)
{
    for (size_t i = 0; i < sizeof ends / sizeof *ends; i++) {
        struct rig rig;
        struct err err = {0};
        must(rig_boot(&rig, &(struct rig_config){.guest = "end", .cmdline = ends[i].cmdline}, &err));
        await_end_unheard(rig.m);
        assert_int_equal(machine_park(rig.m, true, &err), -ECANCELED);
        assert_non_null(strstr(err.text, ends[i].word));
        rig_close(&rig);
    }
}

int main(void)
{
    check_kvm();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_first_life_reports_its_end),
        cmocka_unit_test(test_forks_report_their_ends),
        cmocka_unit_test(test_guest_that_ended_is_not_saved),
    };
    return cmocka_run_group_tests_name("ends of guests", tests, NULL, NULL);
}
