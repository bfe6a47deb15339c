/* main.c: forkd-vmm, the process that is a virtual machine, or the template of many.
 *
 *   forkd-vmm --ctl FD [--run DIR]
 *                         a control socket (proto/ctl.h); the first message says what to become
 *   forkd-vmm --probe     whether KVM runs stock kernels here at native speed, as one line of JSON
 *
 * It is started by forkd-controller and is of no use to people by itself. */
#include "base/log.h"
#include "base/own.h"
#include "sys/kvm.h"
#include "sys/own_memory.h"
#include "vmm/probe.h"
#include "vmm/roles.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int usage(void)
{
    fputs("usage: forkd-vmm --ctl FD | --probe | --version\n"
          "forkd-vmm is started by forkd-controller; see forkd --help.\n",
          stderr);
    return 2;
}

static int open_origin(struct vmm_origin *origin, struct err *err)
{
    origin->proc_fd = own_memory_proc_open(err);
    if (origin->proc_fd < 0)
        return origin->proc_fd;
    origin->kvm_fd = kvm_open(err);
    return origin->kvm_fd < 0 ? origin->kvm_fd : 0;
}

static int serve(int sock)
{
    struct err err = {0};
    struct vmm_origin origin = {.kvm_fd = -1, .proc_fd = -1};
    struct ctl_message first;
    int rc = ctl_recv(sock, &first, &err);
    if (rc == 0)
        return 0; /* the controller changed its mind */
    if (rc < 0) {
        log_error("%s", err.text);
        return 1;
    }
    rc = open_origin(&origin, &err);
    if (rc == 0 && first.type == CTL_BOOT)
        return parent_run(&origin, sock, &first);
    if (rc == 0 && first.type == CTL_LOAD)
        return template_run(&origin, sock, &first);
    if (rc == 0)
        err_say(&err, EINVAL, "the first message is %s instead of BOOT or LOAD", ctl_type_name(first.type));
    ctl_send_failed(sock, first.request, &err, NULL);
    ctl_message_close(&first);
    return 1;
}

/* Sentences hold no control characters; what JSON cannot have in a string is left out. */
static void probe_print(bool kvm, bool native, const char *reason)
{
    printf("{\"kvm\":%s,\"native\":%s,\"reason\":\"", kvm ? "true" : "false", native ? "true" : "false");
    for (; *reason; reason++)
        if (*reason != '"' && *reason != '\\')
            putchar(*reason);
    puts("\"}");
}

/* Whatever is found is an answer: the status is 0. */
static int probe(void)
{
    struct err err = {0};
    struct probe_result result;
    own_fd int kvm_fd = kvm_open(&err);
    if (kvm_fd < 0 || probe_native(kvm_fd, &result, &err) < 0)
        probe_print(kvm_fd >= 0, false, err.text);
    else
        probe_print(true, result.native, result.reason);
    return 0;
}

int main(int argc, char **argv)
{
    log_init(getenv("FORKD_DEBUG") ? LOG_DEBUG : LOG_INFO, "vmm");
    signal(SIGPIPE, SIG_IGN);
    if (argc == 2 && !strcmp(argv[1], "--version")) {
        printf("forkd-vmm %s\n", FORKD_VERSION);
        return 0;
    }
    if (argc == 2 && !strcmp(argv[1], "--probe"))
        return probe();
    /* --run is for whoever lists processes: the run directory this one, and all it forks, belong to. */
    if ((argc != 3 && (argc != 5 || strcmp(argv[3], "--run"))) || strcmp(argv[1], "--ctl"))
        return usage();
    int sock = ctl_socket_parse(argv[2]);
    return sock < 0 ? usage() : serve(sock);
}
