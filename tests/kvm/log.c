/* log.c: between them, KVM's dirty log and the marks of our devices know every page that changed since a fork was
 * born. A page that changed unseen would be missing in whatever is made of the fork: a branch, a diff, a rollback. */
#include "kvm/check.h"

#include "base/own.h"
#include "kvm/client.h"
#include "kvm/guests/dirty.h"
#include "sys/kvm.h"

#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

enum { DISK = 16 << 20 };

struct watched {
    struct client_address at;
    int listen_fd, orders[2];
    struct loop_source source;
    struct rig *rig;
    bool told;
};

static bool bit(const uint64_t *bitmap, uint64_t page)
{
    return bitmap[page / 64] >> (page % 64) & 1;
}

/* The pages that KVM or a device says were written; one slot, parked. NULL on failure. */
static uint64_t *written_pages(struct rig *rig, struct err *err)
{
    uint64_t *bitmap = calloc(gmem_pages(&rig->m->gmem) / 64 + 1, sizeof *bitmap);
    if (!bitmap || kvm_dirty_get(rig->m->vm_fd, 0, bitmap, err) < 0) {
        free(bitmap);
        return NULL;
    }
    gmem_fetch_marks(&rig->m->gmem, bitmap);
    return bitmap;
}

/* How many pages differ from what they were at birth and are not in the log, and how many are. */
static void pages_compare(struct rig *rig, const uint8_t *before, const uint64_t *bitmap, unsigned *unseen,
                          unsigned *seen)
{
    *unseen = *seen = 0;
    for (uint64_t page = 0; page < gmem_pages(&rig->m->gmem); page++) {
        uint64_t at = page * GMEM_PAGE;
        if (!memcmp(before + at, rig->m->gmem.base + at, GMEM_PAGE))
            continue;
        if (bit(bitmap, page))
            ++*seen;
        else if (++*unseen <= 8)
            fprintf(stderr, "page 0x%llx changed unseen\n", (unsigned long long)at);
    }
}

static int log_is_complete(struct rig *rig, const uint8_t *before, unsigned least, struct err *err)
{
    unsigned unseen, seen;
    int rc = machine_park(rig->m, false, err);
    own_free uint64_t *bitmap = rc < 0 ? NULL : written_pages(rig, err);
    if (!bitmap)
        return -1;
    pages_compare(rig, before, bitmap, &unseen, &seen);
    if (unseen || seen < least)
        return err_say(err, EIO, "%u pages changed unseen, %u seen", unseen, seen);
    return 0;
}

/* Memory as it is before the first instruction of this life. */
static uint8_t *memory_copy(const struct rig *rig)
{
    size_t size = rig->m->gmem.size;
    uint8_t *copy = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    return copy == MAP_FAILED ? NULL : memcpy(copy, rig->m->gmem.base, size);
}

static int child_status(int rc, const struct err *err)
{
    if (rc < 0)
        fprintf(stderr, "a child: %s\n", err->text);
    return rc < 0 ? 1 : 0;
}

/* --- what CPUs write --- */

static int dirty_child(struct rig *rig, void *arg)
{
    struct err err = {0};
    const uint8_t *before = memory_copy(rig);
    int rc = before ? rig_live(rig, -1, &err) : -1;
    if (rc == 0)
        rc = rig_run(rig, rig_answered, &err);
    if (rc == 0)
        rc = log_is_complete(rig, before, *(unsigned *)arg, &err);
    return child_status(rc, &err);
}

static void test_log_knows_what_cpus_wrote(void **state)
{
    struct rig rig;
    struct err err = {0};
    unsigned pages = (8 << 20) / GMEM_PAGE;
    must(rig_ready(&rig, &(struct rig_config){.guest = "dirty", .mem_mib = 64, .cmdline = "hot=8m total=5000"}, &err));
    assert_int_equal(rig_wait(rig_fork(&rig, dirty_child, &pages)), 0);
    rig_close(&rig);
}

/* --- what devices write --- */

static void on_order(struct loop_source *source, uint32_t events)
{
    struct watched *w = (struct watched *)((char *)source - offsetof(struct watched, source));
    loop_remove(&w->rig->loop, source);
    w->told = true;
    rig_stir(w->rig);
}

static struct watched watched;

static bool told(struct rig *rig)
{
    return watched.told;
}

static int watched_child(struct rig *rig, void *arg)
{
    struct err err = {0};
    const uint8_t *before = memory_copy(rig);
    watched.rig = rig;
    watched.source = (struct loop_source){.fd = -1, .fn = on_order};
    int rc = before ? rig_live(rig, watched.listen_fd, &err) : -1;
    if (rc == 0)
        rc = loop_add(&rig->loop, &watched.source, watched.orders[1], EPOLLIN, &err);
    if (rc == 0)
        rc = rig_run(rig, told, &err);
    if (rc == 0)
        rc = log_is_complete(rig, before, 32, &err);
    return child_status(rc, &err);
}

/* Data in both directions through vsock, blocks from the disk, and whatever the rings need. */
static void test_log_knows_what_devices_wrote(void **state)
{
    static const char *const lines[] = {"load 4",     "blk read 3", "blk write 3 7",
                                        "blk read 3", "spew 300k",  "echo a b c"};
    struct rig rig;
    struct err err = {0};
    static struct client_result result;
    must(rig_ready(&rig, &(struct rig_config){.guest = "agent", .disk_bytes = DISK}, &err));
    watched.listen_fd = client_listen(&watched.at, &err);
    assert_true(watched.listen_fd >= 0);
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, watched.orders), 0);
    pid_t pid = rig_fork(&rig, watched_child, NULL);
    assert_true(pid > 0);
    for (unsigned round = 0; round < 20; round++)
        for (size_t i = 0; i < sizeof lines / sizeof *lines; i++)
            must(client_exec(&watched.at, lines[i], &result, &err));
    assert_int_equal(write(watched.orders[0], "p", 1), 1);
    assert_int_equal(rig_wait(pid), 0);
    fd_close(&watched.listen_fd);
    rig_close(&rig);
}

int main(void)
{
    check_kvm();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_log_knows_what_cpus_wrote),
        cmocka_unit_test(test_log_knows_what_devices_wrote),
    };
    return cmocka_run_group_tests_name("the log of written pages", tests, NULL, NULL);
}
