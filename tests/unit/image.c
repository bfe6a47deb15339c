/* image.c: claims about sealed images and zero ranges. */
#include "mem/image.h"
#include "base/own.h"
#include "mem/gmem.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include <cmocka.h>

enum { MIB = 1 << 20 };
static const uint64_t size = 64 * MIB;

struct fixture {
    int fd;
    uint8_t *shared, *private;
    struct image image;
};

static int boot(void **state)
{
    static struct fixture f;
    memset(&f, 0, sizeof f);
    *state = &f;
    void *base;
    int rc = image_create(size, &f.fd, &base, NULL);
    f.shared = base;
    return rc;
}

static int end(void **state)
{
    struct fixture *f = *state;
    if (f->shared)
        munmap(f->shared, size);
    if (f->private)
        munmap(f->private, size);
    close(f->fd);
    return 0;
}

static void settle_and_map(struct fixture *f)
{
    struct err err = {0};
    assert_int_equal(image_settle(f->fd, f->shared, size, &f->image, &err), 0);
    munmap(f->shared, size);
    f->shared = NULL;
    assert_int_equal(image_seal(f->fd, &err), 0);
    assert_int_equal(image_check(f->fd, &f->image, &err), 0);
    void *base;
    assert_int_equal(image_map(f->fd, &f->image, &base, &err), 0);
    f->private = base;
}

static uint64_t memfd_bytes(int fd)
{
    struct stat st;
    assert_int_equal(fstat(fd, &st), 0);
    return (uint64_t)st.st_blocks * 512;
}

static uint64_t own_anonymous(void)
{
    own_file FILE *f = fopen("/proc/self/smaps_rollup", "r");
    char line[200];
    unsigned long kib = 0;
    while (f && fgets(line, sizeof line, f))
        if (sscanf(line, "Anonymous: %lu", &kib) == 1)
            break;
    return (uint64_t)kib * 1024;
}

static void the_image_has_the_contents_and_no_zeros(void **state)
{
    struct fixture *f = *state;
    memset(f->shared + 5 * MIB, 1, MIB);
    memset(f->shared + 20 * MIB, 0, MIB); /* touched and zero: as good as never touched */
    f->shared[size - 1] = 7;
    settle_and_map(f);
    assert_int_equal(f->image.data_bytes, MIB + GMEM_PAGE);
    assert_int_equal(memfd_bytes(f->fd), MIB + GMEM_PAGE);
    assert_int_equal(f->private[5 * MIB], 1);
    assert_int_equal(f->private[6 * MIB - 1], 1);
    assert_int_equal(f->private[6 * MIB], 0);
    assert_int_equal(f->private[size - 1], 7);
}

/* Reading a hole of a sealed memfd would allocate there for good, writing one would cost two pages. */
static void fresh_memory_of_a_child_costs_what_it_writes(void **state)
{
    struct fixture *f = *state;
    memset(f->shared, 1, 8 * MIB);
    settle_and_map(f);
    uint64_t before = memfd_bytes(f->fd);
    pid_t pid = fork();
    if (pid == 0) {
        uint64_t own = own_anonymous();
        volatile uint8_t sum = 0;
        for (uint64_t at = 8 * MIB; at < 24 * MIB; at += GMEM_PAGE)
            sum ^= f->private[at];
        for (uint64_t at = 24 * MIB; at < 40 * MIB; at += GMEM_PAGE)
            f->private[at] = 2;
        uint64_t grown = own_anonymous() - own;
        _exit(grown >= 16 * MIB && grown < 18 * MIB && sum == 0 ? 0 : 1);
    }
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
    assert_int_equal(memfd_bytes(f->fd), before);
}

static void scattered_zeros_make_few_mappings_and_leave_no_hole(void **state)
{
    struct fixture *f = *state;
    for (uint64_t at = 0; at < size; at += 4 * GMEM_PAGE)
        f->shared[at] = 1; /* 4096 runs of three zero pages */
    memset(f->shared + 10 * MIB, 0, 3 * MIB);
    settle_and_map(f);
    assert_int_equal(f->image.zero_count, IMAGE_ZERO_MAX);
    uint64_t zeros = 0, longest = 0;
    for (unsigned i = 0; i < f->image.zero_count; i++) {
        zeros += f->image.zero[i].len;
        if (f->image.zero[i].len > longest)
            longest = f->image.zero[i].len;
        if (i)
            assert_true(f->image.zero[i].offset > f->image.zero[i - 1].offset + f->image.zero[i - 1].len);
    }
    assert_true(longest >= 3 * MIB);
    assert_int_equal(memfd_bytes(f->fd), size - zeros);
    uint64_t before = memfd_bytes(f->fd);
    for (uint64_t at = 0; at < size; at += GMEM_PAGE)
        assert_int_equal(f->private[at], at % (4 * GMEM_PAGE) == 0 && (at < 10 * MIB || at >= 13 * MIB));
    assert_int_equal(memfd_bytes(f->fd), before);
}

static void an_image_that_can_still_change_is_refused(void **state)
{
    struct fixture *f = *state;
    struct err err = {0};
    f->image.size = size;
    assert_int_equal(image_check(f->fd, &f->image, &err), -EINVAL);
    assert_int_equal(image_seal(f->fd, &err), -EBUSY); /* it is mapped shared and writable */
    munmap(f->shared, size);
    f->shared = NULL;
    assert_int_equal(image_seal(f->fd, &err), 0);
    f->image.size = size + GMEM_PAGE;
    assert_int_equal(image_check(f->fd, &f->image, &err), -EINVAL);
}

static void addresses_translate_around_the_hole(void **state)
{
    struct gmem g;
    uint64_t ram = GMEM_LOW_END + 64 * MIB;
    uint8_t *base = mmap(NULL, ram, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    assert_true(base != MAP_FAILED);
    assert_int_equal(gmem_init(&g, base, ram, NULL), 0);
    assert_ptr_equal(gmem_at(&g, 0, 1), base);
    assert_ptr_equal(gmem_at(&g, GMEM_LOW_END - 1, 1), base + GMEM_LOW_END - 1);
    assert_ptr_equal(gmem_at(&g, GMEM_HIGH_BASE, 1), base + GMEM_LOW_END);
    assert_null(gmem_at(&g, GMEM_LOW_END, 1));
    assert_null(gmem_at(&g, GMEM_LOW_END - 1, 2));
    assert_null(gmem_at(&g, GMEM_HIGH_BASE - 1, 2));
    assert_null(gmem_at(&g, GMEM_HIGH_BASE + 64 * MIB, 1));
    assert_null(gmem_at(&g, GMEM_HIGH_BASE, 64 * MIB + 1));
    assert_null(gmem_at(&g, UINT64_MAX, 2));
    assert_null(gmem_at(&g, 4096, UINT64_MAX));

    uint64_t *bits = calloc(gmem_pages(&g) / 64 + 1, 8);
    assert_true(gmem_write(&g, GMEM_HIGH_BASE + 4095, "ab", 2)); /* two pages */
    gmem_fetch_marks(&g, bits);
    uint64_t page = GMEM_LOW_END >> GMEM_PAGE_SHIFT;
    assert_int_equal(bits[page / 64], 3);
    bits[page / 64] = 0;
    gmem_fetch_marks(&g, bits);
    assert_int_equal(bits[page / 64], 0);
    free(bits);
    gmem_destroy(&g);
    munmap(base, ram);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(the_image_has_the_contents_and_no_zeros, boot, end),
        cmocka_unit_test_setup_teardown(fresh_memory_of_a_child_costs_what_it_writes, boot, end),
        cmocka_unit_test_setup_teardown(scattered_zeros_make_few_mappings_and_leave_no_hole, boot, end),
        cmocka_unit_test_setup_teardown(an_image_that_can_still_change_is_refused, boot, end),
        cmocka_unit_test(addresses_translate_around_the_hole),
    };
    return cmocka_run_group_tests_name("image", tests, NULL, NULL);
}
