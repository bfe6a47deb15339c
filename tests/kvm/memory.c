/* memory.c: the memory of forks: nobody sees another's, both regions of a large guest are there, and what a child
 * writes costs once. */
#include "kvm/check.h"

#include "base/own.h"
#include "kvm/child.h"

#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

static void start(struct child *c, struct rig *rig)
{
    struct err err = {0};
    must(child_prepare(c, 1, &err));
    must(child_start(c, rig, &err));
}

static void end(struct child *c)
{
    struct err err = {0};
    must(child_end(c, &err));
}

static void says(const struct child *c, const char *line, const char *expected)
{
    struct err err = {0};
    must(child_says(c, line, expected, &err));
}

enum { WORD = 0x1800000 }; /* 24 MiB: behind the guest */

/* Template, two children and a grandchild's worth of writes: each sees its own and what was there at its birth. */
static void test_nobody_sees_anothers_memory(void **state)
{
    struct rig rig;
    struct err err = {0};
    struct child a, b, late;
    must(rig_ready(&rig, &(struct rig_config){.guest = "agent"}, &err));
    start(&a, &rig);
    start(&b, &rig);
    says(&a, "mem read 0x1800000", "0x0\n");
    says(&a, "mem write 0x1800000 0xaaaa", "");
    says(&b, "mem read 0x1800000", "0x0\n");
    says(&b, "mem write 0x1800000 0xbbbb", "");
    says(&a, "mem read 0x1800000", "0xaaaa\n");
    start(&late, &rig);
    says(&late, "mem read 0x1800000", "0x0\n");
    assert_int_equal(*(volatile uint64_t *)(rig.m->gmem.base + WORD), 0);
    /* And the other way: what the template's process holds after the fork is nothing to a child. */
    *(volatile uint64_t *)(rig.m->gmem.base + WORD + 8) = 1;
    says(&late, "mem read 0x1800008", "0x0\n");
    end(&a);
    end(&b);
    end(&late);
    rig_close(&rig);
}

/* --- both regions --- */

static bool answered_as_asked(struct rig *rig)
{
    return rig_answered(rig) && rig->answers >= 1;
}

static int pages_are_right(struct rig *rig, void *arg)
{
    struct err err = {0};
    int rc = rig_live(rig, -1, &err);
    if (rc == 0)
        rc = rig_run(rig, answered_as_asked, &err);
    bool as_born = rc == 0 && rig->answer == 0;
    rig_park(rig, &err);
    rig->ask = 2; /* write all anew: the siblings must not see it */
    rc = rig_live(rig, -1, &err);
    if (rc == 0)
        rc = rig_run(rig, answered_as_asked, &err);
    if (rc < 0)
        fprintf(stderr, "%s\n", err.text);
    return as_born && rc == 0 && rig->answer == 0 ? 0 : 1;
}

/* Few marks far apart, so that the rest is in zero ranges: the guest is larger than the host may be. */
static void test_both_regions_fork(void **state)
{
    struct rig rig;
    struct err err = {0};
    must(rig_ready(&rig, &(struct rig_config){.guest = "pages", .mem_mib = 5120, .cmdline = "stride=16384"}, &err));
    assert_true(rig.m->gmem.low < rig.m->gmem.size);
    rig.ask = 1;
    assert_int_equal(rig_fork_many(&rig, 3, 1, pages_are_right, NULL), 0);
    rig_close(&rig);
}

/* --- cost --- */

/* Private and shared memory that a process is charged with alone, KiB. */
static unsigned long memory_of(pid_t pid, const char *what)
{
    char path[64], line[160];
    unsigned long v, sum = 0;
    snprintf(path, sizeof path, "/proc/%d/smaps_rollup", (int)pid);
    own_file FILE *f = fopen(path, "r");
    assert_non_null(f);
    while (fgets(line, sizeof line, f))
        if (!strncmp(line, what, strlen(what)) && sscanf(line + strlen(what), ": %lu", &v) == 1)
            sum += v;
    return sum;
}

static unsigned long shmem_kib(void)
{
    char line[160];
    unsigned long v = 0;
    own_file FILE *f = fopen("/proc/meminfo", "r");
    assert_non_null(f);
    while (fgets(line, sizeof line, f))
        if (sscanf(line, "Shmem: %lu", &v) == 1)
            break;
    return v;
}

/* Fresh memory is a hole of the image. If it were a hole of the memfd too, the memfd would grow with what children
 * write or read there. */
static void test_fresh_memory_costs_once(void **state)
{
    enum { MIB = 48 };
    struct rig rig;
    struct err err = {0};
    struct child c, reader;
    char line[64];
    must(rig_ready(&rig, &(struct rig_config){.guest = "agent", .mem_mib = 128}, &err));
    start(&c, &rig);
    start(&reader, &rig);
    says(&c, "true", "");
    says(&reader, "true", "");
    unsigned long own = memory_of(c.pid, "Private_Dirty"), image = shmem_kib();
    snprintf(line, sizeof line, "mem fill 0x2000000 %dm 7", MIB);
    says(&c, line, "");
    snprintf(line, sizeof line, "mem check 0x2000000 %dm 0", MIB);
    says(&reader, line, "0\n");
    unsigned long grown = memory_of(c.pid, "Private_Dirty") - own, held = shmem_kib();
    long held_more = (long)held - (long)image;
    printf("%d MiB written: %lu KiB of the child's own, %ld KiB of images\n", MIB, grown, held_more);
    assert_in_range(grown, MIB * 1024, MIB * 1024 + 2048);
    assert_true(held_more < MIB * 1024 / 4);
    end(&c);
    end(&reader);
    rig_close(&rig);
}

int main(void)
{
    check_kvm();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_nobody_sees_anothers_memory),
        cmocka_unit_test(test_both_regions_fork),
        cmocka_unit_test(test_fresh_memory_costs_once),
    };
    return cmocka_run_group_tests_name("memory of forks", tests, NULL, NULL);
}
