/* making.c: see making.h. */
#include "cli/making.h"

#include "base/clock.h"
#include "cli/sandbox.h"

#include <stdio.h>
#include <string.h>

/* The end of what is watched must not wait for an answer to how far it is. */
enum { PATIENCE_SECS = 5 };

/* "ws-NAME-state", or that and ".2". */
static bool is_state_of(const char *tag, const char *workspace)
{
    size_t len = strlen(workspace);
    return !strncmp(tag, "ws-", 3) && !strncmp(tag + 3, workspace, len) &&
           (!strcmp(tag + 3 + len, "-state") || !strcmp(tag + 3 + len, "-state.2"));
}

static bool is_it(const struct making *m, const json_t *snapshot)
{
    if (m->tag)
        return !strcmp(json_text(snapshot, "tag"), m->tag);
    if (!*json_text(snapshot, "stage"))
        return false;
    return m->source ? !strcmp(json_text(snapshot, "branched_from"), m->source)
                     : is_state_of(json_text(snapshot, "tag"), m->workspace);
}

/* Its bar is the time that it may take. */
static void show_boot(const struct making *m, struct progress_now *now)
{
    uint64_t secs = (clock_monotonic_ns() - m->began_ns) / NS_PER_SEC;
    snprintf(now->words, sizeof now->words, "booting, at most %u s", m->boot_secs);
    now->percent = m->boot_secs ? (int)(secs < m->boot_secs ? secs * 100 / m->boot_secs : 100) : -1;
}

static void show_stage(const struct making *m, const json_t *snapshot, struct progress_now *now)
{
    const char *stage = json_text(snapshot, "stage");
    const json_t *percent = json_object_get(snapshot, "percent");
    now->percent = json_is_integer(percent) ? (int)json_integer_value(percent) : -1;
    if (!strcmp(stage, "boot"))
        show_boot(m, now);
    else if (!strcmp(stage, "warmup"))
        snprintf(now->words, sizeof now->words, "warming up");
    else if (!strcmp(stage, "freeze"))
        snprintf(now->words, sizeof now->words, "making the template");
    else if (!strcmp(stage, "write"))
        snprintf(now->words, sizeof now->words, "writing, %lld MiB",
                 (long long)json_integer_value(json_object_get(snapshot, "written_bytes")) >> 20);
    else if (!strcmp(stage, "load"))
        snprintf(now->words, sizeof now->words, "loading");
}

/* In the thread of the progress; the client is used nowhere else. */
static void ask(void *owner, struct progress_now *now)
{
    const struct making *m = owner;
    json_t *list, *one;
    size_t i;
    if (!m->client || client_call_list(m->client, "GET", "/v1/snapshots", NULL, &list, NULL) < 0)
        return;
    *now = (struct progress_now){.percent = -1};
    if (m->source)
        snprintf(now->words, sizeof now->words, "reading its memory");
    json_array_foreach(list, i, one) if (is_it(m, one)) show_stage(m, one, now);
    json_decref(list);
}

void making_begin(struct making *m, const struct args *args, const char *what)
{
    if (client_open_running(args, &m->client, NULL) < 0)
        m->client = NULL;
    if (m->client)
        client_set_patience(m->client, PATIENCE_SECS);
    m->began_ns = clock_monotonic_ns();
    m->progress = progress_begin_asking(what, ask, m);
}

void making_end(struct making *m, const char *how)
{
    progress_end(m->progress, how);
    client_close(m->client);
}
