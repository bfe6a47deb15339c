/* layers.c: claims about the layers of a disk, of sandboxes that are branched again and again, and of branches of
 * branches: they stay few, and every branch has those of its instant. Usage: layers FORKD_VMM GUEST. */
#include "fixture.h"

#include "disk/disk.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { MEM_MIB = 64, DISK_MIB = 16 };

static struct image_fds image;

static int image_once(void **state)
{
    image = image_make(MEM_MIB, 1, DISK_MIB);
    return 0;
}

static int image_end(void **state)
{
    image_close(&image);
    return 0;
}

/* Frozen layers of a template's disk. */
static unsigned layers_of(struct template *t)
{
    struct ctl_message m;
    ctl_message_init(&m, CTL_EXPORT, 8);
    assert_int_equal(ctl_send(t->vmm.ctl, &m, NULL), 0);
    fixture_expect(t->vmm.ctl, &m, CTL_EXPORTED);
    unsigned layers = m.extra_count;
    ctl_message_close(&m);
    return layers;
}

/* A line of guest blocks, each of which knows the turn it was last written in. */
enum { RING = 24, RING_FIRST = 200 };

static void ring_write(const struct sandbox *s, int turn)
{
    char line[64];
    snprintf(line, sizeof line, "blk write %d %d", RING_FIRST + turn % RING, turn);
    sandbox_run_line(s, line);
}

static void ring_check(const struct sandbox *s, int turns)
{
    char line[64], word[32];
    for (int turn = turns > RING ? turns - RING : 0; turn < turns; turn++) {
        snprintf(line, sizeof line, "blk read %d", RING_FIRST + turn % RING);
        snprintf(word, sizeof word, "0x%x", (unsigned)turn);
        const char *said = sandbox_run_line(s, line);
        if (!strstr(said, word))
            fail_msg("%s said '%s' instead of '%s'", line, said, word);
    }
}

/* slots, the slowest's rounds, all rounds, errors */
static void load_check(const struct sandbox *s)
{
    const char *said = sandbox_run_line(s, "load");
    const char *errors = strrchr(said, ' ');
    assert_non_null(errors);
    if (strtoul(errors, NULL, 10) != 0)
        fail_msg("the disk traffic met errors: %s", said);
}

/* More than a disk may have layers: they are merged while the guest works and branches go on. */
static void three_hundred_branches_of_one_sandbox_keep_its_layers_few(void **state)
{
    enum { BRANCHES = 300, CHECKED = 20 };
    struct template t = template_load(&image), last = t;
    struct sandbox source = sandbox_run(&t, "source");
    sandbox_run_line(&source, "load 4");
    for (int i = 0; i < BRANCHES; i++) {
        struct ctl_branched report;
        ring_write(&source, i);
        struct template next = sandbox_branch(&source, &last, "next", false, &report);
        if (i)
            template_quit(&last);
        last = next;
        if (i % CHECKED == CHECKED - 1) {
            struct sandbox child = sandbox_run(&last, "child");
            ring_check(&child, i + 1);
            load_check(&child);
            sandbox_quit(&child);
        }
    }
    ring_check(&source, BRANCHES);
    load_check(&source);
    assert_true(layers_of(&last) < DISK_LAYERS_MAX);
    sandbox_quit(&source);
    template_quit(&last);
    template_quit(&t);
}

/* Each generation begins with the layers of all before it, and lives for a few commands only. */
static void a_line_of_branches_of_branches_without_end_keeps_its_layers_few(void **state)
{
    enum { DEPTH = DISK_MERGE_ABOVE_AT_BIRTH + 32 };
    struct template t = template_load(&image), last = t;
    for (int i = 0; i < DEPTH; i++) {
        struct ctl_branched report;
        struct sandbox s = sandbox_run(&last, "link");
        if (i % 10 == 9)
            ring_check(&s, i);
        ring_write(&s, i);
        struct template next = sandbox_branch(&s, &last, "next", i % 10 == 0, &report);
        assert_true(i % 10 || report.pages_differing == 0);
        sandbox_quit(&s);
        if (i)
            template_quit(&last);
        last = next;
    }
    assert_true(layers_of(&last) < DEPTH);
    struct sandbox s = sandbox_run(&last, "last");
    ring_check(&s, DEPTH);
    sandbox_quit(&s);
    template_quit(&last);
    template_quit(&t);
}

/* The template it was forked from, and a branch of before the merge, have layers that the source has no more. */
static void a_branch_from_a_template_of_before_the_merge_gets_all_layers(void **state)
{
    struct template t = template_load(&image), line[DISK_MERGE_ABOVE + 8];
    struct sandbox source = sandbox_run(&t, "source");
    struct ctl_branched report;
    int n = 0;
    unsigned most = 0, layers = 0;
    /* Until layers were merged: none is added then, or fewer than one a branch. */
    for (struct template *last = &t; layers >= most; last = &line[n++]) {
        assert_true(n < (int)(sizeof line / sizeof *line));
        ring_write(&source, n);
        line[n] = sandbox_branch(&source, last, "line", false, &report);
        layers = layers_of(&line[n]);
        most = layers > most ? layers : most;
    }
    struct template *old[] = {&t, &line[0], &line[n - 2], &line[n - 1]};
    for (unsigned i = 0; i < sizeof old / sizeof *old; i++) {
        struct template branch = sandbox_branch(&source, old[i], "branch", true, &report);
        assert_int_equal(report.pages_differing, 0);
        struct sandbox child = sandbox_run(&branch, "child");
        ring_check(&child, n);
        sandbox_quit(&child);
        template_quit(&branch);
    }
    struct sandbox child = sandbox_run(&line[n - 2], "child"); /* still has its own */
    ring_check(&child, n - 1);
    sandbox_quit(&child);
    sandbox_quit(&source);
    while (n)
        template_quit(&line[--n]);
    template_quit(&t);
}

int main(int argc, char **argv)
{
    int status = fixture_begin(argc, argv);
    if (status)
        return status;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(three_hundred_branches_of_one_sandbox_keep_its_layers_few),
        cmocka_unit_test(a_line_of_branches_of_branches_without_end_keeps_its_layers_few),
        cmocka_unit_test(a_branch_from_a_template_of_before_the_merge_gets_all_layers),
    };
    return cmocka_run_group_tests_name("layers", tests, image_once, image_end);
}
