/* sandbox.c: see sandbox.h. */
#include "cli/sandbox.h"

#include "base/clock.h"
#include "cli/cli.h"
#include "cli/table.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

enum { STATUS_MAX = 255 };

const char *json_text(const json_t *object, const char *name)
{
    const char *text = json_string_value(json_object_get(object, name));
    return text ? text : "";
}

void age_text(json_int_t created_at_unix, char *text, size_t cap)
{
    long long age = (long long)(clock_realtime_ns() / NS_PER_SEC) - created_at_unix;
    if (age < 120)
        snprintf(text, cap, "%lld s", age < 0 ? 0 : age);
    else if (age < 2 * 3600)
        snprintf(text, cap, "%lld min", age / 60);
    else if (age < 48 * 3600)
        snprintf(text, cap, "%lld h", age / 3600);
    else
        snprintf(text, cap, "%lld d", age / 86400);
}

void sandboxes_print(const json_t *list)
{
    static const char *const headings[] = {"ID", "SNAPSHOT", ">PID", ">LIMIT MiB", ">AGE", NULL};
    struct table *table = table_new(headings);
    size_t i;
    json_t *one;
    json_array_foreach(list, i, one)
    {
        char pid[24] = "-", limit[24] = "-", age[24];
        json_t *mib = json_object_get(one, "memory_limit_mib"), *process = json_object_get(one, "pid");
        if (json_is_integer(process))
            snprintf(pid, sizeof pid, "%lld", (long long)json_integer_value(process));
        if (json_is_integer(mib))
            snprintf(limit, sizeof limit, "%lld", (long long)json_integer_value(mib));
        age_text(json_integer_value(json_object_get(one, "created_at_unix")), age, sizeof age);
        const char *cells[] = {json_text(one, "id"), json_text(one, "snapshot_tag"), pid, limit, age};
        table_row(table, cells);
    }
    table_print(table);
}

int sandbox_delete(struct client *client, const char *id, struct err *err)
{
    return client_call_named(client, "DELETE", "/v1/sandboxes/*", id, NULL, NULL, err);
}

/* What is executed or evaluated ends with a code; an answer without one is of somebody else. */
int sandbox_call(struct client *client, const char *id, const char *what, json_t *body, json_t **answer,
                 struct err *err)
{
    char path[64];
    snprintf(path, sizeof path, "/v1/sandboxes/*/%s", what);
    int rc = client_call_named(client, "POST", path, id, body, answer, err);
    if (rc < 0 || json_is_integer(json_object_get(*answer, "exit_code")))
        return rc;
    json_decref(*answer);
    *answer = NULL;
    return err_say(err, EPROTO, "the answer of the controller has no exit code");
}

int sandbox_ask(const struct args *args, const char *what, json_t *body, json_t **answer)
{
    struct err err;
    struct client *client;
    if (client_open(args, &client, &err) < 0) {
        json_decref(body);
        return verb_fail(&err);
    }
    int rc = sandbox_call(client, args->rest[0], what, body, answer, &err);
    client_close(client);
    return rc < 0 ? verb_fail(&err) : 0;
}

int sandbox_exit_status(const json_t *answer)
{
    long long code = json_integer_value(json_object_get(answer, "exit_code"));
    long long status = code < 0 && code > -STATUS_MAX ? 128 - code : code;
    return status >= 0 && status <= STATUS_MAX ? (int)status : STATUS_MAX;
}
