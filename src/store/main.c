/* main.c: forkd-store, the process that writes one template to a disk, or loads one from there.
 *
 *   forkd-store --ctl FD   a control socket (proto/ctl.h) with SAVE or RESTORE
 *
 * It belongs to the controller and is outside of every fork tree: it never has guest code in it, and what it reads of
 * a template it reads through descriptors. It ends when it has answered, or when nobody is left to hear the answer. */
#include "base/log.h"
#include "base/own.h"
#include "store/roles.h"
#include "sys/seccomp.h"

#include <jansson.h>
#include <malloc.h>
#include <signal.h>
#include <string.h>
#include <sys/resource.h>

static int usage(void)
{
    fputs("usage: forkd-store --ctl FD | --version\n"
          "forkd-store is started by forkd-controller; see forkd --help.\n",
          stderr);
    return 2;
}

/* Before the filter: what libraries open or ask for once, jansson's seed and how many heaps malloc may have. */
int store_confine(struct err *err)
{
    const struct rlimit no_core = {0};
    json_object_seed(0);
    mallopt(M_ARENA_MAX, 1);
    if (setrlimit(RLIMIT_CORE, &no_core) < 0)
        return err_set(err, errno, "forbid core dumps");
    return seccomp_install(SECCOMP_STORE, getenv("FORKD_SECCOMP_EXPLAIN") ? SECCOMP_EXPLAIN : SECCOMP_KILL, err);
}

int store_tell(int sock, uint32_t request, uint64_t done, uint64_t total, uint64_t written, struct err *err)
{
    struct ctl_message m;
    ctl_message_init(&m, CTL_PROGRESS, request);
    m.progress = (struct ctl_progress){.done = done, .total = total, .written = written};
    int rc = ctl_send_until(sock, &m, 0, err);
    return rc == -EPIPE || rc == -ECONNRESET ? rc : 0;
}

/* A chain has six files a link. */
static void raise_file_limit(void)
{
    struct rlimit files;
    if (getrlimit(RLIMIT_NOFILE, &files) < 0 || files.rlim_cur == files.rlim_max)
        return;
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
}

static int serve(int sock)
{
    struct err err = {0};
    struct ctl_message m;
    int rc = ctl_recv(sock, &m, &err);
    if (rc == 0)
        return 0; /* the controller changed its mind */
    if (rc < 0) {
        log_error("%s", err.text);
        return 1;
    }
    raise_file_limit();
    if (m.type == CTL_SAVE)
        return store_save(sock, &m);
    if (m.type == CTL_RESTORE)
        return store_restore(sock, &m);
    err_say(&err, EINVAL, "the first message is %s instead of SAVE or RESTORE", ctl_type_name(m.type));
    ctl_send_failed(sock, m.request, &err, NULL);
    ctl_message_close(&m);
    return 1;
}

int main(int argc, char **argv)
{
    log_init(getenv("FORKD_DEBUG") ? LOG_DEBUG : LOG_INFO, "store");
    signal(SIGPIPE, SIG_IGN);
    if (argc == 2 && !strcmp(argv[1], "--version")) {
        printf("forkd-store %s\n", FORKD_VERSION);
        return 0;
    }
    if (argc != 3 || strcmp(argv[1], "--ctl"))
        return usage();
    int sock = ctl_socket_parse(argv[2]);
    return sock < 0 ? usage() : serve(sock);
}
