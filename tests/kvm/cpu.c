/* cpu.c: what a CPU is goes through a fork whole: an IN that was under way, every register, every CPU of several. */
#include "kvm/check.h"

#include "arch/vcpu_state.h"
#include "base/own.h"

#include <string.h>

static int answers_1(struct rig *rig, void *arg)
{
    struct err err = {0};
    int rc = rig_live(rig, -1, &err);
    if (rc == 0)
        rc = rig_run(rig, rig_answered, &err);
    if (rc < 0)
        fprintf(stderr, "%s\n", err.text);
    return rc == 0 && rig->first == *(uint32_t *)arg ? 0 : 1;
}

/* --- an IN under way --- */

static _Atomic bool in_asked;

/* Holds the CPU in the exit of its IN until the machine is being parked. */
static void hold_until_parked(struct rig *rig)
{
    uint32_t order = atomic_load(&rig->m->order);
    atomic_store(&in_asked, true);
    rig_stir(rig);
    while (atomic_load(&rig->m->order) == order)
        ;
}

static bool asked(struct rig *rig)
{
    return atomic_load(&in_asked);
}

static int has_value_without_asking(struct rig *rig, void *arg)
{
    rig->on_ask = NULL;
    rig->ask = 0x22222222;
    uint32_t value = 0x11111111;
    return answers_1(rig, &value);
}

static void test_in_completes_before_a_save(void **state)
{
    struct rig rig;
    struct err err = {0};
    for (unsigned i = 0; i < 20; i++) {
        in_asked = false;
        must(rig_boot(&rig, &(struct rig_config){.guest = "inport"}, &err));
        rig.ask = 0x11111111;
        must(rig_run(&rig, rig_marked, &err));
        rig.on_ask = hold_until_parked;
        must(rig_run(&rig, asked, &err));
        must(rig_park(&rig, &err));
        assert_int_equal(rig_wait(rig_fork(&rig, has_value_without_asking, NULL)), 0);
        rig_close(&rig);
    }
}

/* --- registers --- */

static void test_registers_hold_in_the_guest(void **state)
{
    struct rig rig;
    struct err err = {0};
    uint32_t good = 1;
    must(rig_ready(&rig, &(struct rig_config){.guest = "state"}, &err));
    assert_int_equal(rig_fork_many(&rig, 20, 2, answers_1, &good), 0);
    rig_close(&rig);
}

/* Time goes on by itself: the counters of a state saved again are later, everything else is as it was. */
static void state_stop_time(struct vcpu_state *s)
{
    for (uint32_t i = 0; i < s->msrs.nmsrs; i++)
        if (s->msrs.entry[i].index == 0x10 || s->msrs.entry[i].index == 0x3b) /* TSC, TSC_ADJUST */
            s->msrs.entry[i].data = 0;
    memset(s->lapic.regs + 0x390, 0, 4); /* the timer's current count */
}

static void states_compare(const struct vcpu_state *saved, const struct vcpu_state *again)
{
    assert_memory_equal(&saved->regs, &again->regs, sizeof saved->regs);
    assert_memory_equal(&saved->sregs, &again->sregs, sizeof saved->sregs);
    assert_memory_equal(&saved->xcrs, &again->xcrs, sizeof saved->xcrs);
    assert_memory_equal(&saved->debugregs, &again->debugregs, sizeof saved->debugregs);
    assert_memory_equal(&saved->lapic, &again->lapic, sizeof saved->lapic);
    assert_memory_equal(&saved->mp_state, &again->mp_state, sizeof saved->mp_state);
    assert_memory_equal(saved->xsave, again->xsave, saved->xsave_size);
    assert_int_equal(saved->msrs.nmsrs, again->msrs.nmsrs);
    for (uint32_t i = 0; i < saved->msrs.nmsrs; i++) {
        assert_int_equal(saved->msrs.entry[i].index, again->msrs.entry[i].index);
        assert_int_equal(saved->msrs.entry[i].data, again->msrs.entry[i].data);
    }
}

static void loads_back_equal(const struct rig_config *config)
{
    struct rig rig;
    struct err err = {0};
    static struct vcpu_state saved, again;
    must(rig_ready(&rig, config, &err));
    must(rig_attach(&rig, -1, &err));
    for (unsigned i = 0; i < rig.m->config.vcpus; i++) {
        saved = again = rig.m->vcpu[i].state;
        must(vcpu_state_save(rig.m->vcpu[i].fd, &again, &err));
        state_stop_time(&saved);
        state_stop_time(&again);
        states_compare(&saved, &again);
    }
    rig_close(&rig);
}

static void test_state_loads_back_equal(void **state)
{
    loads_back_equal(&(struct rig_config){.guest = "state"});
    loads_back_equal(&(struct rig_config){.guest = "smp", .cmdline = "cpus=2", .vcpus = 2});
}

/* --- several CPUs --- */

static void cpus_count_on(unsigned cpus)
{
    struct rig rig;
    struct err err = {0};
    char cmdline[16];
    uint32_t all = cpus;
    snprintf(cmdline, sizeof cmdline, "cpus=%u", cpus);
    must(rig_ready(&rig, &(struct rig_config){.guest = "smp", .cmdline = cmdline, .vcpus = cpus}, &err));
    assert_int_equal(rig_fork_many(&rig, 10, 1, answers_1, &all), 0);
    rig_close(&rig);
}

static void test_two_cpus_count_on(void **state)
{
    cpus_count_on(2);
}

static void test_four_cpus_count_on(void **state)
{
    cpus_count_on(4);
}

int main(void)
{
    check_kvm();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_in_completes_before_a_save), cmocka_unit_test(test_registers_hold_in_the_guest),
        cmocka_unit_test(test_state_loads_back_equal),     cmocka_unit_test(test_two_cpus_count_on),
        cmocka_unit_test(test_four_cpus_count_on),
    };
    return cmocka_run_group_tests_name("CPUs of forks", tests, NULL, NULL);
}
