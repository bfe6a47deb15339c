/* disk.c: claims about src/disk: every block is where the last write put it, whatever was frozen, forked,
 * flattened or discarded in between; nothing shared is ever written. */
#include "disk/disk.h"

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
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

enum { BLOCKS = 300, BYTES = BLOCKS * DISK_BLOCK, BASE_BYTES = 200 * DISK_BLOCK + 1536, SECTOR = 512 };

/* A disk and what it should read as. */
struct pair {
    struct disk disk;
    uint8_t *flat;
};

static uint32_t seed;

static uint32_t dice(uint32_t sides)
{
    seed = seed * 1664525 + 1013904223;
    return (uint32_t)(((uint64_t)seed * sides) >> 32);
}

static char base_path[] = "/tmp/unit-disk-XXXXXX";

static uint8_t base_byte(uint32_t at)
{
    return (uint8_t)(at / SECTOR * 7 + 1);
}

static int make_base(void **state)
{
    int fd = mkstemp(base_path);
    uint8_t *bytes = malloc(BASE_BYTES);
    assert_true(fd >= 0 && bytes);
    for (uint32_t i = 0; i < BASE_BYTES; i++)
        bytes[i] = base_byte(i);
    assert_int_equal(write(fd, bytes, BASE_BYTES), BASE_BYTES);
    free(bytes);
    close(fd);
    return 0;
}

/* The base holds what it was made with: nobody wrote to it. */
static int check_base(void **state)
{
    int fd = open(base_path, O_RDONLY);
    uint8_t *bytes = malloc(BASE_BYTES + 1);
    assert_true(fd >= 0 && bytes);
    assert_int_equal(read(fd, bytes, BASE_BYTES + 1), BASE_BYTES);
    for (uint32_t i = 0; i < BASE_BYTES; i++)
        assert_int_equal(bytes[i], base_byte(i));
    free(bytes);
    close(fd);
    unlink(base_path);
    return 0;
}

static int base_open(void)
{
    return open(base_path, O_RDONLY | O_CLOEXEC);
}

static int layer_new(void)
{
    FILE *f = tmpfile();
    assert_non_null(f);
    int fd = dup(fileno(f));
    fclose(f);
    return fd;
}

static int duplicate_read_only(int fd)
{
    char path[64];
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    return open(path, O_RDONLY | O_CLOEXEC);
}

static struct pair *pair_new(void)
{
    struct pair *p = calloc(1, sizeof *p);
    struct err err = {0};
    assert_non_null(p);
    assert_int_equal(disk_init(&p->disk, BYTES, &err), 0);
    assert_int_equal(disk_open_base(&p->disk, base_open(), &err), 0);
    assert_int_equal(disk_open_private(&p->disk, layer_new(), &err), 0);
    p->flat = calloc(1, BYTES);
    assert_non_null(p->flat);
    for (uint32_t i = 0; i < BASE_BYTES; i++)
        p->flat[i] = base_byte(i);
    return p;
}

static void pair_free(struct pair *p)
{
    disk_destroy(&p->disk);
    free(p->flat);
    free(p);
}

/* Saves and freezes, and gives the fork that a branch would have at this instant. */
static void fork_disk(struct disk *disk, struct disk *child)
{
    struct err err = {0};
    unsigned layers = disk->layers;
    size_t cap = disk_state_bound(disk);
    uint8_t *state = malloc(cap);
    assert_non_null(state);
    struct pack out = pack_into(state, cap);
    disk_save(disk, &out);
    assert_false(out.full);
    assert_int_equal(disk_freeze(disk, layer_new(), &err), 0);
    assert_int_equal(disk_init(child, disk->bytes, &err), 0);
    struct unpack in = unpack_from(state, out.len);
    assert_int_equal(disk_load(child, &in, &err), 0);
    assert_true(unpack_done(&in));
    assert_int_equal(child->layers, layers);
    free(state);
    assert_int_equal(disk_open_base(child, base_open(), &err), 0);
    for (unsigned i = 0; i < layers; i++)
        assert_int_equal(disk_open_frozen(child, duplicate_read_only(disk->layer_fd[i]), &err), 0);
    assert_int_equal(disk_open_private(child, layer_new(), &err), 0);
}

static struct pair *pair_fork(struct pair *p)
{
    struct pair *child = calloc(1, sizeof *child);
    assert_non_null(child);
    fork_disk(&p->disk, &child->disk);
    child->flat = malloc(BYTES);
    assert_non_null(child->flat);
    memcpy(child->flat, p->flat, BYTES);
    return child;
}

/* Cuts a buffer into pieces at random: requests come as the driver's segments. */
static unsigned cut(uint8_t *buf, uint32_t len, struct iovec *iov, unsigned most)
{
    unsigned n = 0;
    while (len) {
        uint32_t part = n + 1 == most ? len : 1 + dice(len < 9000 ? len : 9000);
        iov[n++] = (struct iovec){buf, part};
        buf += part;
        len -= part;
    }
    return n;
}

static void assert_reads_as(struct pair *p, uint32_t at, uint32_t len)
{
    uint8_t *got = malloc(len);
    struct iovec iov[128];
    assert_non_null(got);
    memset(got, 0xdd, len);
    assert_int_equal(disk_read(&p->disk, iov, cut(got, len, iov, 128), at), 0);
    assert_memory_equal(got, p->flat + at, len);
    free(got);
}

static void random_write(struct pair *p, uint32_t at, uint32_t len)
{
    struct iovec iov[128];
    for (uint32_t i = 0; i < len; i++)
        p->flat[at + i] = (uint8_t)dice(256);
    uint8_t *copy = malloc(len);
    assert_non_null(copy);
    memcpy(copy, p->flat + at, len);
    assert_int_equal(disk_write(&p->disk, iov, cut(copy, len, iov, 128), at), 0);
    free(copy);
}

static void random_request(struct pair *p)
{
    uint32_t at = dice(BYTES / SECTOR) * SECTOR, len = (1 + dice(60)) * SECTOR;
    if (dice(3) == 0) { /* what the guest's filesystem does: whole blocks */
        at = at / DISK_BLOCK * DISK_BLOCK;
        len = (1 + dice(30)) * DISK_BLOCK;
    }
    if (len > BYTES - at)
        len = BYTES - at;
    switch (dice(4)) {
    case 0:
    case 1:
        random_write(p, at, len);
        break;
    case 2:
        memset(p->flat + at, 0, len);
        assert_int_equal(disk_zero(&p->disk, at, len), 0);
        break;
    default:
        assert_reads_as(p, at, len);
    }
}

/* Claims */

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

static void many_layers_are_flattened_into_one(void **state)
{
    struct pair *p = pair_new();
    seed = 7;
    while (p->disk.layers < DISK_LAYERS_FLATTEN) {
        random_request(p);
        assert_int_equal(disk_freeze(&p->disk, layer_new(), NULL), 0);
    }
    random_request(p);
    assert_reads_as(p, 0, BYTES);
    struct err err = {0};
    assert_int_equal(disk_flatten(&p->disk, &err), 0);
    assert_int_equal(p->disk.layers, 1);
    assert_reads_as(p, 0, BYTES);
    for (int i = 0; i < 500; i++)
        random_request(p);
    struct pair *child = pair_fork(p);
    assert_reads_as(child, 0, BYTES);
    pair_free(child);
    pair_free(p);
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
enum { STREAM_FORKS = 40, STREAM_BLOCKS = 64 };

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
    }
    return NULL;
}

/* Forks while a worker writes and nobody waits for it. Every write that ended before is in the fork; those in
 * flight the fork does again; later ones it never sees. */
static void a_fork_while_writes_are_in_flight_is_of_one_instant(void **state)
{
    static struct stream s;
    static uint8_t model[STREAM_BLOCKS * DISK_BLOCK], got[STREAM_BLOCKS * DISK_BLOCK];
    pthread_t worker;
    uint64_t modelled = 0;
    assert_int_equal(disk_init(&s.disk, BYTES, NULL), 0);
    assert_int_equal(disk_open_base(&s.disk, base_open(), NULL), 0);
    assert_int_equal(disk_open_private(&s.disk, layer_new(), NULL), 0);
    for (uint32_t i = 0; i < sizeof model; i++)
        model[i] = base_byte(i);
    assert_int_equal(pthread_create(&worker, NULL, stream_run, &s), 0);
    for (int fork = 0; fork < STREAM_FORKS; fork++) {
        struct disk child;
        while (__atomic_load_n(&s.done, __ATOMIC_ACQUIRE) < modelled + 20)
            sched_yield();
        uint64_t done = __atomic_load_n(&s.done, __ATOMIC_ACQUIRE);
        fork_disk(&s.disk, &child);
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
    assert_int_equal(mincore(disk.index + blocks / 2 / 4096 * 4096, 4096, &resident), 0);
    disk_destroy(&disk);

    assert_int_equal(disk_init(&disk, UINT64_C(1) << 40, NULL), 0);
    assert_int_equal(disk_open_base(&disk, base_open(), NULL), 0);
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
    assert_int_equal(disk_open_base(&disk, base_open(), &err), -EINVAL); /* longer than the disk */
    disk_destroy(&disk);
    assert_int_equal(disk_init(&disk, BYTES, &err), 0);
    assert_int_equal(disk_open_base(&disk, open(base_path, O_RDWR), &err), -EINVAL);
    assert_non_null(strstr(err.text, "reading only"));
    assert_int_equal(disk_open_base(&disk, open("/dev/null", O_RDONLY), &err), -EINVAL);
    assert_int_equal(disk_open_base(&disk, -1, &err), -EINVAL);
    assert_int_equal(disk_open_private(&disk, layer_new(), &err), -EINVAL); /* no base yet */
    assert_int_equal(disk_open_base(&disk, base_open(), &err), 0);
    assert_int_equal(disk_open_frozen(&disk, layer_new(), &err), -EINVAL); /* its state names none */
    assert_int_equal(disk_freeze(&disk, layer_new(), &err), -EINVAL);
    assert_int_equal(disk_open_private(&disk, open("/dev/full", O_RDWR), &err), -EINVAL);
    assert_int_equal(disk_open_private(&disk, base_open(), &err), -EINVAL);
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
                assert_true(victim.index[b] < 2 + victim.layers);
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
    assert_int_equal(disk_open_base(&child, base_open(), &err), 0);
    assert_int_equal(disk_open_private(&child, layer_new(), &err), -EINVAL); /* its frozen layer is missing */
    assert_non_null(strstr(err.text, "0 of its 1"));
    disk_destroy(&child);
    pair_free(p);
}

/* In a child with a mount namespace of its own: 0 passed, 77 cannot be done here. */
static int on_a_full_filesystem(void)
{
    char dir[] = "/tmp/unit-disk-full-XXXXXX", path[64];
    if (!mkdtemp(dir))
        return 77;
    if (unshare(CLONE_NEWNS) < 0 && unshare(CLONE_NEWUSER | CLONE_NEWNS) < 0) {
        rmdir(dir);
        return 77;
    }
    if (mount("tmpfs", dir, "tmpfs", 0, "size=128k") < 0) {
        rmdir(dir);
        return 77;
    }
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
    uint8_t *all = malloc(BYTES);
    const struct iovec whole = {all, BYTES};
    good = good && all && disk_read(&p->disk, &whole, 1, 0) == 0 && memcmp(all, p->flat, BYTES) == 0;
    free(all);
    pair_free(p);
    umount2(dir, MNT_DETACH);
    rmdir(dir);
    return good ? 0 : 1;
}

static void a_full_filesystem_is_told_and_the_write_can_be_done_again(void **state)
{
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0)
        _exit(on_a_full_filesystem());
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFEXITED(status));
    if (WEXITSTATUS(status) == 77) {
        print_message("skipped: no mount namespace can be made here\n");
        skip();
    }
    assert_int_equal(WEXITSTATUS(status), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_fresh_disk_reads_as_its_base_and_zeros_behind_it),
        cmocka_unit_test(random_requests_read_as_a_flat_file_would),
        cmocka_unit_test(forks_of_forks_do_not_see_each_other),
        cmocka_unit_test(many_layers_are_flattened_into_one),
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
    return cmocka_run_group_tests_name("disk", tests, make_base, check_base);
}
