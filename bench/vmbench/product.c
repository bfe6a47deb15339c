/* product.c: see product.h. */
#include "vmbench/product.h"

#include "base/clock.h"
#include "base/own.h"

#include <jansson.h>
#include <libgen.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <sys/wait.h>

enum { START_LIMIT_MS = 10000, REQUEST_LIMIT_S = 300, PATH_CAP = PATH_MAX };

static const char tag[] = "vmbench";

/* --- requests: HTTP/1.1 over one Unix socket that is kept; libcurl would bring so many libraries along that the
 * forks of this very process, which are measured too, cost twice as much --- */

static int http_connect(const struct product *p)
{
    struct sockaddr_un sun = {.sun_family = AF_UNIX};
    struct timeval limit = {.tv_sec = REQUEST_LIMIT_S};
    own_fd int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    snprintf(sun.sun_path, sizeof sun.sun_path, "%s/http", p->dir);
    if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit) < 0 ||
        connect(fd, (struct sockaddr *)&sun, sizeof sun) < 0)
        return -1;
    return steal_fd(&fd);
}

/* Reads on until the terminated text holds `want` bytes behind its head, which ends at *body (0: not yet known). */
static int http_read(int fd, char **text, size_t *len, size_t *body, size_t *want)
{
    enum { STEP = 64 << 10 };
    char *grown = realloc(*text, *len + STEP + 1);
    if (!grown)
        return -1;
    *text = grown;
    ssize_t n = read(fd, grown + *len, STEP);
    if (n <= 0)
        return -1;
    *len += (size_t)n;
    grown[*len] = 0;
    const char *end = *body ? NULL : strstr(grown, "\r\n\r\n");
    const char *field = end ? strcasestr(grown, "\r\nContent-Length:") : NULL;
    if (end) {
        *body = (size_t)(end - grown) + 4;
        *want = field && field < end ? strtoul(field + 17, NULL, 10) : 0;
    }
    return 0;
}

/* The status, or 0; the body, terminated, is the caller's. */
static long http_exchange(struct product *p, const char *method, const char *path, const char *send, char **answer)
{
    own_free char *text = NULL;
    size_t len = 0, body = 0, want = 0;
    long status = 0;
    *answer = NULL;
    if (p->http_fd < 0)
        p->http_fd = http_connect(p);
    if (p->http_fd < 0)
        return 0;
    if (dprintf(p->http_fd, "%s %s HTTP/1.1\r\nHost: c\r\nContent-Length: %zu\r\n\r\n%s", method, path, strlen(send),
                send) < 0)
        fd_close(&p->http_fd);
    while (p->http_fd >= 0 && (!body || len < body + want))
        if (http_read(p->http_fd, &text, &len, &body, &want) < 0)
            fd_close(&p->http_fd);
    if (p->http_fd < 0 || sscanf(text, "HTTP/1.1 %ld", &status) != 1)
        return 0;
    *answer = strdup(text + body);
    return status;
}

/* The status; `json` (may be NULL) is what came back, the caller's. Takes the reference of `send`. */
static long request(struct product *p, const char *method, const char *path, json_t *send, json_t **json)
{
    own_free char *text = send ? json_dumps(send, JSON_COMPACT) : NULL;
    own_free char *answer = NULL;
    json_decref(send);
    long status = http_exchange(p, method, path, text ? text : "", &answer);
    if (json)
        *json = answer ? json_loads(answer, 0, NULL) : NULL;
    if (json && status >= 300)
        fprintf(stderr, "vmbench: %s %s: %ld %s\n", method, path, status, answer ? answer : "");
    return status;
}

/* --- the controller --- */

/* A program of the build this one is of. */
static void program_path(char *path, const char *name)
{
    char exe[PATH_CAP];
    ssize_t n = readlink("/proc/self/exe", exe, sizeof exe - 1);
    exe[n > 0 ? n : 0] = 0;
    snprintf(path, PATH_CAP, "%.*s/../%s", PATH_CAP / 2, dirname(exe), name);
}

static void controller_exec(const struct product *p)
{
    char program[PATH_CAP], bind[96], state[96], root[96], audit[96];
    program_path(program, "src/controller/forkd-controller");
    snprintf(bind, sizeof bind, "unix:%s/http", p->dir);
    snprintf(state, sizeof state, "%s/state.db", p->dir);
    snprintf(root, sizeof root, "%s/snapshots", p->dir);
    snprintf(audit, sizeof audit, "%s/audit.log", p->dir);
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    execl(program, "forkd-controller", "serve", "--bind", bind, "--state", state, "--snapshot-root", root,
          "--audit-log", audit, "--kill-on-exit", NULL);
    fprintf(stderr, "vmbench: run %s: %m\n", program);
    _exit(127);
}

static int controller_start(struct product *p, struct err *err)
{
    p->controller = fork();
    if (p->controller < 0)
        return err_set(err, errno, "fork");
    if (p->controller == 0)
        controller_exec(p);
    for (unsigned ms = 0; request(p, "GET", "/healthz", NULL, NULL) != 200; ms += 10) {
        if (ms > START_LIMIT_MS || waitpid(p->controller, NULL, WNOHANG) == p->controller)
            return err_say(err, EIO, "the controller does not come up");
        poll(NULL, 0, 10);
    }
    return 0;
}

static int template_make_here(struct product *p, unsigned mem_mib, unsigned fill_mib, struct err *err)
{
    char guest[PATH_CAP], fill[64];
    json_t *answer = NULL;
    program_path(guest, "tests/kvm/guest-agent");
    snprintf(fill, sizeof fill, "mem fill 0x2000000 %um 7", fill_mib);
    long status = request(
        p, "POST", "/v1/snapshots",
        json_pack("{s:s, s:s, s:i, s:s}", "tag", tag, "kernel", guest, "mem_size_mib", (int)mem_mib, "ready_cmd", fill),
        &answer);
    json_decref(answer);
    return status == 201 ? 0 : err_say(err, EIO, "the controller made no template (status %ld)", status);
}

int product_open(struct product *p, unsigned mem_mib, unsigned fill_mib, struct err *err)
{
    *p = (struct product){.http_fd = -1};
    const char *tmp = getenv("TMPDIR");
    snprintf(p->dir, sizeof p->dir, "%.40s/vmbench-XXXXXX", tmp && *tmp ? tmp : "/tmp");
    if (!mkdtemp(p->dir))
        return err_set(err, errno, "make a directory");
    int rc = controller_start(p, err);
    return rc < 0 ? rc : template_make_here(p, mem_mib, fill_mib, err);
}

/* The directory is the controller's own making; what is in it is known by shape only. */
static void directory_remove(const char *dir)
{
    pid_t pid = fork();
    if (pid == 0) {
        execlp("rm", "rm", "-rf", "--", dir, NULL);
        _exit(127);
    }
    if (pid > 0)
        waitpid(pid, NULL, 0);
}

void product_close(struct product *p)
{
    if (p->controller > 0) {
        kill(p->controller, SIGTERM);
        waitpid(p->controller, NULL, 0);
    }
    fd_close(&p->http_fd);
    if (*p->dir)
        directory_remove(p->dir);
}

/* --- spawns --- */

static json_t *spawn_body(unsigned n)
{
    return json_pack("{s:s, s:i}", "snapshot_tag", tag, "n", (int)n);
}

static void sandbox_end(struct product *p, const char *id)
{
    char path[128];
    snprintf(path, sizeof path, "/v1/sandboxes/%s", id);
    request(p, "DELETE", path, NULL, NULL);
}

int product_one(struct product *p, struct series *series, unsigned i)
{
    struct sample *sample = &series->samples[i];
    json_t *list = NULL;
    char path[128];
    sample_stamp(sample, ASKED);
    if (request(p, "POST", "/v1/sandboxes", spawn_body(1), &list) != 201) {
        json_decref(list);
        return 0;
    }
    sample_stamp(sample, STARTED);
    const char *id = json_string_value(json_object_get(json_array_get(list, 0), "id"));
    snprintf(path, sizeof path, "/v1/sandboxes/%s/ping", id ? id : "");
    int answered = request(p, "POST", path, NULL, NULL) == 200;
    if (answered)
        sample_stamp(sample, ANSWERED);
    if (id)
        sandbox_end(p, id);
    sample_stamp(sample, ENDED);
    json_decref(list);
    return answered;
}

unsigned product_all(struct product *p, struct series *series, uint64_t *wall_ns)
{
    json_t *list = NULL, *one;
    size_t i;
    uint64_t from = clock_monotonic_ns();
    request(p, "POST", "/v1/sandboxes", spawn_body(series->n), &list);
    *wall_ns = clock_monotonic_ns() - from;
    unsigned answered = 0;
    json_array_foreach(list, i, one) if (i < series->n)
    {
        series->samples[i].pid = (pid_t)json_integer_value(json_object_get(one, "pid"));
        answered++;
    }
    json_decref(list);
    return answered;
}

void product_end(struct product *p, struct series *series)
{
    json_t *list = NULL, *one;
    size_t i;
    request(p, "GET", "/v1/sandboxes", NULL, &list);
    json_array_foreach(list, i, one)
    {
        const char *id = json_string_value(json_object_get(one, "id"));
        if (id)
            sandbox_end(p, id);
    }
    json_decref(list);
    for (unsigned k = 0; k < series->n; k++)
        series->samples[k].pid = 0;
}
