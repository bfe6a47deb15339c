/* content.c: claims about what a template's memory is made of: what it exports is all of it, and settling changes
 * where it lies and nothing else. Usage: content FORKD_VMM GUEST. */
#include "fixture.h"

#include "base/clock.h"
#include "base/io.h"
#include "base/own.h"
#include "mem/bitmap.h"
#include "mem/gmem.h"

#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include <cmocka.h>

enum { MEM_MIB = 64, DISK_MIB = 16, PAGES = MEM_MIB << 8 };
static const uint64_t written = 0x2000000;

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

static struct ctl_message export_of(const struct template *t)
{
    struct ctl_message m;
    ctl_message_init(&m, CTL_EXPORT, 21);
    assert_int_equal(ctl_send(t->vmm.ctl, &m, NULL), 0);
    fixture_expect(t->vmm.ctl, &m, CTL_EXPORTED);
    assert_int_equal(m.export.mem_bytes, (uint64_t)MEM_MIB << 20);
    return m;
}

static const uint64_t *bitmap_of(int fd)
{
    void *map = mmap(NULL, PAGES / 8, PROT_READ, MAP_SHARED, fd, 0);
    assert_true(map != MAP_FAILED);
    return map;
}

static bool has(const uint64_t *bitmap, uint64_t page)
{
    return bitmap[page / 64] >> page % 64 & 1;
}

/* Of a template as it would be stored: pages of its own from the process, the others from the image. */
static uint8_t *exported_memory(const struct template *t, uint64_t *own)
{
    struct ctl_message m = export_of(t);
    const uint64_t *pages = bitmap_of(m.fd[CTL_FD_PAGES]);
    uint8_t *all = malloc((size_t)PAGES * GMEM_PAGE);
    for (uint64_t p = 0; p < PAGES; p++) {
        uint8_t *into = all + p * GMEM_PAGE;
        int rc = has(pages, p) ? io_pread_all(t->own_memory, into, GMEM_PAGE, m.export.ram + p * GMEM_PAGE, NULL)
                               : io_pread_all(m.fd[CTL_FD_MEMORY], into, GMEM_PAGE, p * GMEM_PAGE, NULL);
        assert_int_equal(rc, 0);
    }
    *own = bitmap_count(pages, PAGES / 64);
    munmap((void *)pages, PAGES / 8);
    ctl_message_close(&m);
    return all;
}

/* As the process sees it. */
static uint8_t *whole_memory(const struct template *t)
{
    struct ctl_message m = export_of(t);
    uint8_t *all = malloc((size_t)PAGES * GMEM_PAGE);
    assert_int_equal(io_pread_all(t->own_memory, all, (size_t)PAGES * GMEM_PAGE, m.export.ram, NULL), 0);
    ctl_message_close(&m);
    return all;
}

/* A branch of a sandbox that wrote 8 MiB and a block. */
static struct template branch_with_pages(struct sandbox *source, struct template *last)
{
    struct ctl_branched report;
    sandbox_run_line(source, "mem fill 0x2000000 0x800000 7");
    sandbox_run_line(source, "blk write 5 111");
    return sandbox_branch(source, last, "branch", false, &report);
}

static void what_a_template_exports_is_all_of_its_memory(void **state)
{
    struct template t = template_load(&image);
    struct sandbox source = sandbox_run(&t, "source");
    struct template branch = branch_with_pages(&source, &t);
    uint64_t own;
    own_free uint8_t *exported = exported_memory(&branch, &own);
    own_free uint8_t *whole = whole_memory(&branch);
    assert_memory_equal(exported, whole, (size_t)PAGES * GMEM_PAGE);
    assert_true(own >= 0x800);
    own_free uint8_t *base = exported_memory(&t, &own);
    assert_int_equal(own, 0);
    assert_memory_not_equal(base, whole, (size_t)PAGES * GMEM_PAGE);
    sandbox_quit(&source);
    template_quit(&branch);
    template_quit(&t);
}

/* Of a branch of a branch of one sandbox, too: both differ from what the sandbox was spawned from. */
static void a_branchs_diff_is_what_was_written_since_its_source_was_spawned(void **state)
{
    struct template t = template_load(&image);
    struct sandbox source = sandbox_run(&t, "source");
    struct template first = branch_with_pages(&source, &t);
    struct ctl_branched report;
    struct template second = sandbox_branch(&source, &first, "second", false, &report);
    struct ctl_message m = export_of(&second);
    assert_true(m.fd[CTL_FD_DIFF] >= 0);
    assert_int_equal(m.export.birth_layers, 1);
    assert_int_equal(m.extra_count, 3);
    const uint64_t *diff = bitmap_of(m.fd[CTL_FD_DIFF]);
    own_free uint8_t *now = whole_memory(&second);
    own_free uint8_t *then = whole_memory(&t);
    for (uint64_t p = 0; p < PAGES; p++)
        if (!has(diff, p))
            assert_memory_equal(now + p * GMEM_PAGE, then + p * GMEM_PAGE, GMEM_PAGE);
    for (uint64_t p = written / GMEM_PAGE; p < (written + 0x800000) / GMEM_PAGE; p++)
        assert_true(has(diff, p));
    assert_true(bitmap_count(diff, PAGES / 64) < PAGES / 2);
    munmap((void *)diff, PAGES / 8);
    ctl_message_close(&m);

    m = export_of(&t);
    assert_int_equal(m.fd[CTL_FD_DIFF], -1);
    assert_int_equal(m.extra_count, 1);
    ctl_message_close(&m);
    sandbox_quit(&source);
    template_quit(&second);
    template_quit(&first);
    template_quit(&t);
}

static void settle_begin(const struct template *t)
{
    struct ctl_message m;
    ctl_message_init(&m, CTL_SETTLE, 22);
    assert_int_equal(ctl_send(t->vmm.ctl, &m, NULL), 0);
}

static void settle(const struct template *t)
{
    struct ctl_message m;
    settle_begin(t);
    fixture_expect(t->vmm.ctl, &m, CTL_SETTLED);
}

static void a_settled_template_has_the_same_memory_and_no_page_of_its_own(void **state)
{
    struct template t = template_load(&image);
    struct sandbox source = sandbox_run(&t, "source");
    struct template branch = branch_with_pages(&source, &t);
    uint64_t own;
    own_free uint8_t *before = whole_memory(&branch);
    settle(&branch);
    own_free uint8_t *exported = exported_memory(&branch, &own);
    own_free uint8_t *after = whole_memory(&branch);
    assert_int_equal(own, 0);
    assert_memory_equal(before, exported, (size_t)PAGES * GMEM_PAGE);
    assert_memory_equal(before, after, (size_t)PAGES * GMEM_PAGE);

    struct sandbox child = sandbox_run(&branch, "child");
    sandbox_run_line(&child, "mem check 0x2000000 0x800000 7");
    sandbox_run_line(&child, "mem fill 0x2000000 0x800000 8");
    struct ctl_branched report;
    struct template next = sandbox_branch(&source, &branch, "next", true, &report);
    assert_int_equal(report.pages_differing, 0);
    sandbox_run_line(&source, "mem check 0x2000000 0x800000 7");
    sandbox_quit(&child);
    sandbox_quit(&source);
    template_quit(&next);
    template_quit(&branch);
    template_quit(&t);
}

static void a_template_that_settles_goes_on_forking(void **state)
{
    struct template t = template_load(&image);
    struct sandbox source = sandbox_run(&t, "source");
    struct template branch = branch_with_pages(&source, &t);
    struct ctl_message m;
    settle_begin(&branch);
    settle_begin(&branch); /* refused, or the second one, if the first was that quick */
    ctl_message_init(&m, CTL_EXPORT, 23);
    unsigned settled = 0, refused = 0;
    while (settled + refused < 2) {
        assert_int_equal(ctl_recv_until(branch.vmm.ctl, &m, clock_monotonic_ns() + DEADLINE_SECONDS * NS_PER_SEC, NULL),
                         1);
        settled += m.type == CTL_SETTLED;
        refused += m.type == CTL_FAILED;
        ctl_message_close(&m);
    }
    assert_true(settled >= 1);
    sandbox_quit(&source);
    template_quit(&branch);
    template_quit(&t);
}

/* The writer of an image is the only child of a template that has forked nothing else. */
static pid_t child_of(pid_t pid)
{
    char path[64], text[64];
    snprintf(path, sizeof path, "/proc/%d/task/%d/children", pid, pid);
    ssize_t n = io_read_text(AT_FDCWD, path, text, sizeof text, NULL);
    return n > 0 ? atoi(text) : 0;
}

static void a_settling_whose_writer_is_killed_leaves_the_template_as_it_was(void **state)
{
    enum { TRIES = 50 };
    struct template t = template_load(&image);
    struct sandbox source = sandbox_run(&t, "source");
    struct ctl_branched report;
    bool failed = false;
    for (int i = 0; i < TRIES && !failed; i++) {
        struct template branch = branch_with_pages(&source, &t);
        own_free uint8_t *before = whole_memory(&branch);
        struct ctl_message m;
        settle_begin(&branch);
        pid_t writer = child_of(branch.vmm.pid);
        if (writer)
            kill(writer, SIGKILL);
        assert_int_equal(ctl_recv_until(branch.vmm.ctl, &m, clock_monotonic_ns() + DEADLINE_SECONDS * NS_PER_SEC, NULL),
                         1);
        failed = m.type == CTL_FAILED;
        if (failed)
            assert_non_null(strstr(m.failed.text, "its writer was killed"));
        ctl_message_close(&m);
        own_free uint8_t *after = whole_memory(&branch);
        assert_memory_equal(before, after, (size_t)PAGES * GMEM_PAGE);
        settle(&branch);
        struct template next = sandbox_branch(&source, &branch, "next", true, &report);
        assert_int_equal(report.pages_differing, 0);
        template_quit(&next);
        template_quit(&branch);
    }
    assert_true(failed);
    sandbox_quit(&source);
    template_quit(&t);
}

int main(int argc, char **argv)
{
    int status = fixture_begin(argc, argv);
    if (status)
        return status;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_a_template_exports_is_all_of_its_memory),
        cmocka_unit_test(a_branchs_diff_is_what_was_written_since_its_source_was_spawned),
        cmocka_unit_test(a_settled_template_has_the_same_memory_and_no_page_of_its_own),
        cmocka_unit_test(a_template_that_settles_goes_on_forking),
        cmocka_unit_test(a_settling_whose_writer_is_killed_leaves_the_template_as_it_was),
    };
    return cmocka_run_group_tests_name("content", tests, image_once, image_end);
}
