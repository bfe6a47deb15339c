/* probe.c: see probe.h.
 *
 * The guest's memory is one slot of 64 KiB; its page tables map 2 MiB of guest-physical addresses twice, to
 * themselves and at the bottom of the kernel's half. What lies beyond the slot is nobody's: a write there ends the
 * loop with an MMIO exit, at any privilege and without interrupt tables. */
#include "vmm/probe.h"

#include "base/own.h"
#include "sys/kvm.h"

#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <x86intrin.h>

enum { MEMORY = 64 << 10, PML4 = 0x1000, PDPT = 0x2000, PD = 0x3000, CODE = 0x4000, NOBODY = 0x100000 };
enum { LOOPS = 2000, RUNS = 4, CPUIDS_MAX = 256 };
enum { PAGE_KERNEL = 3, PAGE_USER = 7, PAGE_LARGE = 0x80 };

/* Slower than this, and it is no longer the CPU that runs the code. */
static const double times_native = 30;

#define KERNEL_HALF UINT64_C(0xffffffff80000000)

/* rdtsc into rbx; ecx times round the loop; the difference to rax, and to (rdi). */
static const uint8_t code[] = {
    0x0f, 0x31, 0x48, 0xc1, 0xe2, 0x20, 0x48, 0x09, 0xd0, 0x48, 0x89, 0xc3, /* rbx = tsc */
    0xff, 0xc9, 0x75, 0xfc,                                                 /* dec ecx; jnz */
    0x0f, 0x31, 0x48, 0xc1, 0xe2, 0x20, 0x48, 0x09, 0xd0, 0x48, 0x29, 0xd8, /* rax = tsc - rbx */
    0x48, 0x89, 0x07, 0xeb, 0xfe,                                           /* mov (rdi), rax; jmp . */
};

struct probe_vm {
    int vm_fd, vcpu_fd;
    void *memory;
    struct kvm_run *run;
    size_t run_size;
};

static void vm_close(struct probe_vm *vm)
{
    if (vm->run)
        munmap(vm->run, vm->run_size);
    fd_close(&vm->vcpu_fd);
    fd_close(&vm->vm_fd);
    if (vm->memory)
        munmap(vm->memory, MEMORY);
}

static void memory_fill(uint8_t *memory)
{
    uint64_t *pml4 = (uint64_t *)(memory + PML4), *pdpt = (uint64_t *)(memory + PDPT);
    uint64_t *pd = (uint64_t *)(memory + PD);
    pml4[0] = PDPT | PAGE_USER;
    pml4[511] = PDPT | PAGE_KERNEL;
    pdpt[0] = pdpt[510] = PD | PAGE_USER;
    pd[0] = PAGE_LARGE | PAGE_USER;
    memcpy(memory + CODE, code, sizeof code);
}

static int cpuid_pass(int kvm_fd, int vcpu_fd, struct err *err)
{
    struct {
        uint32_t nent, padding;
        struct kvm_cpuid_entry2 entry[CPUIDS_MAX];
    } cpuid = {.nent = CPUIDS_MAX};
    if (ioctl(kvm_fd, KVM_GET_SUPPORTED_CPUID, &cpuid) < 0)
        return err_set(err, errno, "KVM_GET_SUPPORTED_CPUID");
    if (ioctl(vcpu_fd, KVM_SET_CPUID2, &cpuid) < 0)
        return err_set(err, errno, "KVM_SET_CPUID2");
    return 0;
}

static int vm_open(struct probe_vm *vm, int kvm_fd, struct err *err)
{
    vm->memory = mmap(NULL, MEMORY, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (vm->memory == MAP_FAILED) {
        vm->memory = NULL;
        return err_set(err, errno, "get memory for the probe's guest");
    }
    memory_fill(vm->memory);
    vm->vm_fd = kvm_vm_create(kvm_fd, err);
    if (vm->vm_fd < 0)
        return vm->vm_fd;
    int rc = kvm_tss_set(vm->vm_fd, 0xfffbd000, err);
    if (rc < 0)
        return rc;
    rc = kvm_slot_set(vm->vm_fd, 0, 0, vm->memory, MEMORY, 0, err);
    if (rc < 0)
        return rc;
    vm->vcpu_fd = kvm_vcpu_create(vm->vm_fd, 0, err);
    if (vm->vcpu_fd < 0)
        return vm->vcpu_fd;
    rc = kvm_run_size(kvm_fd, err);
    if (rc < 0)
        return rc;
    vm->run_size = (size_t)rc;
    rc = kvm_run_map(vm->vcpu_fd, vm->run_size, &vm->run, err);
    return rc < 0 ? rc : cpuid_pass(kvm_fd, vm->vcpu_fd, err);
}

/* Long mode on the guest's tables, at this privilege level, at the loop. `base` is where memory appears. */
static int vcpu_point(const struct probe_vm *vm, uint8_t cpl, uint64_t base, struct err *err)
{
    struct kvm_sregs s;
    if (ioctl(vm->vcpu_fd, KVM_GET_SREGS, &s) < 0)
        return err_set(err, errno, "KVM_GET_SREGS");
    struct kvm_segment cs = {.limit = 0xffffffff,
                             .selector = (uint16_t)(8 | cpl),
                             .type = 11,
                             .present = 1,
                             .dpl = cpl,
                             .s = 1,
                             .l = 1,
                             .g = 1};
    struct kvm_segment ds = cs;
    ds.selector = (uint16_t)(16 | cpl);
    ds.type = 3;
    ds.l = 0;
    ds.db = 1;
    s.cs = cs;
    s.ds = s.es = s.fs = s.gs = s.ss = ds;
    s.cr0 = 0x80050033; /* PG, AM, WP, NE, ET, MP, PE */
    s.cr3 = PML4;
    s.cr4 = 0x20;   /* PAE */
    s.efer = 0x500; /* LMA, LME */
    s.idt.limit = s.gdt.limit = 0;
    struct kvm_regs r = {.rip = base + CODE, .rcx = LOOPS, .rdi = base + NOBODY, .rflags = 2};
    if (ioctl(vm->vcpu_fd, KVM_SET_SREGS, &s) < 0)
        return err_set(err, errno, "KVM_SET_SREGS");
    if (ioctl(vm->vcpu_fd, KVM_SET_REGS, &r) < 0)
        return err_set(err, errno, "KVM_SET_REGS");
    return 0;
}

/* TSC ticks of the loop in the guest; 0 if it did not run to its end. */
static uint64_t loop_in_guest(const struct probe_vm *vm)
{
    int rc;
    do
        rc = ioctl(vm->vcpu_fd, KVM_RUN, NULL);
    while (rc < 0 && (errno == EINTR || errno == EAGAIN));
    uint64_t ticks = 0;
    if (!rc && vm->run->exit_reason == KVM_EXIT_MMIO && vm->run->mmio.is_write && vm->run->mmio.phys_addr == NOBODY)
        memcpy(&ticks, vm->run->mmio.data, sizeof ticks);
    return ticks;
}

static uint64_t loop_here(void)
{
    uint32_t n = LOOPS;
    uint64_t from = __rdtsc();
    __asm__ volatile("1: decl %0\n\tjnz 1b" : "+r"(n));
    return __rdtsc() - from;
}

static uint64_t shortest(uint64_t a, uint64_t b)
{
    return !a || (b && b < a) ? b : a;
}

/* The shortest of some runs. One that is far off is not run again: it is no matter of a busy host. */
static int measure(int kvm_fd, uint8_t cpl, uint64_t base, uint64_t here, uint64_t *ticks, struct err *err)
{
    *ticks = 0;
    for (unsigned i = 0; i < RUNS && (!i || (double)*ticks < 10 * times_native * (double)here); i++) {
        struct probe_vm vm = {.vm_fd = -1, .vcpu_fd = -1};
        int rc = vm_open(&vm, kvm_fd, err);
        if (!rc)
            rc = vcpu_point(&vm, cpl, base, err);
        if (!rc)
            *ticks = shortest(*ticks, loop_in_guest(&vm));
        vm_close(&vm);
        if (rc < 0)
            return rc;
        if (!*ticks)
            break;
    }
    return 0;
}

int probe_native(int kvm_fd, struct probe_result *result, struct err *err)
{
    uint64_t here = 0, kernel, user;
    *result = (struct probe_result){0};
    for (unsigned i = 0; i < 4 * RUNS; i++)
        here = shortest(here, loop_here());
    if (!here)
        return err_say(err, EIO, "the time stamp counter stands still");
    int rc = measure(kvm_fd, 3, 0, here, &user, err);
    if (!rc)
        rc = measure(kvm_fd, 0, KERNEL_HALF, here, &kernel, err);
    if (rc < 0)
        return err_wrap(err, "make a guest to probe KVM");
    result->user_times = (double)user / (double)here;
    result->kernel_times = (double)kernel / (double)here;
    result->native = kernel && result->kernel_times < times_native;
    if (!kernel)
        snprintf(result->reason, sizeof result->reason, "KVM does not run kernel code here: a loop of it did not end");
    else if (!result->native)
        snprintf(result->reason, sizeof result->reason,
                 "KVM emulates kernel code here: a loop of %d instructions took %.0f times as long as on the host",
                 2 * LOOPS, result->kernel_times);
    else
        snprintf(result->reason, sizeof result->reason,
                 "KVM runs kernel code natively: a loop of %d instructions took %.1f times as long as on the host",
                 2 * LOOPS, result->kernel_times);
    return 0;
}
