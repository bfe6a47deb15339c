/* engines.c: how long forkd-store takes to write a template, by engine, several in a row and all kept; beside a plain
 * sequential O_DIRECT writer of the same number of bytes in the same run. All are as nice as a store that is waited
 * for: what else runs on the host weighs the same on each. Asserts nothing.
 *
 *   engines FORKD-STORE DIR MIB TIMES [plain direct fallocate buffered load]... */
#include "base/clock.h"
#include "base/own.h"
#include "shop.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

static void die(const char *what)
{
    perror(what);
    exit(1);
}

/* Reserved and written in pieces of 1 MiB, one after the other. */
static uint64_t write_plain(const char *root, unsigned number, const uint8_t *from, uint64_t bytes)
{
    char path[256];
    snprintf(path, sizeof path, "%s/plain-%u", root, number);
    uint64_t began = clock_monotonic_ns();
    own_fd int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_DIRECT | O_CLOEXEC, 0600);
    if (fd < 0 || fallocate(fd, 0, 0, (off_t)bytes) < 0)
        die(path);
    for (uint64_t at = 0; at < bytes; at += 1 << 20)
        if (pwrite(fd, from + at, 1 << 20, (off_t)at) != 1 << 20)
            die(path);
    if (fsync(fd) < 0)
        die(path);
    return clock_monotonic_ns() - began;
}

static uint64_t write_snapshot(struct template *t, const char *root, enum writer_engine engine, unsigned number)
{
    char tag[32];
    struct snapshot_meta meta;
    struct err err = {0};
    snprintf(tag, sizeof tag, "%s-%u", writer_engine_name(engine), number);
    uint64_t began = clock_monotonic_ns();
    if (shop_save(t, &(struct order){.root = root, .tag = tag, .engine = engine, .awaited = true}, &meta, &err) < 0) {
        fprintf(stderr, "%s\n", err.text);
        exit(1);
    }
    return clock_monotonic_ns() - began;
}

static uint64_t load(struct template *t, const char *root, const char *tag)
{
    struct ctl_message image;
    struct err err = {0};
    uint64_t began = clock_monotonic_ns();
    if (shop_restore(root, (const char *const[]){tag, NULL}, NULL, &image, &err) < 0) {
        fprintf(stderr, "%s\n", err.text);
        exit(1);
    }
    ctl_message_close(&image);
    return clock_monotonic_ns() - began;
}

static bool wanted(int argc, char **argv, const char *series)
{
    for (int i = 5; i < argc; i++)
        if (!strcmp(argv[i], series))
            return true;
    return argc == 5;
}

static void print_series(const char *name, unsigned times, uint64_t (*one)(struct template *t, unsigned number),
                         struct template *t)
{
    printf("%s, ms:", name);
    for (unsigned i = 0; i < times; i++) {
        printf(" %.0f", (double)one(t, i) / NS_PER_MS);
        fflush(stdout);
    }
    puts("");
}

static const char *root;
static enum writer_engine engine;

static uint64_t one_plain(struct template *t, unsigned number)
{
    return write_plain(root, number, t->ram, t->mem_bytes);
}

static uint64_t one_snapshot(struct template *t, unsigned number)
{
    return write_snapshot(t, root, engine, number);
}

static uint64_t one_load(struct template *t, unsigned number)
{
    char tag[32];
    snprintf(tag, sizeof tag, "direct-%u", number);
    return load(t, root, tag);
}

int main(int argc, char **argv)
{
    if (argc < 5)
        return 2;
    shop_program = argv[1];
    root = argv[2];
    uint64_t bytes = strtoull(argv[3], NULL, 10) << 20;
    unsigned times = (unsigned)atoi(argv[4]);
    struct template t;
    template_init(&t, bytes, bytes / TEMPLATE_PAGE, false);
    for (uint64_t at = 0; at < bytes; at += TEMPLATE_PAGE)
        (void)*(volatile uint8_t *)(t.ram + at);
    if (setpriority(PRIO_PROCESS, 0, 10) < 0)
        die("nice");
    if (wanted(argc, argv, "plain"))
        print_series("plain O_DIRECT", times, one_plain, &t);
    for (int i = 0; i < WRITER_ENGINES; i++) {
        engine = (enum writer_engine)i;
        if (wanted(argc, argv, writer_engine_name(engine)))
            print_series(writer_engine_name(engine), times, one_snapshot, &t);
    }
    if (wanted(argc, argv, "load"))
        print_series("load", times, one_load, &t);
    template_destroy(&t);
    return 0;
}
