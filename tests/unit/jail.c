/* jail.c: claims about src/sys/jail, as root and as an ordinary user. Each runs in a process of its own. */
#include "sys/jail.h"
#include "base/own.h"
#include "skip.h"
#include "sys/own_memory.h"

#include <arpa/inet.h>
#include <dirent.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <sched.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

enum { TREE_UID = 65530, NOFILE = 128 };

struct jailed {
    int kept, stray, proc;
    uid_t uid;
    struct jail_report report;
};

static bool stage_done(const struct jailed *j, enum jail_stage stage)
{
    return !j->report.skipped[stage];
}

/* Runs a claim in a jailed child, which answers whether it holds. */
static bool holds_in_jail(bool as_root, bool (*claim)(const struct jailed *))
{
    pid_t pid = fork();
    if (pid == 0) {
        if (!as_root && geteuid() == 0 && (setgid(TREE_UID) || setuid(TREE_UID)))
            _exit(2);
        prctl(PR_SET_DUMPABLE, 1);
        struct jailed j = {.kept = open("/etc/passwd", O_RDONLY | O_CLOEXEC),
                           .stray = open("/etc/passwd", O_RDONLY | O_CLOEXEC),
                           .proc = own_memory_proc_open(NULL),
                           .uid = as_root ? TREE_UID : geteuid()};
        struct jail_spec spec = {
            .uid = TREE_UID, .gid = TREE_UID, .keep = &j.kept, .keep_count = 1, .proc_fd = j.proc, .nofile = NOFILE};
        struct err err = {0};
        if (jail_enter(&spec, &j.report, &err) < 0) {
            dprintf(STDERR_FILENO, "%s\n", err.text);
            _exit(3);
        }
        _exit(claim(&j) ? 0 : 1);
    }
    int status = -1;
    waitpid(pid, &status, 0);
    return status == 0;
}

static bool only_kept_descriptors_are_open(const struct jailed *j)
{
    return fcntl(j->kept, F_GETFD) >= 0 && fcntl(j->proc, F_GETFD) >= 0 && fcntl(j->stray, F_GETFD) < 0;
}

static bool limits_hold(const struct jailed *j)
{
    struct rlimit core, files;
    getrlimit(RLIMIT_CORE, &core);
    getrlimit(RLIMIT_NOFILE, &files);
    return core.rlim_max == 0 && files.rlim_max == NOFILE;
}

static bool no_file_can_be_opened_or_made(const struct jailed *j)
{
    if (!stage_done(j, JAIL_ROOT))
        return true;
    own_dir DIR *dir = opendir("/");
    int entries = 0;
    while (dir && readdir(dir))
        entries++;
    return entries == 2 && open("/etc/passwd", O_RDONLY) < 0 && open("../../etc/passwd", O_RDONLY) < 0 &&
           open("/x", O_WRONLY | O_CREAT, 0600) < 0 && mkdir("/d", 0700) < 0;
}

static bool the_network_is_out_of_reach(const struct jailed *j)
{
    if (!stage_done(j, JAIL_NAMESPACES))
        return true;
    own_fd int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct sockaddr_in host = {.sin_family = AF_INET, .sin_port = htons(9), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    return connect(fd, (struct sockaddr *)&host, sizeof host) < 0 && errno == ENETUNREACH;
}

static bool privileges_are_gone_for_good(const struct jailed *j)
{
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct caps[_LINUX_CAPABILITY_U32S_3] = {{.permitted = ~0u}};
    syscall(SYS_capget, &header, caps);
    if (caps[0].permitted | caps[1].permitted | caps[0].inheritable | caps[1].inheritable)
        return false;
    if (getuid() != j->uid || geteuid() != j->uid || setuid(0) == 0)
        return false;
    if (prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) != 1 || prctl(PR_GET_DUMPABLE) != 0)
        return false;
    return !stage_done(j, JAIL_ROOT) || (unshare(CLONE_NEWUSER) < 0 && errno == EPERM);
}

static bool own_memory_can_still_be_opened(const struct jailed *j)
{
    char word[] = "jailed", read_back[sizeof word] = {0};
    own_fd int mem = own_memory_open(j->proc, NULL);
    return pread(mem, read_back, sizeof word, (off_t)(uintptr_t)word) == sizeof word && !strcmp(word, read_back);
}

static bool other_processes_are_hidden(const struct jailed *j)
{
    if (!stage_done(j, JAIL_PROC))
        return true;
    return faccessat(j->proc, "1/cmdline", F_OK, 0) < 0 && faccessat(j->proc, "meminfo", F_OK, 0) < 0 &&
           faccessat(j->proc, "self/stat", F_OK, 0) == 0;
}

static bool nothing_was_skipped(const struct jailed *j)
{
    for (int stage = 0; stage < JAIL_STAGES; stage++)
        if (!stage_done(j, stage))
            return false;
    return true;
}

static bool (*const claims[])(const struct jailed *) = {
    only_kept_descriptors_are_open, limits_hold,
    no_file_can_be_opened_or_made,  the_network_is_out_of_reach,
    privileges_are_gone_for_good,   own_memory_can_still_be_opened,
    other_processes_are_hidden,
};

static void check_claims(bool as_root)
{
    for (size_t i = 0; i < sizeof claims / sizeof *claims; i++)
        if (!holds_in_jail(as_root, claims[i]))
            fail_msg("claim %zu does not hold", i);
}

static void root_gives_up_everything(void **state)
{
    if (geteuid() != 0)
        skip_because("only root has this much to give up");
    check_claims(true);
    if (!holds_in_jail(true, nothing_was_skipped))
        skip_because("this host lets even root make no namespaces");
}

static void an_ordinary_user_gives_up_what_it_can(void **state)
{
    check_claims(false);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(root_gives_up_everything),
        cmocka_unit_test(an_ordinary_user_gives_up_what_it_can),
    };
    return cmocka_run_group_tests_name("jail", tests, NULL, NULL);
}
