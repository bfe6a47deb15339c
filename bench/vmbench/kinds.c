/* kinds.c: see kinds.h. */
#include "vmbench/kinds.h"

#include "sys/kvm.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <unistd.h>

/* The child's own, for the hooks. */
static struct {
    const struct series *series;
    struct sample *sample;
} self;

/* In the child: it does not outlive the bench. */
static void born(const struct series *series, struct sample *sample, pid_t parent)
{
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent)
        _exit(1);
    sample_stamp(sample, BORN);
    self.series = series;
    self.sample = sample;
}

static void on_answer(struct rig *rig)
{
    if (atomic_load(&rig->answers) == 1)
        series_answered(self.series, self.sample);
}

static bool never(struct rig *rig)
{
    return false;
}

static int machine_live(struct rig *rig, struct err *err)
{
    rig->on_answer = on_answer;
    int rc = rig_attach_only(rig, -1, err);
    if (rc < 0)
        return rc;
    sample_stamp(self.sample, ATTACHED);
    rc = machine_restore(rig->m, err);
    if (rc < 0)
        return rc;
    sample_stamp(self.sample, RESTORED);
    rc = machine_start(rig->m, err);
    if (rc < 0)
        return rc;
    sample_stamp(self.sample, STARTED);
    return rig_run(rig, never, err);
}

static pid_t machine_spawn(const struct kind *kind, struct series *series, struct sample *sample)
{
    pid_t parent = getpid(), pid = fork();
    if (pid)
        return pid;
    struct err err = {0};
    born(series, sample, parent);
    if (machine_live(kind->context, &err) < 0)
        fprintf(stderr, "a child: %s\n", err.text);
    _exit(1);
}

struct kind kind_machine(struct rig *rig)
{
    return (struct kind){.start = machine_spawn, .context = rig};
}

/* --- the floor --- */

static int bare_live(struct machine *m, int kvm_fd, struct err *err)
{
    int vm = kvm_vm_create(kvm_fd, err);
    int rc = vm < 0 ? vm : kvm_slot_set(vm, 0, 0, m->gmem.base, m->gmem.low, 0, err);
    if (rc == 0 && m->gmem.size > m->gmem.low)
        rc = kvm_slot_set(vm, 1, GMEM_HIGH_BASE, m->gmem.base + m->gmem.low, m->gmem.size - m->gmem.low, 0, err);
    int vcpu = rc < 0 ? rc : kvm_vcpu_create(vm, 0, err);
    if (vcpu < 0)
        return vcpu;
    struct kvm_run *run;
    int size = kvm_run_size(kvm_fd, err);
    rc = size < 0 ? size : kvm_run_map(vcpu, (size_t)size, &run, err);
    if (rc < 0)
        return rc;
    sample_stamp(self.sample, ATTACHED);
    const struct vcpu_state *state = &m->vcpu[0].state;
    struct kvm_sregs sregs = state->sregs;
    memset(sregs.interrupt_bitmap, 0, sizeof sregs.interrupt_bitmap);
    if (ioctl(vcpu, KVM_SET_SREGS, &sregs) < 0 || ioctl(vcpu, KVM_SET_REGS, &state->regs) < 0)
        return err_set(err, errno, "set the registers");
    sample_stamp(self.sample, RESTORED);
    while (ioctl(vcpu, KVM_RUN, NULL) < 0)
        if (errno != EINTR && errno != EAGAIN)
            return err_set(err, errno, "KVM_RUN");
    if (run->exit_reason != KVM_EXIT_IO)
        return err_say(err, EIO, "the bare guest left for reason %u instead of its first port access",
                       run->exit_reason);
    return 0;
}

static pid_t bare_spawn(const struct kind *kind, struct series *series, struct sample *sample)
{
    pid_t parent = getpid(), pid = fork();
    if (pid)
        return pid;
    struct rig *rig = kind->context;
    struct err err = {0};
    born(series, sample, parent);
    if (bare_live(rig->m, rig->kvm_fd, &err) < 0) {
        fprintf(stderr, "a bare child: %s\n", err.text);
        _exit(1);
    }
    series_answered(series, sample);
    for (;;)
        pause();
}

struct kind kind_bare(struct rig *rig)
{
    return (struct kind){.start = bare_spawn, .context = rig};
}
