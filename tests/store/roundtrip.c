/* roundtrip.c: claims about forkd-store: what it wrote it loads, whatever the engine, the filesystem and the length of
 * the chain; it writes what was touched and no more; it is small.
 *
 *   roundtrip FORKD-STORE */
#include "base/clock.h"
#include "base/own.h"
#include "shop.h"
#include "skip.h"
#include "snap/chain_load.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

static char root[] = "/tmp/store-test-XXXXXX";

static int make_root(void **state)
{
    return mkdtemp(root) ? 0 : -1;
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *walk)
{
    return remove(path);
}

static int remove_root(void **state)
{
    nftw(root, remove_one, 16, FTW_DEPTH | FTW_PHYS);
    strcpy(root + strlen(root) - 6, "XXXXXX");
    return 0;
}

static void save_or_fail(struct template *t, const struct order *order, struct snapshot_meta *meta)
{
    struct err err = {0};
    if (shop_save(t, order, meta, &err) < 0)
        fail_msg("%s", err.text);
}

static void restore_or_fail(const char *const *tags, struct template *t)
{
    struct err err = {0};
    struct ctl_message image;
    if (shop_restore(root, tags, t->base_path, &image, &err) < 0)
        fail_msg("%s", err.text);
    assert_image_equal(t, &image);
}

/* Something of every kind: pages written, zeroed, of the image; blocks written, discarded, of the base. */
static void live_a_little(struct template *t, uint32_t seed)
{
    uint64_t pages = t->mem_bytes / TEMPLATE_PAGE;
    for (uint32_t i = 0; i < 40; i++)
        template_touch(t, (seed * 131 + i * 37) % pages, seed * 100 + i + 1);
    for (uint32_t i = 0; i < 12; i++)
        template_touch(t, (seed * 57 + i * 11) % pages, 0);
    if (!t->disk)
        return;
    for (uint32_t i = 0; i < 30; i++)
        template_write_block(t, (seed * 71 + i * 13) % TEMPLATE_DISK_BLOCKS, seed * 200 + i + 1);
    template_discard(t, seed * 17 % 900, 40);
    template_write_block(t, seed * 17 % 900 + 3, 0); /* zeros, written */
}

static void a_whole_snapshot_comes_back(enum writer_engine engine)
{
    struct template t;
    struct snapshot_meta meta;
    template_init(&t, 8 << 20, 300, true);
    live_a_little(&t, 1);
    save_or_fail(&t, &(struct order){.root = root, .tag = "whole", .engine = engine}, &meta);
    assert_string_equal(meta.engine, writer_engine_name(engine));
    assert_string_equal(meta.warning, "");
    restore_or_fail((const char *const[]){"whole", NULL}, &t);
    template_destroy(&t);
}

static void a_whole_snapshot_comes_back_buffered(void **state)
{
    a_whole_snapshot_comes_back(WRITER_BUFFERED);
}

static void a_whole_snapshot_comes_back_fallocate(void **state)
{
    a_whole_snapshot_comes_back(WRITER_FALLOCATE);
}

static void a_whole_snapshot_comes_back_direct(void **state)
{
    a_whole_snapshot_comes_back(WRITER_DIRECT);
}

static void memory_of_odd_size_without_a_disk_comes_back(void **state)
{
    struct template t;
    struct snapshot_meta meta;
    template_init(&t, (5 << 20) + 3 * TEMPLATE_PAGE, 1283, false);
    save_or_fail(&t, &(struct order){.root = root, .tag = "odd"}, &meta);
    restore_or_fail((const char *const[]){"odd", NULL}, &t);
    template_destroy(&t);
}

static void every_link_of_a_chain_of_six_comes_back(void **state)
{
    static const char *const tag[] = {"c0", "c1", "c2", "c3", "c4", "c5"};
    struct template t;
    struct snapshot_meta meta;
    const char *tags[7] = {NULL};
    template_init(&t, 8 << 20, 300, true);
    for (unsigned i = 0; i < 6; i++) {
        live_a_little(&t, i + 2);
        save_or_fail(&t, &(struct order){.root = root, .tag = tag[i]}, &meta);
        assert_string_equal(meta.parent_tag, i ? tag[i - 1] : "");
        tags[i] = tag[i];
        restore_or_fail(tags, &t);
        template_branch(&t, &meta);
    }
    template_destroy(&t);
}

static uint64_t bytes_on_disk(const char *tag, const char *file)
{
    char path[256];
    struct stat st;
    snprintf(path, sizeof path, "%s/%s/%s", root, tag, file);
    assert_int_equal(stat(path, &st), 0);
    return (uint64_t)st.st_blocks * 512;
}

static void a_diff_holds_what_was_written_and_no_more(void **state)
{
    struct template t;
    struct snapshot_meta meta;
    template_init(&t, 64 << 20, 16384, true);
    for (uint64_t i = 0; i < 8; i++)
        template_write_block(&t, 100 + i, 1);
    save_or_fail(&t, &(struct order){.root = root, .tag = "base"}, &meta);
    assert_int_equal(meta.logical_bytes, (64 << 20) + 8 * TEMPLATE_PAGE);
    template_branch(&t, &meta);
    for (uint64_t i = 0; i < 50; i++)
        template_touch(&t, i * 300, 77);
    template_touch(&t, 40, 0);
    template_write_block(&t, 9, 3);
    save_or_fail(&t, &(struct order){.root = root, .tag = "diff"}, &meta);
    assert_int_equal(meta.logical_bytes, 51 * TEMPLATE_PAGE);
    assert_in_range(bytes_on_disk("diff", "memory.bin"), 50 * TEMPLATE_PAGE, 60 * TEMPLATE_PAGE);
    assert_in_range(meta.physical_bytes, 51 * TEMPLATE_PAGE, 51 * TEMPLATE_PAGE + (64 << 10));
    template_destroy(&t);
}

/* 512 MiB of which 3 MiB were touched, one page here and there. */
static void an_idle_guest_costs_what_it_touched(void **state)
{
    for (int engine = 0; engine < WRITER_ENGINES; engine++) {
        struct template t;
        struct snapshot_meta meta;
        const char *tag = writer_engine_name((enum writer_engine)engine);
        template_init(&t, 512 << 20, 768, false);
        save_or_fail(&t, &(struct order){.root = root, .tag = tag, .engine = (enum writer_engine)engine}, &meta);
        assert_int_equal(meta.logical_bytes, 3 << 20);
        assert_in_range(bytes_on_disk(tag, "memory.bin"), 3 << 20, (3 << 20) + (256 << 10));
        template_destroy(&t);
    }
}

static void half_a_gigabyte_is_written_by_less_than_64_mib(void **state)
{
#ifdef __SANITIZE_ADDRESS__
    skip_because("with AddressSanitizer the store owns its shadow, too");
#endif
    struct template t;
    struct snapshot_meta meta;
    struct save_under_way save;
    struct rusage usage;
    struct err err = {0};
    unsigned events = 0;
    template_init(&t, 512 << 20, 131072, false);
    shop_begin_save(&t, &(struct order){.root = root, .tag = "large"}, &save);
    if (shop_end_save(&save, &meta, &usage, &events, &err) < 0)
        fail_msg("%s", err.text);
    assert_in_range(usage.ru_maxrss, 1, 64 << 10);
    assert_int_equal(meta.logical_bytes, 512 << 20);
    restore_or_fail((const char *const[]){"large", NULL}, &t);
    template_destroy(&t);
}

static void a_rate_limit_holds_and_progress_is_told(void **state)
{
    struct template t;
    struct snapshot_meta meta;
    struct save_under_way save;
    struct err err = {0};
    unsigned events = 0;
    template_init(&t, 16 << 20, 4096, false);
    uint64_t began = clock_monotonic_ns();
    shop_begin_save(&t, &(struct order){.root = root, .tag = "slow", .bytes_per_second = 16 << 20}, &save);
    assert_int_equal(shop_end_save(&save, &meta, NULL, &events, &err), 0);
    /* The last chunk may begin when all before it have had their time. */
    assert_true(clock_monotonic_ns() - began >= NS_PER_SEC * 15 / 16);
    assert_true(events > 0);
    template_destroy(&t);
}

struct slow_save {
    struct template *template;
    struct save_under_way save;
    bool denied;
};

/* A store that cannot sleep. Of a thread of its own, for its filter is for good, and inherited. */
static void *begin_without_sleep(void *arg)
{
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_clock_nanosleep, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | ENOSYS),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    const struct sock_fprog program = {.len = sizeof code / sizeof *code, .filter = code};
    struct slow_save *slow = arg;
    slow->denied =
        prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 && prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0;
    if (slow->denied)
        shop_begin_save(slow->template, &(struct order){.root = root, .tag = "slow", .bytes_per_second = 16 << 20},
                        &slow->save);
    return NULL;
}

static void a_rate_limit_that_cannot_be_kept_is_told_and_leaves_nothing_that_loads(void **state)
{
    struct template t;
    struct slow_save slow = {.template = &t};
    struct snapshot_meta meta;
    struct err err = {0};
    struct ctl_message m;
    pthread_t thread;
    template_init(&t, 16 << 20, 4096, false);
    assert_int_equal(pthread_create(&thread, NULL, begin_without_sleep, &slow), 0);
    pthread_join(thread, NULL);
    assert_true(slow.denied);
    assert_int_equal(shop_end_save(&slow.save, &meta, NULL, NULL, &err), -ENOSYS);
    assert_non_null(strstr(err.text, "wait until the rate limit lets it write"));
    assert_true(shop_restore(root, (const char *const[]){"slow", NULL}, NULL, &m, &err) < 0);
    assert_string_equal(err.text, "snapshot.json is empty: the snapshot was never written to its end");
    template_destroy(&t);
}

static void without_direct_io_it_says_so(void **state)
{
    struct template t;
    struct snapshot_meta meta;
    template_init(&t, 8 << 20, 300, true);
    live_a_little(&t, 1);
    save_or_fail(&t, &(struct order){.root = root, .tag = "cached", .without = "direct"}, &meta);
    assert_string_equal(meta.engine, "fallocate");
    assert_non_null(strstr(meta.warning, "cannot do direct I/O"));
    restore_or_fail((const char *const[]){"cached", NULL}, &t);
    template_destroy(&t);
}

static void without_reserving_it_says_so(void **state)
{
    struct template t;
    struct snapshot_meta meta;
    template_init(&t, 8 << 20, 300, true);
    live_a_little(&t, 1);
    save_or_fail(&t, &(struct order){.root = root, .tag = "unreserved", .without = "fallocate"}, &meta);
    assert_string_equal(meta.engine, "direct");
    assert_non_null(strstr(meta.warning, "cannot reserve space"));
    restore_or_fail((const char *const[]){"unreserved", NULL}, &t);
    save_or_fail(&t, &(struct order){.root = root, .tag = "plain", .without = "fallocate,direct"}, &meta);
    assert_string_equal(meta.engine, "buffered");
    assert_non_null(strstr(meta.warning, "cannot reserve space"));
    assert_non_null(strstr(meta.warning, "cannot do direct I/O"));
    restore_or_fail((const char *const[]){"plain", NULL}, &t);
    template_destroy(&t);
}

static void a_killed_writer_leaves_nothing_that_loads(void **state)
{
    struct template t;
    struct snapshot_meta meta;
    struct save_under_way save;
    struct err err = {0};
    struct ctl_message m;
    template_init(&t, 64 << 20, 16384, false);
    shop_begin_save(&t, &(struct order){.root = root, .tag = "killed", .bytes_per_second = 8 << 20}, &save);
    assert_int_equal(ctl_recv_until(save.sock, &m, clock_monotonic_ns() + 60 * NS_PER_SEC, &err), 1);
    assert_int_equal(m.type, CTL_PROGRESS);
    assert_true(m.progress.done <= m.progress.total && m.progress.total == 64 << 20);
    kill(save.pid, SIGKILL);
    assert_true(shop_end_save(&save, &meta, NULL, NULL, &err) < 0);
    assert_true(shop_restore(root, (const char *const[]){"killed", NULL}, NULL, &m, &err) < 0);
    assert_string_equal(err.text, "snapshot.json is empty: the snapshot was never written to its end");
    template_destroy(&t);
}

static void a_store_whose_controller_went_away_ends(void **state)
{
    struct template t;
    struct save_under_way save;
    struct ctl_message m;
    int status;
    template_init(&t, 64 << 20, 16384, false);
    shop_begin_save(&t, &(struct order){.root = root, .tag = "alone", .bytes_per_second = 4 << 20}, &save);
    assert_int_equal(ctl_recv_until(save.sock, &m, clock_monotonic_ns() + 60 * NS_PER_SEC, NULL), 1);
    close(save.sock);
    assert_int_equal(waitpid(save.pid, &status, 0), save.pid);
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 1);
    export_close(&save.export);
    template_destroy(&t);
}

/* Its memory is another process's, which ends in the middle. */
static void a_template_that_ends_is_named(void **state)
{
    struct template t;
    struct snapshot_meta meta;
    struct save_under_way save;
    struct err err = {0};
    struct ctl_message m;
    template_init(&t, 64 << 20, 0, false);
    for (uint64_t i = 0; i < 16384; i++)
        template_touch(&t, i, (uint32_t)i + 1);
    pid_t other = fork();
    if (other == 0)
        for (;;)
            pause();
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/mem", (int)other);
    own_fd int memory = open(path, O_RDONLY | O_CLOEXEC);
    shop_begin_save(
        &t, &(struct order){.root = root, .tag = "ended", .bytes_per_second = 8 << 20, .own_memory = memory}, &save);
    assert_int_equal(ctl_recv_until(save.sock, &m, clock_monotonic_ns() + 60 * NS_PER_SEC, &err), 1);
    kill(other, SIGKILL);
    waitpid(other, NULL, 0);
    assert_true(shop_end_save(&save, &meta, NULL, NULL, &err) < 0);
    assert_string_equal(err.text, "the template ended while it was written");
    template_destroy(&t);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
#define TEST(name) cmocka_unit_test_setup_teardown(name, make_root, remove_root)
        TEST(a_whole_snapshot_comes_back_buffered),
        TEST(a_whole_snapshot_comes_back_fallocate),
        TEST(a_whole_snapshot_comes_back_direct),
        TEST(memory_of_odd_size_without_a_disk_comes_back),
        TEST(every_link_of_a_chain_of_six_comes_back),
        TEST(a_diff_holds_what_was_written_and_no_more),
        TEST(an_idle_guest_costs_what_it_touched),
        TEST(half_a_gigabyte_is_written_by_less_than_64_mib),
        TEST(a_rate_limit_holds_and_progress_is_told),
        TEST(a_rate_limit_that_cannot_be_kept_is_told_and_leaves_nothing_that_loads),
        TEST(without_direct_io_it_says_so),
        TEST(without_reserving_it_says_so),
        TEST(a_killed_writer_leaves_nothing_that_loads),
        TEST(a_store_whose_controller_went_away_ends),
        TEST(a_template_that_ends_is_named),
    };
    if (argc != 2)
        return 2;
    shop_program = argv[1];
    return cmocka_run_group_tests_name("roundtrip", tests, NULL, NULL);
}
