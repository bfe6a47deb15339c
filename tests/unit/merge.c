/* merge.c: claims about src/disk/merge.c: a disk's layers stay few without end, and neither the guest nor a branch nor
 * a diff ever sees it. */
#include "disk/layers.h"
#include "disk_model.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

/* What its device and its machine do when the worker has nothing else to do. */
static void merge_to_the_end(struct pair *p)
{
    while (disk_merge(&p->disk))
        while (disk_merge_step(&p->disk))
            ;
}

/* A diff holds all blocks that were written in this life, whatever was merged. */
static void assert_diff_is_complete(struct pair *p)
{
    struct disk saved;
    struct layer_run run;
    size_t cap = disk_state_bound(&p->disk);
    uint8_t *buf = malloc(cap);
    assert_non_null(buf);
    struct pack out = pack_into(buf, cap);
    disk_save(&p->disk, &out);
    struct unpack in = unpack_from(buf, out.len);
    assert_int_equal(disk_init(&saved, BYTES, NULL), 0);
    assert_int_equal(disk_load(&saved, &in, NULL), 0);
    for (uint64_t at = 0; layers_next(&saved, at, &run); at = run.first + run.count)
        for (uint64_t b = run.first; b < run.first + run.count && run.layer >= 0; b++)
            assert_true(!p->written[b] || (unsigned)run.layer >= p->disk.birth_layers);
    disk_destroy(&saved);
    free(buf);
}

/* Requests, freezes and forks at any moment of merges that never have the worker for long; forks live on. */
static void lives_without_end_stay_as_flat_files(void **state)
{
    enum { DISKS = 4, TURNS = 12000 };
    struct pair *disks[DISKS] = {pair_new()};
    unsigned n = 1, merging = 0, merged = 0;
    seed = 77;
    for (int turn = 0; turn < TURNS; turn++) {
        unsigned i = dice(n);
        struct pair *p = disks[i];
        if (!disk_merge_step(&p->disk))
            disk_merge(&p->disk);
        merging += p->disk.merge.phase != MERGE_IDLE;
        if (dice(3) == 0)
            random_request(p);
        else if (dice(12) == 0)
            assert_int_equal(disk_freeze(&p->disk, layer_new(), NULL), 0);
        if (dice(40) == 0) { /* takes the place of one that ends */
            struct pair *child = pair_fork(p);
            unsigned at = n < DISKS ? n++ : dice(DISKS);
            assert_reads_as(child, 0, BYTES);
            if (disks[at]) {
                merged += disks[at]->disk.row.merges;
                pair_free(disks[at]);
            }
            disks[at] = child;
        }
    }
    assert_true(merging > TURNS / 20);
    for (unsigned i = 0; i < n; i++) {
        merged += disks[i]->disk.row.merges;
        assert_reads_as(disks[i], 0, BYTES);
        assert_diff_is_complete(disks[i]);
        merge_to_the_end(disks[i]);
        assert_true(disk_frozen(&disks[i]->disk) <= DISK_MERGE_ABOVE_AT_BIRTH);
        assert_reads_as(disks[i], 0, BYTES);
        assert_diff_is_complete(disks[i]);
        pair_free(disks[i]);
    }
    assert_true(merged > 10);
}

static struct pair *pair_of_many_layers(void)
{
    struct pair *p = pair_new();
    seed = 13;
    random_write(p, 0, 100 * DISK_BLOCK);
    while (disk_frozen(&p->disk) <= DISK_MERGE_ABOVE) {
        assert_int_equal(disk_freeze(&p->disk, layer_new(), NULL), 0);
        random_write(p, (100 + disk_frozen(&p->disk)) * DISK_BLOCK, DISK_BLOCK);
    }
    return p;
}

/* It is shared with others; copying it would cost most. */
static void the_fullest_layer_is_not_copied(void **state)
{
    struct pair *p = pair_of_many_layers();
    int fullest = disk_layer_fd(&p->disk, 0);
    struct stat before, after;
    assert_int_equal(fstat(fullest, &before), 0);
    merge_to_the_end(p);
    assert_int_equal(disk_frozen(&p->disk), DISK_MERGE_KEEP);
    assert_int_equal(disk_layer_fd(&p->disk, 0), fullest);
    assert_int_equal(fstat(disk_layer_fd(&p->disk, DISK_MERGE_KEEP), &after), 0);
    assert_true(after.st_blocks < before.st_blocks);
    assert_reads_as(p, 0, BYTES);
    pair_free(p);
}

/* Its siblings have the same ones, and most of them end without a branch. */
static void a_fork_with_many_layers_waits_for_a_branch_of_its_own(void **state)
{
    struct pair *p = pair_of_many_layers(), *child = pair_fork(p), *grandchild;
    merge_to_the_end(child);
    assert_int_equal(child->disk.row.merges, 0);
    grandchild = pair_fork(child);
    merge_to_the_end(child);
    assert_int_equal(disk_frozen(&child->disk), DISK_MERGE_KEEP);
    while (disk_frozen(&grandchild->disk) <= DISK_MERGE_ABOVE_AT_BIRTH) {
        struct pair *next = pair_fork(grandchild);
        pair_free(grandchild);
        grandchild = next;
        random_write(grandchild, 0, DISK_BLOCK);
    }
    merge_to_the_end(grandchild);
    assert_int_equal(disk_frozen(&grandchild->disk), DISK_MERGE_KEEP);
    assert_reads_as(child, 0, BYTES);
    assert_reads_as(grandchild, 0, BYTES);
    pair_free(grandchild);
    pair_free(child);
    pair_free(p);
}

static void layers_that_hold_nothing_all_leave(void **state)
{
    struct pair *p = pair_new();
    for (int i = 0; i <= DISK_MERGE_ABOVE; i++)
        assert_int_equal(disk_freeze(&p->disk, layer_new(), NULL), 0);
    merge_to_the_end(p);
    assert_int_equal(disk_frozen(&p->disk), 0);
    seed = 2;
    random_write(p, 0, DISK_BLOCK);
    assert_reads_as(p, 0, BYTES);
    pair_free(p);
}

/* A file handed to a branch in the pause must not be another's a moment later. */
static void a_layer_s_file_is_open_as_long_as_it_has_a_number(void **state)
{
    struct pair *p = pair_of_many_layers();
    assert_true(disk_merge(&p->disk));
    while (disk_merge_step(&p->disk))
        for (unsigned i = 0; i < p->disk.layers; i++)
            assert_true(fcntl(disk_layer_fd(&p->disk, i), F_GETFD) >= 0);
    assert_int_equal(p->disk.layers, DISK_MERGE_ABOVE + 2);
    assert_int_equal(p->disk.row.merges, 0);
    assert_true(disk_merge(&p->disk));
    assert_int_equal(p->disk.row.merges, 1);
    assert_int_equal(p->disk.layers, DISK_MERGE_KEEP + 1);
    assert_reads_as(p, 0, BYTES);
    pair_free(p);
}

static void a_merge_that_meets_an_error_harms_nobody(void **state)
{
    struct pair *p = pair_of_many_layers();
    int fd = disk_layer_fd(&p->disk, 9);
    off_t len = lseek(fd, 0, SEEK_END);
    assert_int_equal(ftruncate(fd, len - DISK_BLOCK), 0);
    merge_to_the_end(p);
    assert_int_equal(p->disk.merge.rc, -EIO);
    assert_int_equal(disk_frozen(&p->disk), DISK_MERGE_ABOVE + 1);
    random_write(p, (uint32_t)len - DISK_BLOCK, DISK_BLOCK); /* the block is no longer there */
    assert_reads_as(p, 0, BYTES);
    merge_to_the_end(p);
    assert_int_equal(disk_frozen(&p->disk), DISK_MERGE_KEEP);
    assert_reads_as(p, 0, BYTES);
    pair_free(p);
}

/* Its private layer has room for less than the merge copies. */
static int merge_on_a_full_filesystem(void)
{
    char dir[] = "/tmp/unit-disk-merge-XXXXXX", path[64];
    if (!small_filesystem(dir, "size=64k"))
        return 77;
    snprintf(path, sizeof path, "%s/layer", dir);
    struct pair *p = pair_of_many_layers();
    bool good = disk_freeze(&p->disk, open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600), NULL) == 0;
    unsigned frozen = disk_frozen(&p->disk);
    merge_to_the_end(p);
    good = good && p->disk.merge.rc == -ENOSPC && disk_frozen(&p->disk) == frozen && reads_well(p);
    memset(p->flat, 0x31, DISK_BLOCK); /* the merge left room for the guest */
    const struct iovec one = {p->flat, DISK_BLOCK};
    good = good && disk_write(&p->disk, &one, 1, 0) == 0 && reads_well(p);
    good = good && mount("tmpfs", dir, "tmpfs", MS_REMOUNT, "size=4m") == 0;
    merge_to_the_end(p);
    good = good && disk_frozen(&p->disk) == DISK_MERGE_KEEP && reads_well(p);
    pair_free(p);
    umount2(dir, MNT_DETACH);
    rmdir(dir);
    return good ? 0 : 1;
}

/* A limit that the filesystem does not tell beforehand, as a quota is: met in the midst of a block. */
static int merge_into_a_file_that_must_not_grow(void)
{
    struct pair *p = pair_of_many_layers();
    struct rlimit limit = {110 * DISK_BLOCK + 100, RLIM_INFINITY}, none = {RLIM_INFINITY, RLIM_INFINITY};
    unsigned frozen = disk_frozen(&p->disk);
    signal(SIGXFSZ, SIG_IGN);
    bool good = setrlimit(RLIMIT_FSIZE, &limit) == 0;
    merge_to_the_end(p);
    good = good && p->disk.merge.rc == -EFBIG && disk_frozen(&p->disk) == frozen && reads_well(p);
    good = good && setrlimit(RLIMIT_FSIZE, &none) == 0;
    merge_to_the_end(p);
    good = good && disk_frozen(&p->disk) == DISK_MERGE_KEEP && reads_well(p);
    pair_free(p);
    return good ? 0 : 1;
}

static void a_merge_without_room_leaves_the_guest_some_and_is_done_again(void **state)
{
    assert_child_passes(merge_on_a_full_filesystem);
    assert_child_passes(merge_into_a_file_that_must_not_grow);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(lives_without_end_stay_as_flat_files),
        cmocka_unit_test(the_fullest_layer_is_not_copied),
        cmocka_unit_test(a_fork_with_many_layers_waits_for_a_branch_of_its_own),
        cmocka_unit_test(layers_that_hold_nothing_all_leave),
        cmocka_unit_test(a_layer_s_file_is_open_as_long_as_it_has_a_number),
        cmocka_unit_test(a_merge_that_meets_an_error_harms_nobody),
        cmocka_unit_test(a_merge_without_room_leaves_the_guest_some_and_is_done_again),
    };
    return cmocka_run_group_tests_name("merge", tests, base_make, base_check);
}
