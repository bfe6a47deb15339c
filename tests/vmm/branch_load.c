/* branch_load.c: claims about branches of guests whose CPUs are busy, and of guests with memory above the hole.
 * Usage: branch_load FORKD_VMM GUEST. */
#include "fixture.h"

#include "base/io.h"
#include "base/own.h"
#include "kvm/guests/storm.h"
#include "mem/gmem.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

enum { MEM_MIB = 64 };

static uint64_t ram_of(const struct template *t)
{
    struct ctl_message m;
    ctl_message_init(&m, CTL_EXPORT, 21);
    assert_int_equal(ctl_send(t->vmm.ctl, &m, NULL), 0);
    fixture_expect(t->vmm.ctl, &m, CTL_EXPORTED);
    uint64_t ram = m.export.ram;
    ctl_message_close(&m);
    return ram;
}

static uint64_t word_at(const struct template *t, uint64_t at)
{
    uint64_t word;
    assert_int_equal(io_pread_all(t->own_memory, &word, sizeof word, at, NULL), 0);
    return word;
}

/* The invariant of storm.h, in a template's memory. Returns the pass that was under way. */
static uint64_t assert_one_instant(const struct template *t, unsigned cpu)
{
    uint64_t at = ram_of(t) + STORM_MEMORY + (uint64_t)(cpu - 1) * STORM_PER_CPU;
    uint64_t pass = word_at(t, at), before = pass;
    for (unsigned i = 0; i < STORM_PAGES; i++) {
        uint64_t page = word_at(t, at + (uint64_t)i * GMEM_PAGE);
        uint64_t mirror = word_at(t, at + (uint64_t)(STORM_PAGES + i) * GMEM_PAGE);
        /* Only one page may be ahead of its mirror: the one that is being written. */
        bool in_turn = page == before || (before == pass && page + 1 == pass);
        bool mirrored = mirror == page || (page == pass && mirror + 1 == page);
        if (!in_turn || !mirrored)
            fail_msg("page %u of CPU %u holds %llu after %llu, its mirror %llu", i, cpu, (unsigned long long)page,
                     (unsigned long long)before, (unsigned long long)mirror);
        before = mirror;
    }
    return pass;
}

/* Branches in a row, each on the last; every tenth is spawned, and its child branched in turn. */
static void branch_in_a_row(unsigned vcpus, unsigned branches)
{
    struct image_fds image = image_make_stormy(MEM_MIB, vcpus);
    struct template last = template_load(&image);
    struct sandbox source = sandbox_run(&last, "source");
    uint64_t pass[4] = {0};
    for (unsigned i = 0; i < branches; i++) {
        struct ctl_branched report;
        struct template branch = sandbox_branch(&source, &last, "branch", false, &report);
        template_quit(&last);
        last = branch;
        for (unsigned cpu = 1; cpu < vcpus; cpu++) {
            uint64_t now = assert_one_instant(&last, cpu);
            assert_true(now >= pass[cpu]);
            pass[cpu] = now;
        }
        if (i % 10)
            continue;
        struct sandbox child = sandbox_run(&last, "child");
        sandbox_run_line(&child, "storm");
        struct template twig = sandbox_branch(&child, &last, "twig", true, &report);
        assert_int_equal(report.pages_differing, 0);
        for (unsigned cpu = 1; cpu < vcpus; cpu++)
            assert_true(assert_one_instant(&twig, cpu) > pass[cpu]);
        struct sandbox leaf = sandbox_run(&twig, "leaf");
        sandbox_run_line(&leaf, "storm");
        sandbox_quit(&leaf);
        sandbox_quit(&child);
        template_quit(&twig);
    }
    sandbox_run_line(&source, "storm");
    sandbox_quit(&source);
    template_quit(&last);
    image_close(&image);
}

static void a_hundred_branches_of_a_busy_guest_of_two_cpus_are_never_torn(void **state)
{
    branch_in_a_row(2, 100);
}

static void branches_of_a_busy_guest_of_four_cpus_are_never_torn(void **state)
{
    branch_in_a_row(4, 20);
}

/* RAM is in two regions, below and above the hole. */
static void a_branch_of_a_guest_of_five_gib_has_both_regions(void **state)
{
    enum { FIVE_GIB = 5 << 10 };
    struct image_fds image = image_make(FIVE_GIB, 1, 0);
    struct template t = template_load(&image);
    struct sandbox source = sandbox_run(&t, "source");
    sandbox_run_line(&source, "mem write 0x2000000 111");
    sandbox_run_line(&source, "mem write 0xbffff000 112");
    sandbox_run_line(&source, "mem write 0x100000000 113");
    sandbox_run_line(&source, "mem write 0x17ffff000 114");
    struct ctl_branched report;
    struct template branch = sandbox_branch(&source, &t, "branch", false, &report);
    sandbox_run_line(&source, "mem write 0x2000000 222");
    sandbox_run_line(&source, "mem write 0x100000000 222");
    struct sandbox child = sandbox_run(&branch, "child");
    struct template twig = sandbox_branch(&child, &branch, "twig", false, &report);
    struct sandbox leaf = sandbox_run(&twig, "leaf");
    const struct sandbox *both[] = {&child, &leaf};
    for (int i = 0; i < 2; i++) {
        assert_non_null(strstr(sandbox_run_line(both[i], "mem read 0x2000000"), "0x6f"));
        assert_non_null(strstr(sandbox_run_line(both[i], "mem read 0xbffff000"), "0x70"));
        assert_non_null(strstr(sandbox_run_line(both[i], "mem read 0x100000000"), "0x71"));
        assert_non_null(strstr(sandbox_run_line(both[i], "mem read 0x17ffff000"), "0x72"));
    }
    assert_non_null(strstr(sandbox_run_line(&source, "mem read 0x100000000"), "0xde"));
    sandbox_quit(&leaf);
    sandbox_quit(&child);
    sandbox_quit(&source);
    template_quit(&twig);
    template_quit(&branch);
    template_quit(&t);
    image_close(&image);
}

int main(int argc, char **argv)
{
    int status = fixture_begin(argc, argv);
    if (status)
        return status;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_hundred_branches_of_a_busy_guest_of_two_cpus_are_never_torn),
        cmocka_unit_test(branches_of_a_busy_guest_of_four_cpus_are_never_torn),
        cmocka_unit_test(a_branch_of_a_guest_of_five_gib_has_both_regions),
    };
    return cmocka_run_group_tests_name("branches under load", tests, NULL, NULL);
}
