/* fake-vmm.c: a forkd-vmm without a virtual machine, for tests of the controller on any host.
 *
 * It speaks proto/ctl.h like the real one: a parent that rings and is consumed by its template, a template that
 * forks sandboxes, sandboxes that outlive their controller and can be adopted; and, on the vsock socket,
 * proto/agent.h for a guest that is this file's imagination. The "kernel" it boots is a text of words that say
 * what goes wrong:
 *
 *     boot=refused | panic | exit | silent     ready=fail     warm=fail     freeze=fail     load=fail
 *     spawn=fail:N | die:N       the Nth spawn of the template is refused, or its child dies unborn
 *     identity=fail:N | hangup:N | silent:N
 *                                the Nth child does not take its identity
 *     template=hang              SPAWN is not answered
 *     ping=hangup                the agent hangs up on a ping
 *     resume=stalls              a stalled sandbox that is told to run on stalls again
 *     branch=fail:N | die:N | hang:N
 *                                the Nth branch of a template cannot be made, dies, or is never ready
 *     branch=strange             a source knows no template but the one it was spawned from
 *     branch=mute:N              the Nth BRANCH of a template is not answered
 *     stream=refused:N | hang:N  the Nth STREAM is refused by the source, or never ends
 *
 * The words travel from parent to template in the state file. */
#include "base/io.h"
#include "base/own.h"
#include "proto/agent.h"
#include "proto/ctl.h"
#include "sys/clone.h"

#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>

enum { PATIENCE_MS = 8000 };

static struct {
    enum ctl_role role;
    char id[CTL_ID_MAX];
    uint8_t secret[CTL_SECRET_LEN];
    int ctl, listen, vsock, console;
    char words[256];
    unsigned number; /* of this child, from 1 */
    char hostname[AGENT_HOSTNAME_MAX + 1];
    char entropy[17];
    bool warm, stalled, handed;
    unsigned branches, streams; /* asked for, of this process */
    unsigned generation;        /* of a template: 0 was booted */
} me = {.ctl = -1, .listen = -1, .vsock = -1, .console = -1};

static bool word(const char *w)
{
    return strstr(me.words, w) != NULL;
}

static unsigned word_number(const char *w)
{
    const char *at = strstr(me.words, w);
    return at ? (unsigned)atoi(at + strlen(w)) : 0;
}

static int own_memory(void)
{
    return open("/proc/self/mem", O_RDONLY | O_CLOEXEC);
}

static void say(enum ctl_type type, uint32_t request)
{
    struct ctl_message m;
    ctl_message_init(&m, type, request);
    m.pid.pid = (uint32_t)getpid();
    m.fd[CTL_FD_OWN_MEMORY] = own_memory();
    ctl_send(me.ctl, &m, NULL);
    ctl_message_close(&m);
}

static _Noreturn void fail(uint32_t request, int code, const char *text)
{
    struct err err;
    err_say(&err, code, "%s", text);
    ctl_send_failed(me.ctl, request, &err, NULL);
    exit(1);
}

static _Noreturn void end(enum ctl_end reason, const char *text)
{
    struct ctl_message m;
    ctl_message_init(&m, CTL_ENDED, 0);
    m.ended.reason = (uint8_t)reason;
    snprintf(m.ended.text, sizeof m.ended.text, "%s", text);
    ctl_send(me.ctl, &m, NULL);
    exit(0);
}

static void stall(void)
{
    struct ctl_message m;
    ctl_message_init(&m, CTL_STALLED, 0);
    m.failed.code = ENOSPC;
    snprintf(m.failed.text, sizeof m.failed.text, "write to the disk: No space left on device");
    me.stalled = true;
    ctl_send(me.ctl, &m, NULL);
}

static void resume(uint32_t request)
{
    struct ctl_message m;
    bool stalled = me.stalled;
    struct err err;
    me.stalled = false;
    if (stalled) {
        ctl_message_init(&m, CTL_RESUMED, request);
        ctl_send(me.ctl, &m, NULL);
    } else {
        err_say(&err, EINVAL, "it is not stopped");
        ctl_send_failed(me.ctl, request, &err, NULL);
    }
    if (word("resume=stalls"))
        stall();
}

static void print(const char *text)
{
    io_write_all(me.console, text, strlen(text), NULL);
}

/* ---- the agent of a guest that is not there ---- */

struct talk {
    int fd;
    uint8_t in[AGENT_FRAME_MAX + 4];
    size_t len;
    uint8_t out[AGENT_FRAME_MAX + 4];
};

static void flush(struct talk *t, struct pack *p)
{
    io_write_all(t->fd, p->buf, p->len, NULL);
    p->len = 0;
}

static void print_out(struct talk *t, enum agent_type type, const char *text, size_t len)
{
    while (len) {
        size_t n = len < AGENT_DATA_MAX ? len : AGENT_DATA_MAX;
        struct pack p = pack_into(t->out, sizeof t->out);
        agent_pack_data(&p, type, text, n);
        flush(t, &p);
        text += n;
        len -= n;
    }
}

static void exited(struct talk *t, enum agent_exit_kind kind, int code, const char *reason)
{
    struct pack p = pack_into(t->out, sizeof t->out);
    struct agent_exit m = {.kind = kind, .code = code, .reason = agent_text_of(reason)};
    agent_pack_exit(&p, &m);
    flush(t, &p);
}

static size_t text_copy(char *into, size_t cap, struct agent_text text)
{
    size_t n = text.len < cap - 1 ? text.len : cap - 1;
    memcpy(into, text.at, n);
    into[n] = 0;
    return n;
}

static void run_program(struct talk *t, const struct agent_exec *m)
{
    struct agent_list args = m->argv;
    struct agent_text text;
    char program[64], line[4096];
    size_t len = 0;
    if (!agent_list_next(&args, &text))
        return;
    text_copy(program, sizeof program, text);
    if (!strcmp(program, "echo")) {
        while (agent_list_next(&args, &text))
            len += (size_t)snprintf(line + len, sizeof line - len, "%s%.*s", len ? " " : "", (int)text.len, text.at);
        line[len++] = '\n';
        print_out(t, AGENT_STDOUT, line, len);
        exited(t, AGENT_EXITED, 0, "");
    } else if (!strcmp(program, "hostname")) {
        print_out(t, AGENT_STDOUT, me.hostname, strlen(me.hostname));
        exited(t, AGENT_EXITED, 0, "");
    } else if (!strcmp(program, "entropy")) {
        print_out(t, AGENT_STDOUT, me.entropy, strlen(me.entropy));
        exited(t, AGENT_EXITED, 0, "");
    } else if (!strcmp(program, "cat")) {
        print_out(t, AGENT_STDOUT, (const char *)m->stdin_.at, m->stdin_.len);
        exited(t, AGENT_EXITED, 0, "");
    } else if (!strcmp(program, "env")) {
        struct agent_list env = m->env;
        while (agent_list_next(&env, &text)) {
            print_out(t, AGENT_STDOUT, text.at, text.len);
            print_out(t, AGENT_STDOUT, "\n", 1);
        }
        print_out(t, AGENT_STDERR, m->cwd.at, m->cwd.len);
        exited(t, AGENT_EXITED, 0, "");
    } else if (!strcmp(program, "exit")) {
        agent_list_next(&args, &text);
        text_copy(line, sizeof line, text);
        exited(t, AGENT_EXITED, atoi(line), "");
    } else if (!strcmp(program, "/bin/sh")) { /* -c COMMAND: says it, and fails where it is "false" */
        agent_list_next(&args, &text);
        agent_list_next(&args, &text);
        print_out(t, AGENT_STDOUT, text.at, text.len);
        exited(t, AGENT_EXITED, text.len == 5 && !memcmp(text.at, "false", 5), "");
    } else if (!strcmp(program, "signal")) {
        exited(t, AGENT_SIGNALLED, -9, "");
    } else if (!strcmp(program, "slow")) {
        print_out(t, AGENT_STDOUT, "so far", 6);
        exited(t, AGENT_TIMED_OUT, 124, "over time");
    } else if (!strcmp(program, "bytes")) {
        print_out(t, AGENT_STDOUT, "\xff\0\xc3\xa9", 4);
        exited(t, AGENT_EXITED, 0, "");
    } else if (!strcmp(program, "flood")) {
        memset(line, 'x', sizeof line);
        for (int i = 0; i < 1024; i++)
            print_out(t, AGENT_STDOUT, line, sizeof line);
        exited(t, AGENT_EXITED, 0, "");
    } else if (!strcmp(program, "nap")) {
        usleep(200 * 1000);
        exited(t, AGENT_EXITED, 0, "");
    } else if (!strcmp(program, "stall")) {
        stall();
    } else if (!strcmp(program, "poweroff")) {
        print("reboot: Power down\n");
        end(CTL_END_POWEROFF, "");
    } else if (!strcmp(program, "garbage")) {
        memset(line, 0xee, sizeof line);
        io_write_all(t->fd, line, sizeof line, NULL);
    } else if (!strcmp(program, "huge")) {
        io_write_all(t->fd, "\xff\xff\xff\xff\x01\x92", 6, NULL);
    } else if (!strcmp(program, "wrong")) {
        struct pack p = pack_into(t->out, sizeof t->out);
        agent_pack_empty(&p, AGENT_SETTLED);
        flush(t, &p);
    } else if (strcmp(program, "hangup") != 0) {
        snprintf(line, sizeof line, "%s: not found", program);
        print_out(t, AGENT_STDERR, line, strlen(line));
        exited(t, AGENT_NOT_FOUND, 127, line);
    }
}

static void evaluate(struct talk *t, const struct agent_eval *m)
{
    char code[256], result[300];
    text_copy(code, sizeof code, m->code);
    struct agent_evaluated e = {0};
    if (!strcmp(code, "hangup"))
        return;
    if (!strcmp(code, "1+1")) {
        e.has_result = true;
        e.result = agent_text_of("2");
    } else if (!strcmp(code, "raise")) {
        e.has_error = true;
        e.error = agent_text_of("Traceback: raised");
        e.exit_code = 1;
    } else if (!strncmp(code, "x =", 3)) {
        e.stdout_ = agent_blob_of("said\n", 5);
    } else if (!strcmp(code, "slow")) {
        e.timed_out = e.stdout_cut = true;
        e.exit_code = 124;
        e.stdout_ = e.stderr_ = agent_blob_of("so far", 6);
    } else {
        snprintf(result, sizeof result, "'%s'", code);
        e.has_result = true;
        e.result = agent_text_of(result);
    }
    struct pack p = pack_into(t->out, sizeof t->out);
    agent_pack_evaluated(&p, &e);
    flush(t, &p);
}

static void outcome(struct talk *t, enum agent_type type, bool ok, const char *error)
{
    struct pack p = pack_into(t->out, sizeof t->out);
    struct agent_outcome m = {.ok = ok, .error = agent_text_of(error)};
    agent_pack_outcome(&p, type, &m);
    flush(t, &p);
}

static void identify(struct talk *t, const struct agent_identity *m)
{
    if (me.number && me.number == word_number("identity=hangup:"))
        return;
    while (me.number && me.number == word_number("identity=silent:"))
        pause();
    bool bad = me.number && me.number == word_number("identity=fail:");
    text_copy(me.hostname, sizeof me.hostname, m->hostname);
    for (int i = 0; i < 8; i++)
        snprintf(me.entropy + 2 * i, 3, "%02x", m->entropy.at[i]);
    outcome(t, AGENT_IDENTIFIED, !bad, bad ? "a hook in /etc/forkd/fork.d failed" : "");
}

static void serve_frame(struct talk *t, const struct agent_frame *frame)
{
    struct agent_exec exec;
    struct agent_eval eval;
    struct agent_identity identity;
    struct pack p = pack_into(t->out, sizeof t->out);
    switch ((int)frame->type) {
    case AGENT_PING: {
        if (word("ping=hangup"))
            break;
        struct agent_pong pong = {.version = agent_text_of("fake"),
                                  .pid = 42,
                                  .lang = agent_text_of("c+python"),
                                  .warmup_ready = me.warm,
                                  .numpy_version = agent_text_of(me.warm ? "1.24.2" : ""),
                                  .hostname = agent_text_of(me.hostname)};
        agent_pack_pong(&p, &pong);
        flush(t, &p);
        break;
    }
    case AGENT_EXEC:
        if (agent_unpack_exec(frame, &exec, NULL) == 0)
            run_program(t, &exec);
        break;
    case AGENT_EVAL:
        if (agent_unpack_eval(frame, &eval, NULL) == 0)
            evaluate(t, &eval);
        break;
    case AGENT_WARM:
        me.warm = !word("warm=fail");
        outcome(t, AGENT_WARMED, me.warm, me.warm ? "" : "No module named 'nonesuch'");
        break;
    case AGENT_IDENTITY:
        if (agent_unpack_identity(frame, &identity, NULL) == 0)
            identify(t, &identity);
        break;
    case AGENT_SETTLE:
        agent_pack_empty(&p, AGENT_SETTLED);
        flush(t, &p);
        break;
    case AGENT_RUN_READY:
        exited(t, AGENT_EXITED, word("ready=fail") ? 3 : 0, "");
        break;
    default:
        break;
    }
}

static void *serve_connection(void *arg)
{
    struct talk *t = calloc(1, sizeof *t);
    t->fd = (int)(intptr_t)arg;
    char line[32] = "";
    for (size_t len = 0; len < sizeof line - 1 && (!len || line[len - 1] != '\n'); len++)
        if (read(t->fd, line + len, 1) != 1)
            break;
    if (!strcmp(line, "CONNECT 52\n")) {
        struct agent_frame frame;
        ssize_t n;
        io_write_all(t->fd, "OK 1073741824\n", 14, NULL);
        while (agent_frame_parse(t->in, t->len, &frame, NULL, NULL) == 0 &&
               (n = read(t->fd, t->in + t->len, sizeof t->in - t->len)) > 0)
            t->len += (size_t)n;
        if (agent_frame_parse(t->in, t->len, &frame, NULL, NULL) > 0)
            serve_frame(t, &frame);
    }
    close(t->fd);
    free(t);
    return NULL;
}

static void vsock_accept(void)
{
    int fd = accept4(me.vsock, NULL, NULL, SOCK_CLOEXEC);
    pthread_t thread;
    pthread_attr_t attr;
    pthread_attr_init(&attr);
    pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
    if (fd >= 0 && pthread_create(&thread, &attr, serve_connection, (void *)(intptr_t)fd) != 0)
        close(fd);
    pthread_attr_destroy(&attr);
}

/* ---- the control socket ---- */

static void adopt(void)
{
    struct ctl_message m;
    int fd = accept4(me.listen, NULL, NULL, SOCK_CLOEXEC);
    if (fd < 0)
        return;
    if (ctl_recv(fd, &m, NULL) != 1 || m.type != CTL_ADOPT || memcmp(m.adopt.secret, me.secret, CTL_SECRET_LEN) != 0) {
        close(fd);
        return;
    }
    fd_close(&me.ctl);
    me.ctl = fd;
    struct ctl_message reply;
    ctl_message_init(&reply, CTL_ADOPTED, m.request);
    memcpy(reply.adopted.id, me.id, sizeof me.id);
    reply.adopted.pid = (uint32_t)getpid();
    reply.adopted.role = (uint8_t)me.role;
    reply.adopted.stalled = me.stalled;
    reply.adopted.handed = me.handed;
    reply.fd[CTL_FD_OWN_MEMORY] = own_memory();
    reply.fd[CTL_FD_PIDFD] = (int)syscall(SYS_pidfd_open, getpid(), 0);
    ctl_send(fd, &reply, NULL);
    ctl_message_close(&reply);
}

static void make_image(uint32_t request)
{
    if (word("freeze=fail"))
        fail(request, ENOMEM, "the memory cannot be sealed");
    struct ctl_message m;
    ctl_message_init(&m, CTL_IMAGE, request);
    m.fd[CTL_FD_MEMORY] = memfd_create("memory", MFD_CLOEXEC);
    m.fd[CTL_FD_STATE] = memfd_create("state", MFD_CLOEXEC);
    if (ftruncate(m.fd[CTL_FD_MEMORY], 1 << 20) < 0)
        exit(1);
    char state[sizeof me.words + 1];
    state[0] = me.warm ? 'w' : 'c';
    memcpy(state + 1, me.words, sizeof me.words);
    io_write_all(m.fd[CTL_FD_STATE], state, sizeof state, NULL);
    m.image = (struct ctl_image){.mem_bytes = 1 << 20, .state_bytes = sizeof state, .data_bytes = 4096};
    ctl_send(me.ctl, &m, NULL);
    exit(0);
}

static void serve_requests(void);

static void become_sandbox(struct ctl_message *spawn)
{
    fd_close(&me.ctl);
    fd_close(&me.listen);
    me.role = CTL_ROLE_SANDBOX;
    me.ctl = steal_fd(&spawn->fd[CTL_FD_CTL]);
    me.listen = steal_fd(&spawn->fd[CTL_FD_LISTEN]);
    me.vsock = steal_fd(&spawn->fd[CTL_FD_VSOCK]);
    me.console = steal_fd(&spawn->fd[CTL_FD_CONSOLE]);
    memcpy(me.id, spawn->spawn.id, sizeof me.id);
    memcpy(me.secret, spawn->spawn.secret, sizeof me.secret);
    if (me.number == word_number("spawn=die:"))
        exit(1);
    say(CTL_BORN, 0);
    struct ctl_message m;
    if (ctl_recv(me.ctl, &m, NULL) != 1 || m.type != CTL_GO)
        exit(0);
    serve_requests();
}

/* The child becomes what it is for; the controller hears of it. */
static void fork_off(struct ctl_message *m, void (*become)(struct ctl_message *m))
{
    struct ctl_message reply;
    ctl_message_init(&reply, CTL_SPAWNED, m->request);
    struct clone_spec spec = {.cgroup_fd = m->fd[CTL_FD_CGROUP], .want_pidfd = true};
    pid_t pid = clone_fork(&spec, &reply.fd[CTL_FD_PIDFD], NULL);
    if (pid == 0)
        become(m);
    reply.pid.pid = (uint32_t)pid;
    ctl_send(me.ctl, &reply, NULL);
    ctl_message_close(&reply);
}

static void spawn(struct ctl_message *m)
{
    me.number++;
    if (word("template=hang"))
        return;
    if (me.number == word_number("spawn=fail:")) {
        struct err err;
        err_say(&err, EAGAIN, "no more processes");
        ctl_send_failed(me.ctl, m->request, &err, NULL);
        return;
    }
    fork_off(m, become_sandbox);
}

/* What passes between source and new template is one byte: all of memory. */
static void become_branch(struct ctl_message *m)
{
    char memory;
    fd_close(&me.ctl);
    fd_close(&me.listen);
    me.ctl = steal_fd(&m->fd[CTL_FD_CTL]);
    me.listen = steal_fd(&m->fd[CTL_FD_LISTEN]);
    memcpy(me.id, m->branch.id, sizeof me.id);
    memcpy(me.secret, m->branch.secret, sizeof me.secret);
    if (me.branches == word_number("branch=die:"))
        exit(1);
    if (me.branches == word_number("branch=hang:"))
        pause();
    if (me.generation++ && word("branch=strange"))
        fail(m->request, EINVAL, "the source could not be branched: Invalid argument");
    if (me.branches == word_number("branch=fail:"))
        fail(m->request, ENOMEM, "the pages of the branch: Cannot allocate memory");
    struct pollfd p = {.fd = m->fd[CTL_FD_PEER], .events = POLLIN};
    if (poll(&p, 1, PATIENCE_MS) == 0)
        fail(m->request, ETIMEDOUT, "the source of the branch does not answer");
    if (read(p.fd, &memory, 1) != 1)
        fail(m->request, EPIPE, "the source of the branch ended");
    fd_close(&m->fd[CTL_FD_PEER]);
    me.number = me.branches = 0;
    struct ctl_message reply;
    ctl_message_init(&reply, CTL_BRANCHED, m->request);
    reply.branched = (struct ctl_branched){.pid = (uint32_t)getpid(),
                                           .kick_ns = 1000000,
                                           .save_ns = 200000,
                                           .log_ns = 30000,
                                           .pages_ns = 4000,
                                           .resume_ns = 5000,
                                           .rounds = 2,
                                           .pages_streamed = 300,
                                           .pages_in_pause = 17};
    reply.fd[CTL_FD_OWN_MEMORY] = own_memory();
    ctl_send(me.ctl, &reply, NULL);
    ctl_message_close(&reply);
    serve_requests();
}

static void branch(struct ctl_message *m)
{
    me.branches++;
    if (me.branches == word_number("branch=mute:")) {
        fprintf(stderr, "fake-vmm: BRANCH was heard\n");
        return;
    }
    fork_off(m, become_branch);
}

static void stream(struct ctl_message *m)
{
    struct err err;
    me.streams++;
    if (me.streams == word_number("stream=hang:")) {
        fprintf(stderr, "fake-vmm: STREAM was heard\n");
        steal_fd(&m->fd[CTL_FD_PEER]); /* until the end of this process */
    } else if (me.streams == word_number("stream=refused:")) {
        err_say(&err, ENOMEM, "map the bitmaps of written pages: Cannot allocate memory");
        ctl_send_failed(me.ctl, m->request, &err, NULL);
    } else {
        io_write_all(m->fd[CTL_FD_PEER], "m", 1, NULL);
    }
}

static void serve_request(void)
{
    struct ctl_message m;
    if (ctl_recv(me.ctl, &m, NULL) <= 0) {
        fd_close(&me.ctl);
        if (me.role == CTL_ROLE_PARENT)
            exit(1);
        return;
    }
    if (m.type == CTL_TEMPLATE)
        make_image(m.request);
    else if (m.type == CTL_SPAWN)
        spawn(&m);
    else if (m.type == CTL_BRANCH)
        branch(&m);
    else if (m.type == CTL_STREAM)
        stream(&m);
    else if (m.type == CTL_RESUME)
        resume(m.request);
    else if (m.type == CTL_HANDED)
        me.handed = true;
    else if (m.type == CTL_QUIT)
        exit(0);
    ctl_message_close(&m);
}

static void serve_requests(void)
{
    for (;;) {
        struct pollfd p[] = {
            {.fd = me.ctl, .events = POLLIN}, {.fd = me.listen, .events = POLLIN}, {.fd = me.vsock, .events = POLLIN}};
        if (poll(p, 3, -1) < 0)
            continue;
        if (p[0].revents)
            serve_request();
        if (p[1].revents)
            adopt();
        if (p[2].revents)
            vsock_accept();
    }
}

static void boot(struct ctl_message *m)
{
    me.role = CTL_ROLE_PARENT;
    memcpy(me.id, m->boot.id, sizeof me.id);
    memcpy(me.secret, m->boot.secret, sizeof me.secret);
    me.vsock = m->fd[CTL_FD_VSOCK];
    me.listen = m->fd[CTL_FD_LISTEN];
    me.console = m->fd[CTL_FD_CONSOLE];
    ssize_t n = pread(m->fd[CTL_FD_KERNEL], me.words, sizeof me.words - 1, 0);
    if (n < 0)
        exit(1);
    if (word("boot=refused"))
        fail(m->request, ENOEXEC, "the kernel is neither an ELF file nor a bzImage");
    say(CTL_STARTED, m->request);
    print("Linux version fake\n");
    if (word("boot=panic")) {
        print("Kernel panic - not syncing: VFS: Unable to mount root fs\n");
        end(CTL_END_RESET, "");
    }
    if (word("boot=exit"))
        exit(1);
    if (!word("boot=silent")) {
        struct ctl_message ring;
        ctl_message_init(&ring, CTL_DOORBELL, 0);
        ring.doorbell.port = AGENT_DOORBELL_PORT;
        ctl_send(me.ctl, &ring, NULL);
    }
    serve_requests();
}

static void load(struct ctl_message *m)
{
    char state[sizeof me.words + 1];
    me.role = CTL_ROLE_TEMPLATE;
    memcpy(me.id, m->load.id, sizeof me.id);
    memcpy(me.secret, m->load.secret, sizeof me.secret);
    me.listen = m->fd[CTL_FD_LISTEN];
    if (io_pread_all(m->fd[CTL_FD_STATE], state, sizeof state, 0, NULL) < 0)
        exit(1);
    me.warm = state[0] == 'w';
    memcpy(me.words, state + 1, sizeof me.words);
    if (word("load=fail"))
        fail(m->request, EINVAL, "this host lacks a CPU feature of the snapshot");
    signal(SIGCHLD, SIG_IGN);
    say(CTL_LOADED, m->request);
    serve_requests();
}

int main(int argc, char **argv)
{
    struct ctl_message m;
    signal(SIGPIPE, SIG_IGN);
    if (argc != 5 || strcmp(argv[1], "--ctl") != 0 || strcmp(argv[3], "--run") != 0)
        return 2;
    me.ctl = atoi(argv[2]);
    fcntl(me.ctl, F_SETFD, FD_CLOEXEC);
    if (ctl_recv(me.ctl, &m, NULL) != 1)
        return 0;
    if (m.type == CTL_BOOT)
        boot(&m);
    else if (m.type == CTL_LOAD)
        load(&m);
    return 1;
}
