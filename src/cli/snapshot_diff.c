/* snapshot_diff.c: forkd snapshot-diff: one more layer on a snapshot, as a Dockerfile's RUN is one.
 *
 * A sandbox of the snapshot runs the command and becomes a diff to it. Whatever happens, the sandbox is ended. */
#include "cli/cli.h"
#include "cli/interrupt.h"
#include "cli/making.h"
#include "cli/sandbox.h"

#include <errno.h>
#include <stdio.h>

enum { EXEC_SECS = 600 };

static struct {
    const char *from, *tag, *command;
    unsigned timeout;
} options = {.timeout = EXEC_SECS};

static int spawn(struct client *client, char id[64], struct err *err)
{
    json_t *list;
    int rc =
        client_call_list(client, "POST", "/v1/sandboxes", json_pack("{s:s}", "snapshot_tag", options.from), &list, err);
    if (rc < 0)
        return rc;
    snprintf(id, 64, "%s", json_text(json_array_get(list, 0), "id"));
    json_decref(list);
    return 0;
}

/* What the command prints is shown; that it failed is an error. */
static int run_command(struct client *client, const char *id, struct err *err)
{
    json_t *answer, *body = json_pack("{s:[s, s, s], s:i}", "args", "/bin/sh", "-c", options.command, "timeout_secs",
                                      (int)options.timeout);
    struct progress *progress = progress_begin("running the command");
    int rc = sandbox_call(client, id, "exec", body, &answer, err);
    progress_end(progress, rc < 0 ? "failed" : NULL);
    if (rc < 0)
        return rc;
    long long code = json_integer_value(json_object_get(answer, "exit_code"));
    fputs(json_text(answer, "stdout"), stderr);
    fputs(json_text(answer, "stderr"), stderr);
    if (json_is_true(json_object_get(answer, "timed_out")))
        rc = err_say(err, ETIMEDOUT, "the command ran out of time after %u s; no snapshot was made", options.timeout);
    else if (code != 0)
        rc = err_say(err, EIO, "the command ended with status %lld; no snapshot was made", code);
    json_decref(answer);
    return rc;
}

static int branch(const struct args *args, struct client *client, const char *id, json_t **made, struct err *err)
{
    char what[128];
    struct making making = {.source = id};
    snprintf(what, sizeof what, "making snapshot %.64s", options.tag);
    making_begin(&making, args, what);
    json_t *body = json_pack("{s:s, s:s}", "tag", options.tag, "mode", "diff");
    int rc = client_call_named(client, "POST", "/v1/sandboxes/*/branch", id, body, made, err);
    making_end(&making, rc < 0 ? "failed" : NULL);
    return rc;
}

static int make(const struct args *args, struct client *client, json_t **made, struct err *err)
{
    struct err ignored;
    char id[64];
    int rc = spawn(client, id, err);
    if (rc < 0)
        return rc;
    client_set_interruptible(client, true);
    rc = run_command(client, id, err);
    if (rc == 0)
        rc = branch(args, client, id, made, err);
    client_set_interruptible(client, false);
    sandbox_delete(client, id, &ignored);
    return rc;
}

static int diff_run(const struct args *args)
{
    struct err err;
    struct client *client;
    json_t *made = NULL;
    if (!options.from || !options.tag || !options.command || args->count)
        return verb_usage("forkd snapshot-diff needs --from TAG, --tag TAG and --exec COMMAND");
    if (client_open(args, &client, &err) < 0)
        return verb_fail(&err);
    interrupts_hold();
    int rc = make(args, client, &made, &err);
    client_close(client);
    interrupts_release(0);
    if (rc < 0)
        return verb_fail(&err);
    if (args->json)
        return verb_json(made);
    printf("snapshot %s is %s and what the command changed; fork it with: forkd spawn --tag %s\n", options.tag,
           options.from, options.tag);
    json_decref(made);
    return 0;
}

static const struct arg flags[] = {
    {"from", 0, ARG_TEXT, &options.from, "TAG", "the snapshot to begin with"},
    {"tag", 't', ARG_TEXT, &options.tag, "TAG", "the new one's name"},
    {"exec", 0, ARG_TEXT, &options.command, "COMMAND", "run by the shell of a sandbox; it must succeed"},
    {"exec-timeout-secs", 0, ARG_NUMBER, &options.timeout, "N", "how long it may take (600)"},
    {0},
};

const struct verb verb_snapshot_diff = {
    .name = "snapshot-diff",
    .what = "a snapshot and what a command changes in it, as another",
    .usage = "--from TAG --tag TAG --exec COMMAND [--exec-timeout-secs N] [--json]",
    .about = "Forks a sandbox, runs a command in it, makes it a snapshot of which only what differs is written, and "
             "ends it.",
    .flags = flags,
    .run = diff_run,
};
