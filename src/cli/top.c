/* top.c: forkd top: what sandboxes use, as it changes.
 *
 * Processor time is a difference of two answers of the controller, so the first picture comes after one interval. On a
 * terminal pictures replace each other on a screen of their own, until q or a signal; without one, or with --once,
 * there is one. With --json each is a line. */
#include "base/clock.h"
#include "base/own.h"
#include "cli/cli.h"
#include "cli/interrupt.h"
#include "cli/sandbox.h"
#include "cli/table.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <termios.h>
#include <unistd.h>

enum { INTERVAL_SECS = 2, LINES_ABOVE = 3 };

static unsigned interval = INTERVAL_SECS;
static bool once;
static const char *order = "cpu";

static const struct arg flags[] = {
    {"once", '1', ARG_FLAG, &once, NULL, "one picture, then end"},
    {"interval", 'd', ARG_NUMBER, &interval, "N", "seconds from one to the next (2)"},
    {"sort", 's', ARG_TEXT, &order, "cpu|memory|age", "what stands first (cpu)"},
    {0},
};

struct sample {
    json_t *list;
    uint64_t at_ns;
};

struct row {
    const json_t *one;
    double cpu_percent; /* of one CPU; negative: unknown */
    long long own_kib;  /* negative: unknown */
    json_int_t created;
};

static long long number_of(const json_t *one, const char *name)
{
    const json_t *number = json_object_get(one, name);
    return json_is_integer(number) ? json_integer_value(number) : -1;
}

static const json_t *same_before(const json_t *before, const char *id)
{
    size_t i;
    json_t *one;
    json_array_foreach(before, i, one)
    {
        if (!strcmp(json_text(one, "id"), id))
            return one;
    }
    return NULL;
}

static int by_order(const void *a, const void *b)
{
    const struct row *x = a, *y = b;
    if (*order == 'm' && x->own_kib != y->own_kib)
        return x->own_kib < y->own_kib ? 1 : -1;
    if (*order == 'c' && x->cpu_percent != y->cpu_percent)
        return x->cpu_percent < y->cpu_percent ? 1 : -1;
    if (x->created != y->created)
        return x->created < y->created ? -1 : 1;
    return strcmp(json_text(x->one, "id"), json_text(y->one, "id"));
}

/* The caller's; sorted. */
static struct row *rows_make(const struct sample *before, const struct sample *now, size_t *count)
{
    struct row *rows = calloc(json_array_size(now->list) + 1, sizeof *rows);
    size_t i;
    json_t *one;
    *count = 0;
    double passed_ms = (double)(now->at_ns - before->at_ns) / (double)NS_PER_MS;
    json_array_foreach(now->list, i, one)
    {
        const json_t *was = same_before(before->list, json_text(one, "id"));
        long long then = was ? number_of(was, "cpu_ms") : 0, used = number_of(one, "cpu_ms");
        if (rows)
            rows[(*count)++] = (struct row){
                .one = one,
                .cpu_percent = used < 0 || then < 0 || used < then ? -1 : 100.0 * (double)(used - then) / passed_ms,
                .own_kib = number_of(one, "memory_own_kib"),
                .created = json_integer_value(json_object_get(one, "created_at_unix")),
            };
    }
    if (rows)
        qsort(rows, *count, sizeof *rows, by_order);
    return rows;
}

static const char *state_of(const json_t *one)
{
    return *json_text(one, "stalled") ? "stalled" : "running";
}

static void rows_json(const struct row *rows, size_t count)
{
    json_t *list = json_array();
    long long now = (long long)(clock_realtime_ns() / NS_PER_SEC);
    for (size_t i = 0; i < count; i++)
        json_array_append_new(
            list, json_pack("{s:s, s:s, s:I, s:o, s:o, s:s}", "id", json_text(rows[i].one, "id"), "snapshot_tag",
                            json_text(rows[i].one, "snapshot_tag"), "age_secs", (json_int_t)(now - rows[i].created),
                            "cpu_percent", rows[i].cpu_percent < 0 ? json_null() : json_real(rows[i].cpu_percent),
                            "memory_own_kib", rows[i].own_kib < 0 ? json_null() : json_integer(rows[i].own_kib),
                            "state", state_of(rows[i].one)));
    verb_json(list);
    fflush(stdout);
}

static void rows_print(const struct row *rows, size_t count, size_t most)
{
    static const char *const headings[] = {"ID", "SNAPSHOT", ">AGE", ">CPU %", ">OWN MiB", "STATE", NULL};
    double cpu = 0, own = 0;
    for (size_t i = 0; i < count; i++) {
        cpu += rows[i].cpu_percent > 0 ? rows[i].cpu_percent : 0;
        own += rows[i].own_kib > 0 ? (double)rows[i].own_kib / 1024 : 0;
    }
    printf("%zu sandbox%s, %.1f %% of a CPU, %.1f MiB of their own%s\n\n", count, count == 1 ? "" : "es", cpu, own,
           most < count ? "; not all are shown" : "");
    struct table *table = table_new(headings);
    for (size_t i = 0; i < count && i < most; i++) {
        char age[24], percent[24] = "-", mib[24] = "-";
        age_text(rows[i].created, age, sizeof age);
        if (rows[i].cpu_percent >= 0)
            snprintf(percent, sizeof percent, "%.1f", rows[i].cpu_percent);
        if (rows[i].own_kib >= 0)
            snprintf(mib, sizeof mib, "%.1f", (double)rows[i].own_kib / 1024);
        const char *cells[] = {json_text(rows[i].one, "id"), json_text(rows[i].one, "snapshot_tag"), age, percent, mib,
                               state_of(rows[i].one)};
        table_row(table, cells);
    }
    table_print(table);
}

static int sample_take(struct client *client, struct sample *sample, struct err *err)
{
    sample->at_ns = clock_monotonic_ns();
    return client_call_list(client, "GET", "/v1/sandboxes?memory=true", NULL, &sample->list, err);
}

/* The interval passes, or somebody has seen enough: false. */
static bool interval_passes(int signals, bool keys)
{
    struct pollfd fds[] = {{.fd = signals, .events = POLLIN}, {.fd = keys ? STDIN_FILENO : -1, .events = POLLIN}};
    uint64_t end = clock_monotonic_ns() + interval * NS_PER_SEC;
    for (;;) {
        uint64_t now = clock_monotonic_ns();
        int ready = now >= end ? 0 : poll(fds, 2, (int)((end - now) / NS_PER_MS) + 1);
        if (ready == 0)
            return true;
        char key = 0;
        if (fds[0].revents || (fds[1].revents && (read(STDIN_FILENO, &key, 1) != 1 || key == 'q')))
            return false;
    }
}

static size_t lines_of_terminal(void)
{
    struct winsize size;
    return ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_row > LINES_ABOVE + 1
               ? (size_t)size.ws_row - LINES_ABOVE - 1
               : SIZE_MAX;
}

static int watch(struct client *client, int signals, bool json, bool screen, struct err *err)
{
    struct sample before = {0}, now = {0};
    int rc = sample_take(client, &before, err);
    while (rc == 0 && interval_passes(signals, screen) && (rc = sample_take(client, &now, err)) == 0) {
        size_t count;
        own_free struct row *rows = rows_make(&before, &now, &count);
        if (screen)
            fputs("\033[H\033[J", stdout);
        if (json)
            rows_json(rows, count);
        else
            rows_print(rows, count, screen ? lines_of_terminal() : SIZE_MAX);
        fflush(stdout);
        json_decref(before.list);
        before = now;
        if (once)
            break;
    }
    json_decref(before.list);
    return rc;
}

/* Keys one by one and unseen, on a screen of its own, on which a row that is wider is cut and not continued; and back.
 * Only by what gives the screen back does it end: the keys that would stop it do not. */
static void screen_enter(struct termios *was)
{
    struct termios keys;
    tcgetattr(STDIN_FILENO, was);
    keys = *was;
    keys.c_lflag &= ~(tcflag_t)(ICANON | ECHO);
    keys.c_cc[VSUSP] = keys.c_cc[VQUIT] = _POSIX_VDISABLE;
    tcsetattr(STDIN_FILENO, TCSANOW, &keys);
    fputs("\033[?1049h\033[?25l\033[?7l", stdout);
}

static void screen_leave(const struct termios *was)
{
    fputs("\033[?7h\033[?25h\033[?1049l", stdout);
    fflush(stdout);
    tcsetattr(STDIN_FILENO, TCSANOW, was);
}

static int top_run(const struct args *args)
{
    struct err err;
    struct client *client;
    struct termios was;
    if (args->count || !interval || (strcmp(order, "cpu") && strcmp(order, "memory") && strcmp(order, "age")))
        return verb_usage("forkd top takes options only, --interval from 1 and --sort cpu, memory or age");
    bool terminal = isatty(STDOUT_FILENO) && isatty(STDIN_FILENO);
    once |= !terminal && !args->json;
    bool screen = terminal && !once && !args->json;
    if (client_open(args, &client, &err) < 0)
        return verb_fail(&err);
    interrupts_hold();
    client_set_interruptible(client, true);
    own_fd int signals = interrupts_fd();
    if (screen)
        screen_enter(&was);
    int rc = watch(client, signals, args->json, screen, &err);
    if (screen)
        screen_leave(&was);
    client_close(client);
    return rc < 0 && !interrupts_came() ? verb_fail(&err) : 0;
}

const struct verb verb_top = {
    .name = "top",
    .what = "what sandboxes use, as it changes",
    .usage = "[--once] [--interval N] [--sort cpu|memory|age]",
    .about =
        "Shows what sandboxes use: processor time as a share of one CPU, memory that no other process has, and whether "
        "they run or stand still for want of disk space. On a terminal it goes on until q is pressed; elsewhere it "
        "says it once. With --json each picture is a line.",
    .flags = flags,
    .run = top_run,
};
