/* shop.c: see shop.h. */
#include "shop.h"

#include "base/clock.h"
#include "base/own.h"
#include "mem/image.h"
#include "snap/machine_state.h"
#include "snap/state_file.h"

#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include <cmocka.h>

enum { PATIENCE_SECS = 120 };

const char *shop_program;

static pid_t start(int *sock, const char *without)
{
    int pair[2];
    assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair), 0);
    pid_t pid = fork();
    if (pid == 0) {
        char number[16];
        snprintf(number, sizeof number, "%d", pair[1]);
        fcntl(pair[1], F_SETFD, 0);
        if (without)
            setenv("FORKD_STORE_WITHOUT", without, 1);
        setenv("FORKD_SECCOMP_EXPLAIN", "1", 1);
        execl(shop_program, shop_program, "--ctl", number, NULL);
        _exit(127);
    }
    assert_true(pid > 0);
    close(pair[1]);
    *sock = pair[0];
    return pid;
}

/* The next answer that is no progress event. */
static int await(int sock, struct ctl_message *m, unsigned *events, struct err *err)
{
    uint64_t until = clock_monotonic_ns() + PATIENCE_SECS * NS_PER_SEC;
    int rc;
    while ((rc = ctl_recv_until(sock, m, until, err)) > 0 && m->type == CTL_PROGRESS)
        if (events)
            ++*events;
    if (rc == 0)
        return err_say(err, EPIPE, "the store ended without an answer");
    if (rc > 0 && m->type == CTL_FAILED)
        return err_say(err, (int)m->failed.code, "%s", m->failed.text);
    return rc < 0 ? rc : 0;
}

static int open_dir(const char *root, const char *tag, bool make)
{
    char path[256];
    snprintf(path, sizeof path, "%s/%s", root, tag);
    if (make)
        mkdir(path, 0700);
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    assert_true(fd >= 0);
    return fd;
}

void shop_begin_save(struct template *t, const struct order *order, struct save_under_way *save)
{
    struct ctl_message m;
    struct snapshot_meta meta;
    struct err err = {0};
    own_fd int dir = open_dir(order->root, order->tag, true);
    own_fd int origin = order->origin ? open_dir(order->root, order->origin, false) : -1;
    template_export(t, &save->export);
    ctl_message_init(&m, CTL_SAVE, 5);
    template_describe(t, order->tag, &meta);
    assert_true(snapshot_meta_encode(&meta, m.save.meta, sizeof m.save.meta, &err) > 0);
    m.save.ram = (uint64_t)(uintptr_t)t->ram;
    m.save.state_bytes = save->export.state_bytes;
    m.save.birth_layers = t->birth_layers;
    m.save.awaited = order->awaited;
    m.save.engine = (uint8_t)order->engine;
    m.save.bytes_per_second = order->bytes_per_second;
    m.fd[CTL_FD_DIR] = dir;
    m.fd[CTL_FD_ORIGIN] = origin;
    m.fd[CTL_FD_MEMORY] = t->image_fd;
    m.fd[CTL_FD_STATE] = save->export.state;
    m.fd[CTL_FD_OWN_MEMORY] = order->own_memory ? order->own_memory : save->export.own_memory;
    m.fd[CTL_FD_PAGES] = save->export.pages;
    m.fd[CTL_FD_DIFF] = save->export.diff;
    m.fd[CTL_FD_BASE] = t->base_fd;
    m.extra_count = save->export.layer_count;
    memcpy(m.extra, save->export.layer, sizeof *m.extra * m.extra_count);
    save->pid = start(&save->sock, order->without);
    if (ctl_send(save->sock, &m, &err) < 0)
        fail_msg("%s", err.text);
}

int shop_end_save(struct save_under_way *save, struct snapshot_meta *meta, struct rusage *usage, unsigned *events,
                  struct err *err)
{
    struct ctl_message m;
    int status, rc = await(save->sock, &m, events, err);
    wait4(save->pid, &status, 0, usage);
    close(save->sock);
    export_close(&save->export);
    return rc < 0 ? rc : snapshot_meta_decode(meta, m.saved.meta, strlen(m.saved.meta), err);
}

int shop_save(struct template *t, const struct order *order, struct snapshot_meta *meta, struct err *err)
{
    struct save_under_way save;
    shop_begin_save(t, order, &save);
    return shop_end_save(&save, meta, NULL, NULL, err);
}

int shop_restore(const char *root, const char *const *tags, const char *base_path, struct ctl_message *image,
                 struct err *err)
{
    struct ctl_message m;
    int sock, status;
    ctl_message_init(&m, CTL_RESTORE, 6);
    for (; *tags; tags++) {
        char path[256];
        snprintf(path, sizeof path, "%s/%s", root, *tags);
        m.extra[m.extra_count] = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        assert_true(m.extra[m.extra_count++] >= 0);
    }
    m.fd[CTL_FD_BASE] = base_path && *base_path ? open(base_path, O_RDONLY | O_CLOEXEC) : -1;
    pid_t pid = start(&sock, NULL);
    assert_int_equal(ctl_send(sock, &m, NULL), 0);
    ctl_message_close(&m);
    int rc = await(sock, image, NULL, err);
    waitpid(pid, &status, 0);
    close(sock);
    return rc;
}

static void assert_image_memory(const struct template *t, const struct ctl_message *m)
{
    struct image image = {.size = m->image.mem_bytes, .zero_count = m->image.zero_count};
    void *ram;
    for (unsigned i = 0; i < image.zero_count; i++)
        image.zero[i] = (struct image_range){m->image.zero[i].offset, m->image.zero[i].len};
    assert_int_equal(image.size, t->mem_bytes);
    assert_int_equal(image_check(m->fd[CTL_FD_MEMORY], &image, NULL), 0);
    assert_int_equal(image_map(m->fd[CTL_FD_MEMORY], &image, &ram, NULL), 0);
    for (uint64_t at = 0; at < image.size; at += TEMPLATE_PAGE)
        if (memcmp((uint8_t *)ram + at, t->ram + at, TEMPLATE_PAGE))
            fail_msg("page %llu is another", (unsigned long long)(at / TEMPLATE_PAGE));
    munmap(ram, image.size);
}

static void assert_disk_equal(struct template *t, struct ctl_message *m, struct disk *disk)
{
    struct err err = {0};
    uint8_t block[TEMPLATE_PAGE];
    const struct iovec iov = {block, sizeof block};
    assert_int_equal(disk_open_base(disk, open(t->base_path, O_RDONLY | O_CLOEXEC), &err), 0);
    for (unsigned i = 0; i < m->extra_count; i++)
        if (disk_open_frozen(disk, dup(m->extra[i]), &err) < 0)
            fail_msg("%s", err.text);
    /* A private layer can be opened when all frozen ones are there. */
    assert_int_equal(disk_open_private(disk, memfd_create("layer", MFD_CLOEXEC), &err), 0);
    for (uint64_t i = 0; i < TEMPLATE_DISK_BLOCKS; i++) {
        assert_int_equal(disk_read(disk, &iov, 1, i * TEMPLATE_PAGE), 0);
        if (memcmp(block, t->disk + i * TEMPLATE_PAGE, TEMPLATE_PAGE))
            fail_msg("block %llu is another", (unsigned long long)i);
    }
}

/* All sections but the disk's, byte for byte. */
static void assert_sections_equal(struct template *t, const uint8_t *state, size_t len)
{
    size_t cap = machine_state_bound(t->machine);
    own_free uint8_t *now = malloc(cap);
    struct state_reader a, b;
    int64_t now_len = machine_state_write(t->machine, now, cap, NULL);
    assert_int_equal(state_reader_init(&a, now, (size_t)now_len, NULL), 0);
    assert_int_equal(state_reader_init(&b, state, len, NULL), 0);
    assert_int_equal(a.count, b.count);
    for (unsigned i = 0; i < a.count; i++) {
        struct unpack u;
        const struct state_entry *e = &a.entry[i];
        assert_int_equal(state_reader_section(&b, (enum state_section)e->type, e->instance, e->version, &u, NULL), 0);
        if (e->type == STATE_DISK)
            continue;
        assert_int_equal(u.len, e->length);
        assert_memory_equal(u.buf, now + e->offset, u.len);
    }
}

void assert_image_equal(struct template *t, struct ctl_message *m)
{
    struct err err = {0};
    struct machine_config config;
    own_free uint8_t *state = malloc(m->image.state_bytes);
    assert_int_equal(pread(m->fd[CTL_FD_STATE], state, m->image.state_bytes, 0), m->image.state_bytes);
    assert_image_memory(t, m);
    assert_sections_equal(t, state, m->image.state_bytes);
    assert_int_equal(machine_state_config(state, m->image.state_bytes, &config, &err), 0);
    if (t->disk) {
        struct disk disk;
        struct state_reader reader;
        struct unpack u;
        assert_int_equal(disk_init(&disk, config.disk_bytes, &err), 0);
        assert_int_equal(state_reader_init(&reader, state, m->image.state_bytes, &err), 0);
        assert_int_equal(state_reader_section(&reader, STATE_DISK, 0, 1, &u, &err), 0);
        assert_int_equal(disk_load(&disk, &u, &err), 0);
        assert_int_equal(disk.layers, m->extra_count);
        assert_disk_equal(t, m, &disk);
        disk_destroy(&disk);
    }
    ctl_message_close(m);
}
