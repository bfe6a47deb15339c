/* warm.c: see warm.h. */
#include "warm.h"

#include "base/clock.h"
#include "base/own.h"
#include "child.h"
#include "launch.h"
#include "strv.h"
#include "tail.h"

#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/wait.h>

#define START_WAIT_NS     (120 * NS_PER_SEC)
#define INTERRUPT_WAIT_NS (3 * NS_PER_SEC)
#define INTERRUPT_AGAIN   (250 * NS_PER_MS)
#define RESEED_WAIT_NS    (30 * NS_PER_SEC)

enum {
    RESEED_SIGNAL = 60, /* a real-time signal nobody else uses; forkd-warm.py knows it */
    CONTROL_MAX = 64 << 10,
    HELPER_FRAME_MAX = AGENT_FRAME_MAX + 4,
    READ_SIZE = 64 << 10,
    REPEAT_WAIT_MS = 120000,
};

enum warm_state { WARM_NONE, WARM_STARTING, WARM_IDLE, WARM_BUSY, WARM_INTERRUPTED, WARM_KILLED };

struct warm {
    struct agent *agent;
    struct warm_options options;
    enum warm_state state;

    struct child child;
    char mark[CHILD_MARK_MAX];
    int work_fd, control_fd, out_fd[2];
    struct loop_source work_source, control_source, out_source[2];
    struct buf from, to;
    struct buf printed[2];
    bool cut[2];
    struct tail tail; /* of its standard error */

    struct list jobs;
    unsigned job_count;
    struct warm_job *current;
    struct loop_timer timer; /* of the start, of the job, of the interrupt */
    struct loop_timer kick;  /* something may be done, from the loop itself */
    uint64_t interrupt_end_ns;
    bool timed_out; /* the present job */
    bool broke;     /* it said what no helper says */
    bool came_up;   /* the present helper has said its first PONG */

    bool ready;
    char numpy_version[64];
    struct buf last_warm;   /* the last WARM that succeeded */
    struct warm_job repeat; /* it, for a helper that was started again */
    bool repeat_due;

    struct loop_timer reseed_timer;
    void (*reseed_done)(void *arg, const struct err *err);
    void *reseed_arg;
};

static void assert_warm_state(const struct warm *w)
{
    bool lives = w->state != WARM_NONE;
    if ((w->child.pid != 0) != lives || (w->current && w->state < WARM_BUSY) ||
        (!w->current && (w->state == WARM_BUSY || w->state == WARM_INTERRUPTED)))
        abort();
}

static void warm_kick(struct warm *w)
{
    loop_timer_set(&w->agent->loop, &w->kick, clock_monotonic_ns());
}

static void warm_kill(struct warm *w)
{
    if (w->state == WARM_NONE || w->state == WARM_KILLED)
        return;
    w->state = WARM_KILLED;
    loop_timer_clear(&w->timer);
    child_kill_tree(w->child.pid, w->mark);
}

static void warm_answer(struct warm *w, struct warm_answer *answer)
{
    struct warm_job *job = w->current;
    w->current = NULL;
    loop_timer_clear(&w->timer);
    answer->timed_out = w->timed_out;
    for (int i = 0; i < 2; i++) {
        answer->out[i] = agent_blob_of(buf_at(&w->printed[i]), w->printed[i].len);
        answer->cut[i] = w->cut[i];
    }
    job->answered(job, answer);
    warm_kick(w);
}

/* What it printed: kept while a job runs, dropped otherwise. */
static bool warm_print(struct warm *w, int i, size_t most)
{
    static uint8_t bytes[READ_SIZE];
    ssize_t n = read(w->out_fd[i], bytes, most < sizeof bytes ? most : sizeof bytes);
    if (n <= 0)
        return n < 0 && (errno == EAGAIN || errno == EINTR);
    if (i == 1)
        tail_take(&w->tail, bytes, (size_t)n);
    size_t left = AGENT_EVAL_TEXT_MAX - w->printed[i].len, keep = (size_t)n < left ? (size_t)n : left;
    if (w->current) {
        w->cut[i] = w->cut[i] || keep < (size_t)n;
        buf_append(&w->printed[i], bytes, keep, AGENT_EVAL_TEXT_MAX);
    }
    return true;
}

static void warm_printed(struct warm *w, int i)
{
    if (!warm_print(w, i, READ_SIZE)) {
        loop_remove(&w->agent->loop, &w->out_source[i]); /* it closed its end */
        fd_close(&w->out_fd[i]);
    }
}

static void warm_stdout_ready(struct loop_source *source, uint32_t events)
{
    warm_printed(list_entry(source, struct warm, out_source[0]), 0);
}

static void warm_stderr_ready(struct loop_source *source, uint32_t events)
{
    warm_printed(list_entry(source, struct warm, out_source[1]), 1);
}

/* All that was printed before the answer was given stands in the pipes by now. */
static void warm_drain(struct warm *w)
{
    for (int i = 0; i < 2; i++) {
        int left = 0;
        if (w->out_fd[i] < 0 || ioctl(w->out_fd[i], FIONREAD, &left) < 0)
            continue;
        for (; left > 0; left -= READ_SIZE)
            if (!warm_print(w, i, (size_t)left))
                break;
    }
}

static void warm_forget_printed(struct warm *w)
{
    for (int i = 0; i < 2; i++) {
        buf_consume(&w->printed[i], w->printed[i].len);
        w->cut[i] = false;
    }
}

static bool warm_took_pong(struct warm *w, const struct agent_frame *frame)
{
    struct agent_pong m;
    if (agent_unpack_pong(frame, &m, NULL) < 0 || m.numpy_version.len >= sizeof w->numpy_version)
        return false;
    w->numpy_version[0] = 0;
    if (m.numpy_version.len)
        memcpy(w->numpy_version, m.numpy_version.at, m.numpy_version.len);
    w->numpy_version[m.numpy_version.len] = 0;
    if (w->state == WARM_STARTING) {
        w->came_up = true;
        w->state = WARM_IDLE;
        loop_timer_clear(&w->timer);
        warm_kick(w);
    }
    return true;
}

static enum agent_type answer_type(const struct warm_job *job)
{
    switch (buf_at(&job->request)[AGENT_FRAME_HEAD - 1]) {
    case AGENT_EVAL:
        return AGENT_EVALUATED;
    case AGENT_WARM:
        return AGENT_WARMED;
    default:
        return AGENT_SETTLED;
    }
}

static bool answer_is_sound(const struct agent_frame *frame)
{
    struct agent_evaluated evaluated;
    struct agent_outcome warmed;
    switch (frame->type) {
    case AGENT_EVALUATED:
        return agent_unpack_evaluated(frame, &evaluated, NULL) == 0;
    case AGENT_WARMED:
        return agent_unpack_outcome(frame, AGENT_WARMED, &warmed, NULL) == 0;
    default:
        return agent_unpack_empty(frame, AGENT_SETTLED, NULL) == 0;
    }
}

static void warm_note_success(struct warm *w, const struct warm_job *job, const struct agent_frame *frame)
{
    struct agent_outcome m;
    if (frame->type != AGENT_WARMED || agent_unpack_outcome(frame, AGENT_WARMED, &m, NULL) < 0 || !m.ok)
        return;
    w->ready = true;
    if (job == &w->repeat)
        return;
    buf_free(&w->last_warm);
    buf_append(&w->last_warm, buf_at(&job->request), job->request.len, HELPER_FRAME_MAX);
}

static bool warm_took_answer(struct warm *w, const struct agent_frame *frame)
{
    if (!w->current || w->state == WARM_KILLED || frame->type != answer_type(w->current) || !answer_is_sound(frame))
        return false;
    struct warm_answer answer = {.frame = frame};
    w->state = WARM_IDLE;
    warm_drain(w);
    warm_note_success(w, w->current, frame);
    warm_answer(w, &answer);
    return true;
}

static bool warm_took(struct warm *w)
{
    struct agent_frame frame;
    ssize_t size;
    while ((size = agent_frame_parse(buf_at(&w->from), w->from.len, &frame, NULL, NULL)) > 0) {
        if (!(frame.type == AGENT_PONG ? warm_took_pong(w, &frame) : warm_took_answer(w, &frame)))
            return false;
        buf_consume(&w->from, (size_t)size);
    }
    return size == 0;
}

/* Reads what it says; false at the end of it, or when it is not what a helper says. */
static bool warm_read(struct warm *w)
{
    uint8_t *at = buf_room(&w->from, READ_SIZE, HELPER_FRAME_MAX + READ_SIZE);
    ssize_t n = at ? recv(w->work_fd, at, READ_SIZE, MSG_DONTWAIT) : 0;
    if (n < 0)
        return errno == EAGAIN || errno == EINTR;
    buf_grown(&w->from, (size_t)n);
    w->broke = n > 0 && !warm_took(w);
    return n > 0 && !w->broke;
}

static bool warm_write(struct warm *w)
{
    ssize_t n = w->to.len ? send(w->work_fd, buf_at(&w->to), w->to.len, MSG_NOSIGNAL | MSG_DONTWAIT) : 0;
    if (n < 0)
        return errno == EAGAIN || errno == EINTR;
    buf_consume(&w->to, (size_t)n);
    if (!w->to.len)
        loop_change(&w->agent->loop, &w->work_source, EPOLLIN, NULL);
    return true;
}

static void warm_work_ready(struct loop_source *source, uint32_t events)
{
    struct warm *w = list_entry(source, struct warm, work_source);
    bool good = true;
    if (events & (EPOLLIN | EPOLLHUP | EPOLLERR))
        good = warm_read(w);
    if (good && events & EPOLLOUT)
        good = warm_write(w);
    if (good)
        return;
    /* It has ended, or must: how is told by its status. What it has started may go on, as after any end. */
    loop_remove(&w->agent->loop, &w->work_source);
    w->state = WARM_KILLED;
    loop_timer_clear(&w->timer);
    kill(w->child.pid, SIGKILL);
}

static void warm_reseed_over(struct warm *w, const struct err *err)
{
    void (*done)(void *, const struct err *) = w->reseed_done;
    w->reseed_done = NULL;
    loop_timer_clear(&w->reseed_timer);
    if (done)
        done(w->reseed_arg, err);
}

static void warm_control_ready(struct loop_source *source, uint32_t events)
{
    struct warm *w = list_entry(source, struct warm, control_source);
    uint8_t bytes[AGENT_REASON_MAX + 64];
    struct agent_frame frame;
    struct agent_outcome m;
    ssize_t n = recv(w->control_fd, bytes, sizeof bytes, MSG_DONTWAIT);
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (n <= 0) {
        loop_remove(&w->agent->loop, &w->control_source); /* its end is seen as that of the process */
        return;
    }
    if (agent_frame_parse(bytes, (size_t)n, &frame, NULL, NULL) != n ||
        agent_unpack_outcome(&frame, AGENT_IDENTIFIED, &m, NULL) < 0)
        return;
    struct err err = {0};
    if (!m.ok)
        err_say(&err, EIO, "the warm interpreter: %.*s", (int)(m.error.len < 300 ? m.error.len : 300), m.error.at);
    warm_reseed_over(w, m.ok ? NULL : &err);
}

static void warm_close(struct warm *w)
{
    struct loop *loop = &w->agent->loop;
    loop_remove(loop, &w->work_source);
    loop_remove(loop, &w->control_source);
    fd_close(&w->work_fd);
    fd_close(&w->control_fd);
    for (int i = 0; i < 2; i++) {
        loop_remove(loop, &w->out_source[i]);
        fd_close(&w->out_fd[i]);
    }
    buf_free(&w->from);
    buf_free(&w->to);
}

/* Why the present job gets no answer. */
static void warm_explain_end(const struct warm *w, int status, char *why, size_t cap)
{
    if (w->timed_out)
        snprintf(why, cap,
                 "the time limit was reached, the interpreter did not stop when interrupted and was killed: "
                 "what it held is lost, the next request starts a new one");
    else if (w->broke)
        snprintf(why, cap,
                 "the interpreter broke its protocol and was killed: what it held is lost, the next "
                 "request starts a new one");
    else if (WIFSIGNALED(status))
        snprintf(why, cap,
                 "the interpreter was ended by signal %d (%s): what it held is lost, the next request "
                 "starts a new one",
                 WTERMSIG(status), child_signal_name(WTERMSIG(status)));
    else
        snprintf(why, cap,
                 "the interpreter ended with exit status %d: what it held is lost, the next request starts "
                 "a new one",
                 WEXITSTATUS(status));
}

static void warm_fail(struct warm *w, const char *why, int32_t exit_code)
{
    struct warm_answer answer = {.why = why, .exit_code = exit_code};
    warm_answer(w, &answer);
}

/* A job that waits is taken before there is a helper, so that there is somebody to tell when none can start. */
static bool warm_take_job(struct warm *w)
{
    if (list_empty(&w->jobs))
        return false;
    w->timed_out = w->broke = false;
    w->current = list_entry(w->jobs.next, struct warm_job, link);
    list_remove(&w->current->link);
    w->job_count--;
    return true;
}

static void warm_child_ended(struct child *child, int status)
{
    struct warm *w = list_entry(child, struct warm, child);
    char why[TAIL_MAX + 256];
    /* It may have answered before it ended. */
    for (int left; w->work_source.fd >= 0 && ioctl(w->work_fd, FIONREAD, &left) == 0 && left > 0 && warm_read(w);)
        continue;
    warm_drain(w);
    warm_close(w);
    w->state = WARM_NONE;
    w->ready = false;
    w->numpy_version[0] = 0;
    w->repeat_due = w->last_warm.len > 0;
    loop_timer_clear(&w->timer);
    if (!w->came_up && warm_take_job(w)) {
        snprintf(why, sizeof why, "the interpreter cannot start%s%s", w->tail.len ? ": " : "", w->tail.line);
        warm_fail(w, why, 1);
    } else if (w->current) {
        warm_explain_end(w, status, why, sizeof why);
        warm_fail(w, why, w->timed_out ? 124 : WIFSIGNALED(status) ? -WTERMSIG(status) : WEXITSTATUS(status));
    }
    warm_reseed_over(w, NULL); /* one that starts now draws afresh */
    assert_warm_state(w);
    warm_kick(w);
}

static int warm_pipes(struct warm *w, int fds[LAUNCH_FDS_MAX], struct err *err)
{
    int ends[2];
    fds[0] = open("/dev/null", O_RDONLY | O_CLOEXEC);
    if (fds[0] < 0)
        return err_set(err, errno, "open /dev/null");
    for (int i = 0; i < 2; i++) {
        if (pipe2(ends, O_CLOEXEC) < 0)
            return err_set(err, errno, "make a pipe");
        w->out_fd[i] = ends[0];
        fds[1 + i] = ends[1];
        fcntl(ends[0], F_SETFL, O_NONBLOCK);
    }
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) < 0)
        return err_set(err, errno, "make a socket");
    w->work_fd = ends[0];
    fds[3] = ends[1];
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) < 0)
        return err_set(err, errno, "make a socket");
    w->control_fd = ends[0];
    fds[4] = ends[1];
    struct loop *loop = &w->agent->loop;
    int rc = loop_add(loop, &w->work_source, w->work_fd, EPOLLIN, err);
    if (rc == 0)
        rc = loop_add(loop, &w->control_source, w->control_fd, EPOLLIN, err);
    for (int i = 0; i < 2 && rc == 0; i++)
        rc = loop_add(loop, &w->out_source[i], w->out_fd[i], EPOLLIN, err);
    return rc;
}

static int warm_start(struct warm *w, struct err *err)
{
    char python[] = "python3";
    char *const argv[] = {w->options.python ? (char *)w->options.python : python, (char *)w->options.helper, NULL};
    child_mark(w->agent, "warm-", w->mark);
    own_free char **env = strv_env(w->agent->env, (struct agent_list){0}, w->mark);
    struct launch launch = {.argv = argv, .env = env, .fds = {-1, -1, -1, -1, -1}, .fd_count = LAUNCH_FDS_MAX};
    /* Until the helper has its handlers, an interrupt or a reseed waits. */
    sigset_t blocked;
    sigemptyset(&blocked);
    sigaddset(&blocked, SIGINT);
    sigaddset(&blocked, RESEED_SIGNAL);
    launch.blocked = &blocked;
    pid_t pid;
    w->tail = (struct tail){0};
    int rc = env ? warm_pipes(w, launch.fds, err) : err_set(err, ENOMEM, "start the interpreter");
    if (rc == 0)
        rc = launch_process(&launch, &pid, err);
    for (int i = 0; i < LAUNCH_FDS_MAX; i++)
        fd_close(&launch.fds[i]);
    if (rc < 0) {
        warm_close(w);
        return rc;
    }
    child_watch(w->agent, &w->child, pid);
    w->state = WARM_STARTING;
    w->came_up = false;
    loop_timer_set(&w->agent->loop, &w->timer, clock_monotonic_ns() + START_WAIT_NS);
    assert_warm_state(w);
    return 0;
}

static void warm_give(struct warm *w)
{
    if (w->repeat_due) {
        w->repeat_due = false;
        w->current = &w->repeat;
        buf_free(&w->repeat.request);
        buf_append(&w->repeat.request, buf_at(&w->last_warm), w->last_warm.len, HELPER_FRAME_MAX);
        w->repeat.timeout_ms = REPEAT_WAIT_MS;
        w->timed_out = w->broke = false;
    } else if (!warm_take_job(w)) {
        return;
    }
    w->state = WARM_BUSY;
    warm_drain(w);
    warm_forget_printed(w);
    buf_append(&w->to, buf_at(&w->current->request), w->current->request.len, HELPER_FRAME_MAX);
    loop_change(&w->agent->loop, &w->work_source, EPOLLIN | EPOLLOUT, NULL);
    if (w->current->timeout_ms)
        loop_timer_set(&w->agent->loop, &w->timer, clock_monotonic_ns() + w->current->timeout_ms * NS_PER_MS);
    assert_warm_state(w);
}

static void warm_kicked(struct loop_timer *timer)
{
    struct warm *w = list_entry(timer, struct warm, kick);
    struct err err = {0};
    if (w->state == WARM_IDLE) {
        warm_give(w);
    } else if (w->state == WARM_NONE && !list_empty(&w->jobs) && warm_start(w, &err) < 0 && warm_take_job(w)) {
        warm_forget_printed(w);
        warm_fail(w, err.code == ENOENT ? "this guest has no python3" : err.text, 127);
    }
}

static void warm_timer_fired(struct loop_timer *timer)
{
    struct warm *w = list_entry(timer, struct warm, timer);
    uint64_t now = clock_monotonic_ns();
    if (w->state == WARM_BUSY) {
        w->state = WARM_INTERRUPTED;
        w->timed_out = true;
        w->interrupt_end_ns = now + INTERRUPT_WAIT_NS;
    } else if (w->state == WARM_STARTING || now >= w->interrupt_end_ns) {
        warm_kill(w);
        return;
    }
    kill(w->child.pid, SIGINT);
    loop_timer_set(&w->agent->loop, &w->timer, now + INTERRUPT_AGAIN);
}

static void warm_repeated(struct warm_job *job, const struct warm_answer *answer)
{
    struct warm *w = list_entry(job, struct warm, repeat);
    struct agent_outcome m;
    buf_free(&job->request);
    if (answer->frame && agent_unpack_outcome(answer->frame, AGENT_WARMED, &m, NULL) == 0 && m.ok)
        return;
    buf_free(&w->last_warm); /* what cannot be repeated is not tried before each job again */
    w->repeat_due = false;
}

int warm_submit(struct warm *w, struct warm_job *job, struct err *err)
{
    if (w->job_count >= WARM_QUEUE_MAX)
        return err_say(err, EBUSY, "%u requests wait for the interpreter already", w->job_count);
    list_append(&w->jobs, &job->link);
    w->job_count++;
    warm_kick(w);
    return 0;
}

bool warm_lives(const struct warm *w)
{
    return w->state != WARM_NONE && w->state != WARM_KILLED;
}

void warm_describe(const struct warm *w, struct agent_pong *pong)
{
    pong->warmup_ready = w->ready;
    pong->numpy_version = agent_text_of(w->numpy_version);
    if (!warm_lives(w))
        return;
    pong->pid = (uint32_t)w->child.pid;
    pong->lang = agent_text_of("c+python");
}

static void warm_reseed_late(struct loop_timer *timer)
{
    struct warm *w = list_entry(timer, struct warm, reseed_timer);
    struct err err = {0};
    err_say(&err, ETIMEDOUT, "the warm interpreter did not reseed within %llu s: it is in a call that does not return",
            (unsigned long long)(RESEED_WAIT_NS / NS_PER_SEC));
    warm_kill(w); /* it is a clone, and a late answer of it must not be taken for one to a later identity */
    warm_reseed_over(w, &err);
}

void warm_reseed(struct warm *w, const struct agent_identity *m, void (*done)(void *arg, const struct err *err),
                 void *arg)
{
    static uint8_t bytes[CONTROL_MAX];
    uint8_t entropy[AGENT_ENTROPY_MIN] = {0};
    struct err err = {0};
    if (!warm_lives(w)) {
        done(arg, NULL);
        return;
    }
    struct pack p = pack_into(bytes, sizeof bytes);
    struct agent_identity own = *m;
    own.token = (struct agent_blob){0};
    own.entropy = agent_blob_of(entropy, sizeof entropy);
    if (getrandom(entropy, sizeof entropy, 0) != sizeof entropy)
        err_set(&err, errno, "draw entropy for the interpreter");
    agent_pack_identity(&p, &own);
    if (!err.code && p.full)
        err_say(&err, E2BIG, "the environment of the identity is larger than the interpreter takes");
    if (!err.code && send(w->control_fd, bytes, p.len, MSG_NOSIGNAL | MSG_DONTWAIT) < 0)
        err_set(&err, errno, "tell the warm interpreter who it is");
    explicit_bzero(entropy, sizeof entropy);
    explicit_bzero(bytes, p.len);
    if (err.code) {
        done(arg, &err);
        return;
    }
    w->reseed_done = done;
    w->reseed_arg = arg;
    loop_timer_set(&w->agent->loop, &w->reseed_timer, clock_monotonic_ns() + RESEED_WAIT_NS);
    kill(w->child.pid, RESEED_SIGNAL);
}

void warm_stop(struct warm *w)
{
    warm_kill(w);
}

int warm_init(struct agent *agent, const struct warm_options *options, struct err *err)
{
    struct warm *w = calloc(1, sizeof *w);
    if (!w)
        return err_set(err, ENOMEM, "prepare the interpreter");
    *w = (struct warm){.agent = agent,
                       .options = *options,
                       .child = {.ended = warm_child_ended},
                       .work_fd = -1,
                       .control_fd = -1,
                       .out_fd = {-1, -1},
                       .work_source = {.fd = -1, .fn = warm_work_ready},
                       .control_source = {.fd = -1, .fn = warm_control_ready},
                       .out_source = {{.fd = -1, .fn = warm_stdout_ready}, {.fd = -1, .fn = warm_stderr_ready}},
                       .timer = {.fn = warm_timer_fired},
                       .kick = {.fn = warm_kicked},
                       .reseed_timer = {.fn = warm_reseed_late},
                       .repeat = {.answered = warm_repeated}};
    list_init(&w->jobs);
    agent->warm = w;
    return 0;
}
