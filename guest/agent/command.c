/* command.c: see command.h. */
#include "command.h"

#include "base/clock.h"
#include "base/own.h"
#include "launch.h"
#include "sink.h"
#include "strv.h"

#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/wait.h>

#define KILL_WAIT_NS (5 * NS_PER_SEC)

enum { READ_SIZE = AGENT_DATA_MAX };

static void assert_command_state(const struct command *c)
{
    if (c->state == COMMAND_IDLE && (c->in_fd >= 0 || c->out_fd[0] >= 0 || c->out_fd[1] >= 0))
        abort();
}

static void command_close_input(struct command *c)
{
    loop_remove(&c->agent->loop, &c->in_source);
    fd_close(&c->in_fd);
    buf_free(&c->input);
    if (c->state == COMMAND_RUNNING && c->input_taken)
        c->input_taken(c);
}

static void command_close_output(struct command *c, int i, bool writers_left)
{
    loop_remove(&c->agent->loop, &c->out_source[i]);
    if (writers_left && c->out_fd[i] >= 0)
        sink_adopt(c->agent, steal_fd(&c->out_fd[i]));
    fd_close(&c->out_fd[i]);
}

static void command_took(struct command *c, int i, const uint8_t *bytes, size_t len)
{
    uint64_t left = c->total[i] < c->limit ? c->limit - c->total[i] : 0;
    c->total[i] += len;
    if (left && c->output)
        c->output(c, i == 1, bytes, len < left ? len : (size_t)left);
}

/* Reads at most `most` bytes; false when nothing more will come. */
static bool command_read(struct command *c, int i, size_t most)
{
    static uint8_t bytes[READ_SIZE];
    ssize_t n = read(c->out_fd[i], bytes, most < sizeof bytes ? most : sizeof bytes);
    if (n > 0)
        command_took(c, i, bytes, (size_t)n);
    return n > 0 || (n < 0 && (errno == EAGAIN || errno == EINTR));
}

static void command_output_ready(struct command *c, int i)
{
    if (!command_read(c, i, READ_SIZE))
        command_close_output(c, i, false);
}

static void command_stdout_ready(struct loop_source *source, uint32_t events)
{
    command_output_ready(list_entry(source, struct command, out_source[0]), 0);
}

static void command_stderr_ready(struct loop_source *source, uint32_t events)
{
    command_output_ready(list_entry(source, struct command, out_source[1]), 1);
}

/* What stood in the pipe when the leader ended is its output. FIONREAD bounds it: a child left behind that
 * writes without end is not read to its end. */
static void command_drain(struct command *c, int i)
{
    int left = 0;
    if (c->out_fd[i] < 0 || ioctl(c->out_fd[i], FIONREAD, &left) < 0)
        return;
    while (left > 0) {
        uint64_t before = c->total[i];
        if (!command_read(c, i, (size_t)left) || c->total[i] == before)
            return;
        left -= (int)(c->total[i] - before);
    }
}

static struct agent_exit command_outcome(const struct command *c, int status, char *reason, size_t cap)
{
    struct agent_exit exit = {.kind = AGENT_EXITED, .code = WEXITSTATUS(status)};
    reason[0] = 0;
    if (c->timed_out) {
        exit.kind = AGENT_TIMED_OUT;
        exit.code = 124;
        snprintf(reason, cap, "the time limit was reached and the command was killed");
    } else if (WIFSIGNALED(status)) {
        exit.kind = AGENT_SIGNALLED;
        exit.code = -WTERMSIG(status);
        snprintf(reason, cap, "killed by signal %d (%s)", WTERMSIG(status), child_signal_name(WTERMSIG(status)));
    }
    exit.reason = agent_text_of(reason);
    exit.stdout_total = c->total[0];
    exit.stderr_total = c->total[1];
    exit.stdout_cut = c->total[0] > c->limit;
    exit.stderr_cut = c->total[1] > c->limit;
    return exit;
}

static void command_over(struct command *c, int status)
{
    char reason[128];
    loop_timer_clear(&c->timer);
    for (int i = 0; i < 2; i++) {
        command_drain(c, i);
        command_close_output(c, i, true);
    }
    command_close_input(c);
    c->state = COMMAND_IDLE;
    c->agent->command_count--;
    assert_command_state(c);
    struct agent_exit exit = command_outcome(c, status, reason, sizeof reason);
    c->ended(c, &exit);
}

static void command_child_ended(struct child *child, int status)
{
    command_over(list_entry(child, struct command, child), status);
}

static void command_timer_fired(struct loop_timer *timer)
{
    struct command *c = list_entry(timer, struct command, timer);
    if (c->state == COMMAND_RUNNING) {
        c->timed_out = true;
        command_kill(c);
        return;
    }
    /* It does not even die (it waits for a device): the answer does not wait with it, the reaper will. */
    list_remove(&c->child.link);
    c->child.pid = 0;
    command_over(c, SIGKILL);
}

void command_kill(struct command *c)
{
    if (c->state != COMMAND_RUNNING)
        return;
    c->state = COMMAND_KILLED;
    child_kill_tree(c->child.pid, c->mark);
    loop_timer_set(&c->agent->loop, &c->timer, clock_monotonic_ns() + KILL_WAIT_NS);
}

static void command_input_ready(struct loop_source *source, uint32_t events)
{
    struct command *c = list_entry(source, struct command, in_source);
    ssize_t n = c->input.len ? write(c->in_fd, buf_at(&c->input), c->input.len) : 0;
    if (n < 0 && errno != EAGAIN && errno != EINTR) {
        command_close_input(c); /* EPIPE: it does not read its input, as is its right */
        return;
    }
    buf_consume(&c->input, n > 0 ? (size_t)n : 0);
    if (!c->input.len && c->input_ended) {
        command_close_input(c);
        return;
    }
    if (!c->input.len)
        loop_remove(&c->agent->loop, &c->in_source);
    if (c->input_taken)
        c->input_taken(c);
}

/* Watches the pipe while there is something to write or to close. */
static void command_input_arm(struct command *c)
{
    if (c->in_fd >= 0 && c->in_source.fd < 0 && (c->input.len || c->input_ended) &&
        loop_add(&c->agent->loop, &c->in_source, c->in_fd, EPOLLOUT, NULL) < 0)
        command_close_input(c);
}

bool command_input(struct command *c, const uint8_t *bytes, size_t len)
{
    if (c->in_fd < 0 || c->input_ended)
        return true;
    if (!buf_append(&c->input, bytes, len, COMMAND_INPUT_MAX))
        return false;
    command_input_arm(c);
    return true;
}

void command_input_end(struct command *c)
{
    c->input_ended = true;
    command_input_arm(c);
}

void command_pause(struct command *c, bool paused)
{
    if (c->paused == paused)
        return;
    c->paused = paused;
    /* Taken out of the loop, not masked: a hang-up is reported for whatever is in it, again and again. */
    for (int i = 0; i < 2; i++) {
        if (paused)
            loop_remove(&c->agent->loop, &c->out_source[i]);
        else if (c->out_fd[i] >= 0 && loop_add(&c->agent->loop, &c->out_source[i], c->out_fd[i], EPOLLIN, NULL) < 0)
            command_close_output(c, i, false);
    }
}

/* The pipes; ours are non-blocking, all are closed on exec. */
static int command_pipes(struct command *c, const struct command_spec *spec, int theirs[3], struct err *err)
{
    int ends[2];
    if (!spec->input_stream && !spec->input_len) {
        theirs[0] = open("/dev/null", O_RDONLY | O_CLOEXEC);
        if (theirs[0] < 0)
            return err_set(err, errno, "open /dev/null");
    } else {
        if (pipe2(ends, O_CLOEXEC) < 0)
            return err_set(err, errno, "make a pipe");
        theirs[0] = ends[0];
        c->in_fd = ends[1];
        fcntl(c->in_fd, F_SETFL, O_NONBLOCK);
    }
    for (int i = 0; i < 2; i++) {
        if (pipe2(ends, O_CLOEXEC) < 0)
            return err_set(err, errno, "make a pipe");
        c->out_fd[i] = ends[0];
        theirs[1 + i] = ends[1];
        fcntl(c->out_fd[i], F_SETFL, O_NONBLOCK);
    }
    return 0;
}

static int command_watch(struct command *c, struct err *err)
{
    for (int i = 0; i < 2; i++) {
        int rc = loop_add(&c->agent->loop, &c->out_source[i], c->out_fd[i], EPOLLIN, err);
        if (rc < 0)
            return rc;
    }
    return 0;
}

static void command_reset(struct command *c, struct agent *agent, const struct command_spec *spec)
{
    c->agent = agent;
    c->state = COMMAND_IDLE;
    c->child = (struct child){.ended = command_child_ended};
    c->timer = (struct loop_timer){.fn = command_timer_fired};
    c->timed_out = c->paused = false;
    c->limit = spec->output_limit;
    c->in_source = (struct loop_source){.fd = -1, .fn = command_input_ready};
    c->out_source[0] = (struct loop_source){.fd = -1, .fn = command_stdout_ready};
    c->out_source[1] = (struct loop_source){.fd = -1, .fn = command_stderr_ready};
    c->in_fd = c->out_fd[0] = c->out_fd[1] = -1;
    c->total[0] = c->total[1] = 0;
    c->input = (struct buf){0};
    c->input_ended = !spec->input_stream;
    child_mark(agent, "", c->mark);
}

int command_start(struct command *c, struct agent *agent, const struct command_spec *spec, struct err *err)
{
    if (agent->command_count >= AGENT_COMMANDS_MAX)
        return err_say(err, EBUSY, "%u commands are running already", agent->command_count);
    command_reset(c, agent, spec);
    int theirs[3] = {-1, -1, -1};
    pid_t pid;
    own_free char **env = strv_env(spec->env, (struct agent_list){0}, c->mark);
    int rc = env ? command_pipes(c, spec, theirs, err) : err_set(err, ENOMEM, "start %s", spec->argv[0]);
    if (rc == 0 && spec->input_len && !buf_append(&c->input, spec->input, spec->input_len, COMMAND_INPUT_MAX))
        rc = err_set(err, ENOMEM, "keep the input of %s", spec->argv[0]);
    if (rc == 0)
        rc = command_watch(c, err);
    if (rc == 0) {
        struct launch launch = {.argv = spec->argv, .env = env, .cwd = spec->cwd, .fd_count = 3};
        memcpy(launch.fds, theirs, sizeof theirs);
        rc = launch_process(&launch, &pid, err);
    }
    for (int i = 0; i < 3; i++)
        fd_close(&theirs[i]);
    if (rc < 0) {
        command_close_input(c);
        command_close_output(c, 0, false);
        command_close_output(c, 1, false);
        return rc;
    }
    c->state = COMMAND_RUNNING;
    agent->command_count++;
    child_watch(agent, &c->child, pid);
    command_input_arm(c);
    if (spec->timeout_ms)
        loop_timer_set(&agent->loop, &c->timer, clock_monotonic_ns() + spec->timeout_ms * NS_PER_MS);
    return 0;
}

struct agent_exit command_not_started(int rc, const struct err *err)
{
    bool missing = rc == -ENOENT;
    return (struct agent_exit){.kind = missing ? AGENT_NOT_FOUND : AGENT_CANNOT_START,
                               .code = missing ? 127 : 126,
                               .reason = agent_text_of(err->text)};
}
