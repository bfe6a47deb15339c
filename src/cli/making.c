/* making.c: see making.h. */
#include "cli/making.h"

#include "cli/sandbox.h"

#include <stdio.h>
#include <string.h>

static bool is_it(const struct making *m, const json_t *snapshot)
{
    return m->tag ? !strcmp(json_text(snapshot, "tag"), m->tag)
                  : !strcmp(json_text(snapshot, "branched_from"), m->source) &&
                        !strcmp(json_text(snapshot, "status"), "writing");
}

/* In the thread of the progress; the client is used nowhere else. */
static void ask(void *owner, char *now, size_t cap)
{
    const struct making *m = owner;
    json_t *list, *one;
    size_t i;
    if (!m->client || client_call(m->client, "GET", "/v1/snapshots", NULL, &list, NULL) < 0)
        return;
    snprintf(now, cap, "%s", m->tag ? "booting" : "reading its memory");
    json_array_foreach(list, i, one)
    {
        const json_t *written = json_object_get(one, "written_bytes");
        if (is_it(m, one) && written)
            snprintf(now, cap, "writing, %lld MiB", (long long)json_integer_value(written) >> 20);
    }
    json_decref(list);
}

void making_begin(struct making *m, const struct args *args, const char *what)
{
    if (client_open_running(args, &m->client, NULL) < 0)
        m->client = NULL;
    m->progress = progress_begin_asking(what, ask, m);
}

void making_end(struct making *m, const char *how)
{
    progress_end(m->progress, how);
    client_close(m->client);
}
