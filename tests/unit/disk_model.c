/* disk_model.c: see disk_model.h. */
#include "disk_model.h"

#include <fcntl.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

uint32_t seed;

uint32_t dice(uint32_t sides)
{
    seed = seed * 1664525 + 1013904223;
    return (uint32_t)(((uint64_t)seed * sides) >> 32);
}

static char base_path[] = "/tmp/unit-disk-XXXXXX";

uint8_t base_byte(uint32_t at)
{
    return (uint8_t)(at / SECTOR * 7 + 1);
}

int base_make(void **state)
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

int base_check(void **state)
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

int base_open(int flags)
{
    return open(base_path, flags | O_CLOEXEC);
}

int layer_new(void)
{
    FILE *f = tmpfile();
    assert_non_null(f);
    int fd = dup(fileno(f));
    fclose(f);
    return fd;
}

int duplicate_read_only(int fd)
{
    char path[64];
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    return open(path, O_RDONLY | O_CLOEXEC);
}

struct pair *pair_new(void)
{
    struct pair *p = calloc(1, sizeof *p);
    struct err err = {0};
    assert_non_null(p);
    assert_int_equal(disk_init(&p->disk, BYTES, &err), 0);
    assert_int_equal(disk_open_base(&p->disk, base_open(O_RDONLY), &err), 0);
    assert_int_equal(disk_open_private(&p->disk, layer_new(), &err), 0);
    p->flat = calloc(1, BYTES);
    assert_non_null(p->flat);
    for (uint32_t i = 0; i < BASE_BYTES; i++)
        p->flat[i] = base_byte(i);
    return p;
}

void pair_free(struct pair *p)
{
    disk_destroy(&p->disk);
    free(p->flat);
    free(p);
}

void disk_fork(struct disk *disk, struct disk *child)
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
    assert_int_equal(disk_open_base(child, base_open(O_RDONLY), &err), 0);
    for (unsigned i = 0; i < layers; i++)
        assert_int_equal(disk_open_frozen(child, duplicate_read_only(disk_layer_fd(disk, i)), &err), 0);
    assert_int_equal(disk_open_private(child, layer_new(), &err), 0);
}

struct pair *pair_fork(struct pair *p)
{
    struct pair *child = calloc(1, sizeof *child);
    assert_non_null(child);
    disk_fork(&p->disk, &child->disk);
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

void assert_reads_as(struct pair *p, uint32_t at, uint32_t len)
{
    uint8_t *got = malloc(len);
    struct iovec iov[128];
    assert_non_null(got);
    memset(got, 0xdd, len);
    assert_int_equal(disk_read(&p->disk, iov, cut(got, len, iov, 128), at), 0);
    assert_memory_equal(got, p->flat + at, len);
    free(got);
}

void random_write(struct pair *p, uint32_t at, uint32_t len)
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

void random_request(struct pair *p)
{
    uint32_t at = dice(BYTES / SECTOR) * SECTOR, len = (1 + dice(60)) * SECTOR;
    if (dice(3) == 0) { /* what the guest's filesystem does: whole blocks */
        at = at / DISK_BLOCK * DISK_BLOCK;
        len = (1 + dice(30)) * DISK_BLOCK;
    }
    if (len > BYTES - at)
        len = BYTES - at;
    uint32_t what = dice(4);
    for (uint32_t b = at / DISK_BLOCK; what < 3 && b <= (at + len - 1) / DISK_BLOCK; b++)
        p->written[b] = true;
    switch (what) {
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

/* In a mount namespace of this process's own. */
bool small_filesystem(char *dir, const char *size)
{
    if (!mkdtemp(dir))
        return false;
    if ((unshare(CLONE_NEWNS) == 0 || unshare(CLONE_NEWUSER | CLONE_NEWNS) == 0) &&
        mount("tmpfs", dir, "tmpfs", 0, size) == 0)
        return true;
    rmdir(dir);
    return false;
}

bool reads_well(struct pair *p)
{
    uint8_t *all = malloc(BYTES);
    const struct iovec whole = {all, BYTES};
    bool good = all && disk_read(&p->disk, &whole, 1, 0) == 0 && memcmp(all, p->flat, BYTES) == 0;
    free(all);
    return good;
}

void assert_child_passes(int (*body)(void))
{
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0)
        _exit(body());
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFEXITED(status));
    if (WEXITSTATUS(status) == 77) {
        print_message("skipped: no mount namespace can be made here\n");
        skip();
    }
    assert_int_equal(WEXITSTATUS(status), 0);
}
