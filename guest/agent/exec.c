/* exec.c: EXEC: a command whose output is relayed as it comes.
 *
 * The command waits when the host reads slowly. When the host hangs up, or a fork has reset the connection, the
 * command goes on under its time limit and its output is dropped; its input ends there. */
#include "base/own.h"
#include "command.h"
#include "serve.h"
#include "strv.h"

#include <string.h>

enum { INPUT_FULL = 128 << 10 };

struct exec {
    struct command command;
    struct conn_job job;
    struct conn *conn; /* NULL once the host has hung up */
};

static void exec_answer(struct conn *conn, const struct agent_exit *exit)
{
    struct pack p = conn_pack(conn, ERR_TEXT_MAX + 128);
    agent_pack_exit(&p, exit);
    conn_packed(conn, &p);
    conn_finish(conn);
}

static void exec_send(struct conn *conn, enum agent_type type, const void *bytes, size_t len)
{
    struct pack p = conn_pack(conn, len + AGENT_FRAME_HEAD);
    agent_pack_data(&p, type, bytes, len);
    conn_packed(conn, &p);
}

static void exec_output(struct command *command, bool is_stderr, const uint8_t *bytes, size_t len)
{
    struct exec *exec = list_entry(command, struct exec, command);
    if (!exec->conn)
        return;
    exec_send(exec->conn, is_stderr ? AGENT_STDERR : AGENT_STDOUT, bytes, len);
    if (conn_is_full(exec->conn))
        command_pause(command, true);
}

static void exec_ended(struct command *command, const struct agent_exit *exit)
{
    struct exec *exec = list_entry(command, struct exec, command);
    if (exec->conn)
        exec_answer(exec->conn, exit);
    free(exec);
}

static bool exec_frame(struct conn_job *job, const struct agent_frame *frame)
{
    struct exec *exec = list_entry(job, struct exec, job);
    if (frame->type != AGENT_STDIN)
        return false;
    if (!frame->len)
        command_input_end(&exec->command);
    else if (!command_input(&exec->command, frame->body, frame->len))
        return false;
    if (command_input_queued(&exec->command) > INPUT_FULL)
        conn_pause_input(exec->conn, true);
    return true;
}

static void exec_input_taken(struct command *command)
{
    struct exec *exec = list_entry(command, struct exec, command);
    if (exec->conn && command_input_queued(command) <= INPUT_FULL)
        conn_pause_input(exec->conn, false);
}

static void exec_input_ended(struct conn_job *job)
{
    command_input_end(&list_entry(job, struct exec, job)->command);
}

static void exec_drained(struct conn_job *job)
{
    command_pause(&list_entry(job, struct exec, job)->command, false);
}

static void exec_gone(struct conn_job *job)
{
    struct exec *exec = list_entry(job, struct exec, job);
    exec->conn = NULL;
    command_input_end(&exec->command);
    command_pause(&exec->command, false);
}

static int exec_start(struct exec *exec, struct agent *agent, const struct agent_exec *request, struct err *err)
{
    own_free char **argv = strv_from_list(request->argv);
    own_free char **env = strv_env(agent->env, request->env, NULL);
    own_free char *cwd = strndup(request->cwd.len ? request->cwd.at : "/", request->cwd.len ? request->cwd.len : 1);
    if (!argv || !env || !cwd)
        return err_set(err, ENOMEM, "start a command");
    struct command_spec spec = {.argv = argv,
                                .env = env,
                                .cwd = cwd,
                                .timeout_ms = request->timeout_ms,
                                .output_limit = request->output_limit,
                                .input = request->stdin_.at,
                                .input_len = request->stdin_.len,
                                .input_stream = request->stdin_stream};
    return command_start(&exec->command, agent, &spec, err);
}

void exec_serve(struct conn *conn, const struct agent_exec *request)
{
    struct err err = {0};
    struct exec *exec = calloc(1, sizeof *exec);
    if (!exec) {
        conn_refuse(conn, AGENT_BUSY, "no memory to start a command");
        return;
    }
    exec->conn = conn;
    exec->command.output = exec_output;
    exec->command.ended = exec_ended;
    exec->command.input_taken = exec_input_taken;
    exec->job = (struct conn_job){exec_frame, exec_input_ended, exec_drained, exec_gone};
    int rc = exec_start(exec, conn->agent, request, &err);
    if (rc == 0) {
        conn_serve(conn, &exec->job);
        return;
    }
    free(exec);
    if (rc == -EBUSY || rc == -EMFILE || rc == -ENFILE || rc == -ENOMEM || rc == -EAGAIN) {
        conn_refuse(conn, AGENT_BUSY, "%s", err.text);
        return;
    }
    struct agent_exit exit = command_not_started(rc, &err);
    char line[ERR_TEXT_MAX + 1];
    exec_send(conn, AGENT_STDERR, line, (size_t)snprintf(line, sizeof line, "%s\n", err.text));
    exec_answer(conn, &exit);
}
