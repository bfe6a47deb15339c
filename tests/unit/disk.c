/* disk.c: claims about src/disk: every block is where the last write put it, whatever was frozen, forked or discarded
 * in between; nothing shared is ever written. */
#include "disk_model.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

static void a_fresh_disk_reads_as_its_base_and_zeros_behind_it(void **state)
{
    struct pair *p = pair_new();
    assert_reads_as(p, 0, BYTES);
    pair_free(p);
}

static void random_requests_read_as_a_flat_file_would(void **state)
{
    for (seed = 1; seed <= 5; seed++) {
        uint32_t keep = seed;
        struct pair *p = pair_new();
        for (int i = 0; i < 2000; i++)
            random_request(p);
        assert_reads_as(p, 0, BYTES);
        pair_free(p);
        seed = keep;
    }
}

/* A tree of forks under requests, each with its own model. Parents and children must not see each other. */
static void forks_of_forks_do_not_see_each_other(void **state)
{
    enum { DISKS = 12 };
    struct pair *disks[DISKS];
    seed = 42;
    disks[0] = pair_new();
    for (unsigned n = 1; n < DISKS; n++) {
        for (int i = 0; i < 300; i++)
            random_request(disks[dice(n)]);
        disks[n] = pair_fork(disks[dice(n)]);
    }
    for (int i = 0; i < 1000; i++)
        random_request(disks[dice(DISKS)]);
    for (unsigned n = 0; n < DISKS; n++) {
        assert_reads_as(disks[n], 0, BYTES);
        pair_free(disks[n]);
    }
}

static void layers_have_a_limit_that_is_told(void **state)
{
    struct pair *p = pair_new();
    struct err err = {0};
    int rc = 0;
    while (rc == 0)
        rc = disk_freeze(&p->disk, layer_new(), &err);
    assert_int_equal(rc, -EMFILE);
    assert_int_equal(p->disk.layers, DISK_LAYERS_MAX);
    seed = 3;
    random_write(p, 0, DISK_BLOCK);
    assert_reads_as(p, 0, BYTES);
    pair_free(p);
}

static void a_write_after_the_freeze_goes_to_the_new_layer(void **state)
{
    struct pair *p = pair_new();
    seed = 5;
    random_write(p, 0, 8 * DISK_BLOCK);
    int frozen = p->disk.private_layer;
    assert_int_equal(disk_freeze(&p->disk, layer_new(), NULL), 0);
    int private = p->disk.private_layer;
    assert_int_not_equal(frozen, private);
    random_write(p, 4 * DISK_BLOCK, 4 * DISK_BLOCK);
    uint8_t got[DISK_BLOCK];
    assert_int_equal(pread(p->disk.layer_fd[private], got, sizeof got, 4 * DISK_BLOCK), DISK_BLOCK);
    assert_memory_equal(got, p->flat + 4 * DISK_BLOCK, sizeof got);
    assert_reads_as(p, 0, BYTES);
    pair_free(p);
}

/* A guest's writes in a row: the n-th goes to a place and has a content that follow from n alone. */
enum { STREAM_FORKS = 150, STREAM_BLOCKS = 64 };

struct stream {
    struct disk disk;
    uint64_t begun, done; /* writes */
    bool stop;
};

static void stream_place(uint64_t n, uint32_t *at, uint32_t *len)
{
    uint32_t mixed = (uint32_t)n * 2654435761u >> 8;
    *at = mixed % (STREAM_BLOCKS * 8) * SECTOR;
    *len = (1 + mixed / 4096 % 20) * SECTOR;
    if (*len > STREAM_BLOCKS * DISK_BLOCK - *at)
        *len = STREAM_BLOCKS * DISK_BLOCK - *at;
}

static int stream_write(struct disk *disk, uint64_t n)
{
    uint8_t data[20 * SECTOR];
    uint32_t at, len;
    stream_place(n, &at, &len);
    memset(data, (int)(n % 251), len);
    const struct iovec iov = {data, len};
    return n % 7 == 0 ? disk_zero(disk, at, len) : disk_write(disk, &iov, 1, at);
}

static void *stream_run(void *arg)
{
    struct stream *s = arg;
    for (uint64_t n = 1; !__atomic_load_n(&s->stop, __ATOMIC_ACQUIRE); n++) {
        __atomic_store_n(&s->begun, n, __ATOMIC_RELEASE);
        if (stream_write(&s->disk, n) < 0)
            abort();
        __atomic_store_n(&s->done, n, __ATOMIC_RELEASE);
        disk_merge_step(&s->disk);
    }
    return NULL;
}

/* Forks while a worker writes and merges, and nobody waits for it. Every write that ended before is in the fork; those
 * in flight the fork does again; later ones it never sees. */
static void a_fork_while_writes_are_in_flight_is_of_one_instant(void **state)
{
    static struct stream s;
    static uint8_t model[STREAM_BLOCKS * DISK_BLOCK], got[STREAM_BLOCKS * DISK_BLOCK];
    pthread_t worker;
    uint64_t modelled = 0;
    assert_int_equal(disk_init(&s.disk, BYTES, NULL), 0);
    assert_int_equal(disk_open_base(&s.disk, base_open(O_RDONLY), NULL), 0);
    assert_int_equal(disk_open_private(&s.disk, layer_new(), NULL), 0);
    for (uint32_t i = 0; i < sizeof model; i++)
        model[i] = base_byte(i);
    assert_int_equal(pthread_create(&worker, NULL, stream_run, &s), 0);
    for (int fork = 0; fork < STREAM_FORKS; fork++) {
        struct disk child;
        while (__atomic_load_n(&s.done, __ATOMIC_ACQUIRE) < modelled + 20)
            sched_yield();
        uint64_t done = __atomic_load_n(&s.done, __ATOMIC_ACQUIRE);
        disk_fork(&s.disk, &child);
        disk_merge(&s.disk);
        uint64_t begun = __atomic_load_n(&s.begun, __ATOMIC_ACQUIRE);
        for (uint64_t n = done + 1; n <= begun; n++)
            assert_int_equal(stream_write(&child, n), 0);
        for (; modelled < begun; modelled++) {
            uint32_t at, len;
            stream_place(modelled + 1, &at, &len);
            memset(model + at, (modelled + 1) % 7 == 0 ? 0 : (int)((modelled + 1) % 251), len);
        }
        const struct iovec iov = {got, sizeof got};
        assert_int_equal(disk_read(&child, &iov, 1, 0), 0);
        assert_memory_equal(got, model, sizeof got);
        disk_destroy(&child);
    }
    __atomic_store_n(&s.stop, true, __ATOMIC_RELEASE);
    pthread_join(worker, NULL);
    assert_true(s.disk.row.merges > 0);
    disk_destroy(&s.disk);
}

static void frozen_layers_are_never_written(void **state)
{
    struct pair *p = pair_new();
    seed = 11;
    for (int i = 0; i < 200; i++)
        random_request(p);
    struct pair *child = pair_fork(p);
    struct stat before, after;
    int frozen = p->disk.layer_fd[0];
    uint8_t *was = malloc(BYTES), *is = malloc(BYTES);
    assert_true(was && is);
    assert_int_equal(fstat(frozen, &before), 0);
    ssize_t len = pread(frozen, was, BYTES, 0);
    for (int i = 0; i < 500; i++)
        random_request(dice(2) ? p : child);
    assert_int_equal(fstat(frozen, &after), 0);
    assert_int_equal(pread(frozen, is, BYTES, 0), len);
    assert_memory_equal(was, is, (size_t)len);
    assert_int_equal(before.st_blocks, after.st_blocks); /* nothing punched, either */
    free(was);
    free(is);
    pair_free(child);
    pair_free(p);
}

static void what_is_discarded_gives_its_space_back(void **state)
{
    struct pair *p = pair_new();
    struct stat full, empty;
    int fd = p->disk.layer_fd[p->disk.private_layer];
    seed = 1;
    random_write(p, 0, 64 * DISK_BLOCK);
    assert_int_equal(fstat(fd, &full), 0);
    assert_int_equal(disk_zero(&p->disk, 0, 64 * DISK_BLOCK), 0);
    memset(p->flat, 0, 64 * DISK_BLOCK);
    assert_int_equal(fstat(fd, &empty), 0);
    assert_reads_as(p, 0, BYTES);
    pair_free(p);
    if (empty.st_blocks == full.st_blocks)
        skip(); /* a filesystem without holes */
    assert_true(empty.st_blocks < full.st_blocks / 8);
}

static void an_untouched_index_costs_nothing(void **state)
{
    struct disk disk;
    assert_int_equal(disk_init(&disk, DISK_BYTES_MAX, NULL), 0); /* 4 Gi blocks */
    uint64_t blocks = disk.bytes / DISK_BLOCK;
    unsigned char resident;
    assert_int_equal(mincore(disk.index.place + blocks / 2 / 4096 * 4096, 4096, &resident), 0);
    disk_destroy(&disk);

    assert_int_equal(disk_init(&disk, UINT64_C(1) << 40, NULL), 0);
    assert_int_equal(disk_open_base(&disk, base_open(O_RDONLY), NULL), 0);
    assert_int_equal(disk_open_private(&disk, layer_new(), NULL), 0);
    uint8_t block[DISK_BLOCK] = {1}, state_buf[256];
    const struct iovec iov = {block, sizeof block};
    assert_int_equal(disk_write(&disk, &iov, 1, UINT64_C(1) << 39), 0);
    struct pack p = pack_into(state_buf, sizeof state_buf);
    disk_save(&disk, &p); /* three records for a TiB */
    assert_false(p.full);
    disk_destroy(&disk);
}

static void requests_outside_the_disk_are_refused(void **state)
{
    struct pair *p = pair_new();
    uint8_t block[DISK_BLOCK];
    const struct iovec iov = {block, sizeof block};
    assert_int_equal(disk_read(&p->disk, &iov, 1, BYTES - SECTOR), -EINVAL);
    assert_int_equal(disk_write(&p->disk, &iov, 1, BYTES), -EINVAL);
    assert_int_equal(disk_write(&p->disk, &iov, 1, UINT64_MAX - 511), -EINVAL);
    assert_int_equal(disk_zero(&p->disk, 0, UINT64_MAX - 511), -EINVAL);
    assert_int_equal(disk_flush(&p->disk), 0);
    pair_free(p);
}

static void files_that_must_not_be_used_are_refused(void **state)
{
    struct disk disk;
    struct err err = {0};
    assert_int_equal(disk_init(&disk, 0, &err), -EINVAL);
    assert_int_equal(disk_init(&disk, DISK_BYTES_MAX + 1, &err), -EINVAL);
    assert_int_equal(disk_init(&disk, BASE_BYTES - DISK_BLOCK, &err), 0);
    assert_int_equal(disk_open_base(&disk, base_open(O_RDONLY), &err), -EINVAL); /* longer than the disk */
    disk_destroy(&disk);
    assert_int_equal(disk_init(&disk, BYTES, &err), 0);
    assert_int_equal(disk_open_base(&disk, base_open(O_RDWR), &err), -EINVAL);
    assert_non_null(strstr(err.text, "reading only"));
    assert_int_equal(disk_open_base(&disk, open("/dev/null", O_RDONLY), &err), -EINVAL);
    assert_int_equal(disk_open_base(&disk, -1, &err), -EINVAL);
    assert_int_equal(disk_open_private(&disk, layer_new(), &err), -EINVAL); /* no base yet */
    assert_int_equal(disk_open_base(&disk, base_open(O_RDONLY), &err), 0);
    assert_int_equal(disk_open_frozen(&disk, layer_new(), &err), -EINVAL); /* its state names none */
    assert_int_equal(disk_freeze(&disk, layer_new(), &err), -EINVAL);
    assert_int_equal(disk_open_private(&disk, open("/dev/full", O_RDWR), &err), -EINVAL);
    assert_int_equal(disk_open_private(&disk, base_open(O_RDONLY), &err), -EINVAL);
    uint8_t block[DISK_BLOCK];
    const struct iovec iov = {block, sizeof block};
    assert_int_equal(disk_write(&disk, &iov, 1, 0), -EROFS);
    assert_int_equal(disk_zero(&disk, 0, DISK_BLOCK), -EROFS);
    assert_int_equal(disk_read(&disk, &iov, 1, 0), 0); /* a read-only disk has no private layer */
    disk_destroy(&disk);
}

static void a_frozen_layer_that_was_cut_off_is_an_error(void **state)
{
    struct pair *p = pair_new();
    uint8_t block[DISK_BLOCK];
    const struct iovec iov = {block, sizeof block};
    seed = 9;
    random_write(p, 0, 4 * DISK_BLOCK);
    assert_int_equal(ftruncate(p->disk.layer_fd[0], 2 * DISK_BLOCK), 0);
    assert_int_equal(disk_read(&p->disk, &iov, 1, 3 * DISK_BLOCK), -EIO);
    assert_int_equal(disk_read(&p->disk, &iov, 1, 0), 0);
    pair_free(p);
}

static void hostile_state_is_refused(void **state)
{
    struct pair *p = pair_new();
    struct disk victim;
    struct err err = {0};
    seed = 21;
    for (int i = 0; i < 50; i++)
        random_request(p);
    size_t cap = disk_state_bound(&p->disk);
    uint8_t *buf = malloc(cap), *bad = malloc(cap);
    assert_true(buf && bad);
    struct pack out = pack_into(buf, cap);
    disk_save(&p->disk, &out);
    assert_false(out.full);
    for (size_t i = 0; i < out.len; i++) { /* cut off anywhere */
        struct unpack in = unpack_from(buf, i);
        assert_int_equal(disk_init(&victim, BYTES, NULL), 0);
        assert_true(disk_load(&victim, &in, &err) < 0);
        disk_destroy(&victim);
    }
    for (size_t i = 0; i < out.len; i++) { /* any byte wrong: refused, or at least harmless */
        memcpy(bad, buf, out.len);
        bad[i] ^= (uint8_t)(1 + dice(255));
        struct unpack in = unpack_from(bad, out.len);
        assert_int_equal(disk_init(&victim, BYTES, NULL), 0);
        if (disk_load(&victim, &in, NULL) == 0)
            for (unsigned b = 0; b < BLOCKS; b++)
                assert_true(victim.index.place[b] < 2 + victim.layers);
        disk_destroy(&victim);
    }
    struct unpack in = unpack_from(buf, out.len);
    assert_int_equal(disk_init(&victim, BYTES + DISK_BLOCK, NULL), 0);
    assert_true(disk_load(&victim, &in, &err) < 0); /* of another size */
    disk_destroy(&victim);
    free(buf);
    free(bad);
    pair_free(p);
}

static void a_base_of_another_length_is_refused_after_a_load(void **state)
{
    struct pair *p = pair_new();
    uint8_t state_buf[512];
    struct err err = {0};
    struct pack out = pack_into(state_buf, sizeof state_buf);
    disk_save(&p->disk, &out);
    struct disk child;
    assert_int_equal(disk_init(&child, BYTES, NULL), 0);
    struct unpack in = unpack_from(state_buf, out.len);
    assert_int_equal(disk_load(&child, &in, NULL), 0);
    int other = layer_new();
    assert_int_equal(ftruncate(other, DISK_BLOCK), 0);
    assert_int_equal(disk_open_base(&child, duplicate_read_only(other), &err), -EINVAL);
    close(other);
    assert_int_equal(disk_open_base(&child, base_open(O_RDONLY), &err), 0);
    assert_int_equal(disk_open_private(&child, layer_new(), &err), -EINVAL); /* its frozen layer is missing */
    assert_non_null(strstr(err.text, "0 of its 1"));
    disk_destroy(&child);
    pair_free(p);
}

/* In a child with a mount namespace of its own: 0 passed, 77 cannot be done here. */
static int on_a_full_filesystem(void)
{
    char dir[] = "/tmp/unit-disk-full-XXXXXX", path[64];
    if (!small_filesystem(dir, "size=128k"))
        return 77;
    snprintf(path, sizeof path, "%s/layer", dir);
    struct pair *p = pair_new();
    bool good = disk_freeze(&p->disk, open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600), NULL) == 0;
    static uint8_t data[64 * DISK_BLOCK];
    const struct iovec iov = {data, sizeof data};
    good = good && disk_write(&p->disk, &iov, 1, 0) == -ENOSPC;
    /* Whatever was written: a block is the old one or the new one, never garbage; and again, once there is room. */
    for (uint32_t b = 0; b < 64; b++) {
        uint8_t got[DISK_BLOCK];
        const struct iovec one = {got, sizeof got};
        good = good && disk_read(&p->disk, &one, 1, b * DISK_BLOCK) == 0 &&
               (memcmp(got, data, sizeof got) == 0 || memcmp(got, p->flat + b * DISK_BLOCK, sizeof got) == 0);
    }
    good = good && mount("tmpfs", dir, "tmpfs", MS_REMOUNT, "size=1m") == 0;
    good = good && disk_write(&p->disk, &iov, 1, 0) == 0;
    memset(p->flat, 0, sizeof data);
    good = good && reads_well(p);
    pair_free(p);
    umount2(dir, MNT_DETACH);
    rmdir(dir);
    return good ? 0 : 1;
}

static void a_full_filesystem_is_told_and_the_write_can_be_done_again(void **state)
{
    assert_child_passes(on_a_full_filesystem);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_fresh_disk_reads_as_its_base_and_zeros_behind_it),
        cmocka_unit_test(random_requests_read_as_a_flat_file_would),
        cmocka_unit_test(forks_of_forks_do_not_see_each_other),
        cmocka_unit_test(layers_have_a_limit_that_is_told),
        cmocka_unit_test(a_write_after_the_freeze_goes_to_the_new_layer),
        cmocka_unit_test(a_fork_while_writes_are_in_flight_is_of_one_instant),
        cmocka_unit_test(frozen_layers_are_never_written),
        cmocka_unit_test(what_is_discarded_gives_its_space_back),
        cmocka_unit_test(an_untouched_index_costs_nothing),
        cmocka_unit_test(requests_outside_the_disk_are_refused),
        cmocka_unit_test(files_that_must_not_be_used_are_refused),
        cmocka_unit_test(a_frozen_layer_that_was_cut_off_is_an_error),
        cmocka_unit_test(hostile_state_is_refused),
        cmocka_unit_test(a_base_of_another_length_is_refused_after_a_load),
        cmocka_unit_test(a_full_filesystem_is_told_and_the_write_can_be_done_again),
    };
    return cmocka_run_group_tests_name("disk", tests, base_make, base_check);
}
