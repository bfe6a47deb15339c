/* seccomp.c: see seccomp.h. What glibc does on its own is named here:
 *
 * SECCOMP: brk - malloc
 * SECCOMP: mmap[a2 & PROT_EXEC == 0] - malloc, thread stacks, guest memory
 * SECCOMP: mprotect[a2 & PROT_EXEC == 0] - malloc, the guard page of a thread's stack
 * SECCOMP: munmap - malloc, thread stacks
 * SECCOMP: mremap - realloc of large blocks
 * SECCOMP: madvise - free, the stack of a thread that ended
 * SECCOMP: getrandom - malloc's own secrets, random numbers for guests
 * SECCOMP: futex - mutexes, conditions, pthread_join
 * SECCOMP: rseq - a thread registers its restartable sequences
 * SECCOMP: set_robust_list - a thread registers its robust mutexes
 * SECCOMP: rt_sigaction - signal handlers
 * SECCOMP: rt_sigprocmask - signals are blocked while a thread is made
 * SECCOMP: rt_sigreturn - a signal handler returns
 * SECCOMP: restart_syscall - a wait goes on after a stop
 * SECCOMP: gettid - pthread_kill of itself
 * SECCOMP: getpid - pthread_kill, raise
 * SECCOMP: clock_gettime - clocks the vDSO cannot read
 * SECCOMP: sched_yield - spinning locks
 * SECCOMP: newfstatat[a3 & AT_EMPTY_PATH == AT_EMPTY_PATH] - fstat of glibc up to 2.38
 * SECCOMP: fstat - and of later ones
 * SECCOMP: exit - a thread ends
 * SECCOMP: exit_group - the process ends
 */
#include "sys/seccomp.h"

#include "base/own.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <linux/futex.h>
#include <linux/kvm.h>
#include <linux/prctl.h>
#include <sched.h>
#include <seccomp.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <ucontext.h>

enum { CONDITIONS_MAX = 3, SYSCALLS_MAX = 512 };

struct rule {
    int number;
    unsigned conditions;
    struct scmp_arg_cmp condition[CONDITIONS_MAX];
};

#define ARG(n, mask, value)                                                                                            \
    {                                                                                                                  \
        .arg = (n), .op = SCMP_CMP_MASKED_EQ, .datum_a = (uint32_t)(mask), .datum_b = (uint32_t)(value)                \
    }
#define RULE(name, count, ...) {.number = SCMP_SYS(name), .conditions = (count), .condition = {__VA_ARGS__}},

/* Where a line of the generated list differs from this build's kernel headers or libseccomp, it does not compile. */
static const struct rule vmm_rules[] = {
#include "sys/seccomp_rules_vmm.inc"
};
static const struct rule store_rules[] = {
#include "sys/seccomp_rules_store.inc"
};

static int add_rules(scmp_filter_ctx filter, enum seccomp_set set, struct err *err)
{
    const struct rule *rules = set == SECCOMP_VMM ? vmm_rules : store_rules;
    size_t count = set == SECCOMP_VMM ? sizeof vmm_rules / sizeof *vmm_rules : sizeof store_rules / sizeof *store_rules;
    for (size_t i = 0; i < count; i++) {
        const struct rule *r = &rules[i];
        int rc = seccomp_rule_add_array(filter, SCMP_ACT_ALLOW, r->number, r->conditions, r->condition);
        if (rc < 0)
            return err_set(err, -rc, "add system call %d to the filter", r->number);
    }
    return 0;
}

#if defined(__SANITIZE_ADDRESS__)
#define SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define SANITIZED 1
#endif
#endif

#ifdef SANITIZED
/* LeakSanitizer looks at a process from outside, with ptrace, as it exits: the filter has no such call, and a
 * process that was about to end well would be killed. */
int __lsan_is_turned_off(void);
int __lsan_is_turned_off(void)
{
    return 1;
}
#endif

/* AddressSanitizer's run time makes calls of its own; only builds with it get them. */
static int add_sanitizer_rules(scmp_filter_ctx filter)
{
#ifdef SANITIZED
    static const int numbers[] = {SCMP_SYS(open), SCMP_SYS(prlimit64), SCMP_SYS(readlink), SCMP_SYS(sched_getaffinity),
                                  SCMP_SYS(sigaltstack)};
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) {
        int rc = seccomp_rule_add(filter, SCMP_ACT_ALLOW, numbers[i], 0);
        if (rc < 0 && rc != -EEXIST)
            return rc;
    }
#endif
    return 0;
}

/* Names are looked up beforehand: a signal handler may not allocate. */
static char *syscall_names[SYSCALLS_MAX];

static void explain(int signal, siginfo_t *info, void *context)
{
    int number = info->si_syscall;
    char line[160];
    const char *name = number >= 0 && number < SYSCALLS_MAX ? syscall_names[number] : NULL;
    const greg_t *regs = ((const ucontext_t *)context)->uc_mcontext.gregs;
    int len = snprintf(line, sizeof line, "system call %d (%s) with %#llx, %#llx, %#llx is not in the filter\n", number,
                       name ? name : "unknown", (unsigned long long)regs[REG_RDI], (unsigned long long)regs[REG_RSI],
                       (unsigned long long)regs[REG_RDX]);
    ssize_t n = write(STDERR_FILENO, line, (size_t)len);
    (void)n; /* the process ends either way */
    _exit(128 + SIGSYS);
}

static int prepare_to_explain(struct err *err)
{
    for (int i = 0; i < SYSCALLS_MAX; i++)
        syscall_names[i] = seccomp_syscall_resolve_num_arch(SCMP_ARCH_NATIVE, i);
    struct sigaction action = {.sa_sigaction = explain, .sa_flags = SA_SIGINFO};
    return sigaction(SIGSYS, &action, NULL) < 0 ? err_set(err, errno, "handle SIGSYS") : 0;
}

static int load(scmp_filter_ctx filter, enum seccomp_set set, struct err *err)
{
    int rc = seccomp_attr_set(filter, SCMP_FLTATR_ACT_BADARCH, SCMP_ACT_KILL_PROCESS);
    if (rc == 0) /* a tree of comparisons rather than a list: KVM_RUN passes here on every exit of a guest */
        rc = seccomp_attr_set(filter, SCMP_FLTATR_CTL_OPTIMIZE, 2);
    if (rc < 0)
        return err_set(err, -rc, "set up the filter of system calls");
    rc = add_rules(filter, set, err);
    if (rc < 0)
        return rc;
    rc = add_sanitizer_rules(filter);
    if (rc == 0)
        rc = seccomp_load(filter);
    return rc < 0 ? err_set(err, -rc, "load the filter of system calls") : 0;
}

int seccomp_install(enum seccomp_set set, enum seccomp_mode mode, struct err *err)
{
    int rc = mode == SECCOMP_EXPLAIN ? prepare_to_explain(err) : 0;
    if (rc < 0)
        return rc;
    scmp_filter_ctx filter = seccomp_init(mode == SECCOMP_EXPLAIN ? SCMP_ACT_TRAP : SCMP_ACT_KILL_PROCESS);
    if (!filter)
        return err_set(err, ENOMEM, "make a filter of system calls");
    rc = load(filter, set, err);
    seccomp_release(filter);
    return rc;
}
