/* vcpu_state.c: claims about a vCPU's state: it loads back equal, loses no timer, and is checked when it comes from
 * a file. What needs KVM asks for /dev/kvm and nothing more. */
#include "arch/vcpu_state.h"
#include "arch/boot.h"
#include "base/own.h"
#include "skip.h"
#include "sys/kvm.h"

#include <errno.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

enum { RAM = 4 << 20, APIC_LVTT = 0x320, APIC_SPIV = 0xf0, LVTT_TSC_DEADLINE = 2 << 17, TIMER_VECTOR = 0x40 };

struct vm {
    int kvm_fd, vm_fd, vcpu_fd;
    void *ram;
};

static void vm_open(struct vm *vm)
{
    struct err err = {0};
    *vm = (struct vm){.vm_fd = -1, .vcpu_fd = -1};
    vm->kvm_fd = kvm_open(&err);
    if (vm->kvm_fd < 0)
        skip_because("%s", err.text);
    vm->ram = mmap(NULL, RAM, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert_ptr_not_equal(vm->ram, MAP_FAILED);
    vm->vm_fd = kvm_vm_create(vm->kvm_fd, &err);
    assert_true(vm->vm_fd >= 0);
    assert_int_equal(kvm_tss_set(vm->vm_fd, BOARD_TSS_GPA, &err), 0);
    assert_int_equal(kvm_slot_set(vm->vm_fd, 0, 0, vm->ram, RAM, KVM_MEM_LOG_DIRTY_PAGES, &err), 0);
    assert_int_equal(kvm_split_irqchip(vm->vm_fd, 24, &err), 0);
    vm->vcpu_fd = kvm_vcpu_create(vm->vm_fd, 0, &err);
    assert_true(vm->vcpu_fd >= 0);
}

static void vm_close(struct vm *vm)
{
    fd_close(&vm->vcpu_fd);
    fd_close(&vm->vm_fd);
    fd_close(&vm->kvm_fd);
    munmap(vm->ram, RAM);
}

static void init(struct vm *vm, struct vcpu_state *state)
{
    struct cpuid_host host;
    struct cpuid cpuid;
    struct err err = {0};
    const struct boot_entry entry = {.rip = 2 << 20, .boot_params = BOARD_BOOT_PARAMS_GPA};
    assert_int_equal(cpuid_host_read(vm->kvm_fd, &host, &err), 0);
    assert_int_equal(cpuid_build(&host, 1, &cpuid, &err), 0);
    assert_int_equal(vcpu_state_init(state, vm->kvm_fd, vm->vcpu_fd, &cpuid, 0, &err), 0);
    assert_int_equal(boot_vcpu_init(vm->vcpu_fd, &entry, &err), 0);
}

/* A vCPU that differs from a fresh one in every part of its state. */
static void disturb(struct vm *vm)
{
    struct kvm_regs regs = {.rax = 1, .rbx = 2, .r15 = 15, .rip = 0x200010, .rsp = 0x8000, .rflags = 0x202};
    struct kvm_debugregs debug;
    struct kvm_vcpu_events events;
    struct kvm_lapic_state lapic;
    const uint32_t spiv = 0x1ff, lvtt = LVTT_TSC_DEADLINE | TIMER_VECTOR;
    const struct msr_state msrs = {.nmsrs = 3,
                                   .entry = {{.index = 0xc0000082, .data = 0x123456}, /* LSTAR */
                                             {.index = 0x277, .data = 0x0007040600070406},
                                             {.index = 0x200, .data = 6}}}; /* the first MTRR pair: write-back */
    struct err err = {0};
    assert_int_equal(ioctl(vm->vcpu_fd, KVM_SET_REGS, &regs), 0);
    assert_int_equal(ioctl(vm->vcpu_fd, KVM_GET_DEBUGREGS, &debug), 0);
    debug.db[0] = 0x1000;
    assert_int_equal(ioctl(vm->vcpu_fd, KVM_SET_DEBUGREGS, &debug), 0);
    assert_int_equal(ioctl(vm->vcpu_fd, KVM_GET_LAPIC, &lapic), 0);
    memcpy(lapic.regs + APIC_SPIV, &spiv, sizeof spiv);
    memcpy(lapic.regs + APIC_LVTT, &lvtt, sizeof lvtt);
    assert_int_equal(ioctl(vm->vcpu_fd, KVM_SET_LAPIC, &lapic), 0);
    assert_int_equal(msr_state_set(vm->vcpu_fd, &msrs, &err), 0);
    assert_int_equal(ioctl(vm->vcpu_fd, KVM_GET_VCPU_EVENTS, &events), 0);
    events.nmi.masked = 1;
    assert_int_equal(ioctl(vm->vcpu_fd, KVM_SET_VCPU_EVENTS, &events), 0);
}

static void set_deadline(struct vm *vm, uint64_t deadline)
{
    const struct msr_state msrs = {.nmsrs = 1, .entry = {{.index = MSR_TSC_DEADLINE, .data = deadline}}};
    struct err err = {0};
    assert_int_equal(msr_state_set(vm->vcpu_fd, &msrs, &err), 0);
}

static struct kvm_msr_entry *msr_find(struct vcpu_state *state, uint32_t index)
{
    for (uint32_t i = 0; i < state->msrs.nmsrs; i++) {
        if (state->msrs.entry[i].index == index)
            return &state->msrs.entry[i];
    }
    return NULL;
}

#define assert_part_equal(a, b, part) assert_memory_equal(&(a)->part, &(b)->part, sizeof(a)->part)

static void assert_states_equal(struct vcpu_state *a, struct vcpu_state *b)
{
    assert_part_equal(a, b, cpuid);
    assert_part_equal(a, b, mp_state);
    assert_part_equal(a, b, regs);
    assert_part_equal(a, b, sregs);
    assert_part_equal(a, b, xcrs);
    assert_part_equal(a, b, debugregs);
    assert_part_equal(a, b, lapic);
    assert_part_equal(a, b, events);
    assert_part_equal(a, b, xsave);
    assert_int_equal(a->msrs.nmsrs, b->msrs.nmsrs);
    for (uint32_t i = 0; i < a->msrs.nmsrs; i++) {
        char name[64];
        assert_int_equal(a->msrs.entry[i].index, b->msrs.entry[i].index);
        if (a->msrs.entry[i].index != MSR_TSC && a->msrs.entry[i].data != b->msrs.entry[i].data)
            fail_msg("%s is 0x%llx and was 0x%llx", msr_name(a->msrs.entry[i].index, name, sizeof name),
                     b->msrs.entry[i].data, a->msrs.entry[i].data);
    }
}

static void a_state_restored_into_a_new_vm_is_saved_as_the_same(void **state)
{
    static struct vcpu_state first, second;
    struct vm vm, other;
    struct err err = {0};
    vm_open(&vm);
    init(&vm, &first);
    disturb(&vm);
    set_deadline(&vm, UINT64_MAX / 2); /* far away */
    assert_int_equal(vcpu_state_save(vm.vcpu_fd, &first, &err), 0);
    assert_int_equal(first.regs.r15, 15);
    assert_int_equal(first.debugregs.db[0], 0x1000);
    assert_int_equal(first.events.nmi.masked, 1);
    assert_true(msr_find(&first, MSR_TSC_DEADLINE)->data == UINT64_MAX / 2);
    vm_open(&other);
    second = first;
    assert_int_equal(vcpu_state_restore(other.vcpu_fd, &first, &err), 0);
    assert_int_equal(vcpu_state_save(other.vcpu_fd, &second, &err), 0);
    assert_states_equal(&first, &second);
    vm_close(&other);
    vm_close(&vm);
}

/* Saves a counter of `value`, or one that is half a second ahead of a new VM's, and checks it in another VM. */
static void check_counter(uint64_t value)
{
    static struct vcpu_state first, second;
    struct vm vm, other;
    struct err err = {0};
    vm_open(&vm);
    init(&vm, &first);
    assert_int_equal(vcpu_state_save(vm.vcpu_fd, &first, &err), 0);
    struct kvm_msr_entry *was = msr_find(&first, MSR_TSC);
    was->data = value ? value : was->data + UINT64_C(500) * first.tsc_khz;
    vm_open(&other);
    second = first;
    assert_int_equal(vcpu_state_restore(other.vcpu_fd, &first, &err), 0);
    uint64_t before = __builtin_ia32_rdtsc();
    assert_int_equal(vcpu_state_save(other.vcpu_fd, &second, &err), 0);
    uint64_t after = __builtin_ia32_rdtsc(), is = msr_find(&second, MSR_TSC)->data;
    vm_close(&other);
    vm_close(&vm);
    if (is >= before && is <= after)
        skip_because("this KVM shows guests the host's own time stamp counter (kvm_pvm)");
    assert_true(is >= was->data);
    assert_true(is - was->data < UINT64_C(1) << 40); /* minutes, on any machine */
}

static void the_guests_counter_goes_on_from_where_it_was(void **state)
{
    check_counter(UINT64_C(1) << 50); /* as if the VM were days old */
}

static void the_counter_of_a_guest_younger_than_a_second_does_not_go_back(void **state)
{
    check_counter(0);
}

static void a_deadline_that_has_passed_fires_again_after_the_restore(void **state)
{
    static struct vcpu_state saved;
    struct vm vm;
    struct err err = {0};
    vm_open(&vm);
    init(&vm, &saved);
    disturb(&vm);
    set_deadline(&vm, 0); /* as KVM reads one that has passed */
    assert_int_equal(vcpu_state_save(vm.vcpu_fd, &saved, &err), 0);
    assert_true(msr_find(&saved, MSR_TSC_DEADLINE)->data != 0);
    assert_true(msr_find(&saved, MSR_TSC_DEADLINE)->data == msr_find(&saved, MSR_TSC)->data);
    vm_close(&vm);
}

static void without_tsc_deadline_mode_no_deadline_is_made_up(void **state)
{
    static struct vcpu_state saved;
    struct vm vm;
    struct err err = {0};
    vm_open(&vm);
    init(&vm, &saved);
    assert_int_equal(vcpu_state_save(vm.vcpu_fd, &saved, &err), 0);
    assert_true(msr_find(&saved, MSR_TSC_DEADLINE)->data == 0);
    vm_close(&vm);
}

static void an_msr_that_kvm_refuses_is_named(void **state)
{
    static struct vcpu_state saved;
    struct vm vm, other;
    struct err err = {0};
    vm_open(&vm);
    init(&vm, &saved);
    assert_int_equal(vcpu_state_save(vm.vcpu_fd, &saved, &err), 0);
    msr_find(&saved, MSR_MTRR_DEF_TYPE)->data = UINT64_MAX; /* no such memory type */
    vm_open(&other);
    assert_int_equal(vcpu_state_restore(other.vcpu_fd, &saved, &err), -EIO);
    assert_string_equal(err.text, "KVM refuses to set the MSR IA32_MTRR_DEF_TYPE (0x2ff)");
    vm_close(&other);
    vm_close(&vm);
}

static void this_host_can_run_what_it_made(void **state)
{
    static struct vcpu_state saved;
    struct vm vm;
    struct err err = {0};
    vm_open(&vm);
    init(&vm, &saved);
    assert_int_equal(vcpu_state_check_host(&saved, vm.kvm_fd, &err), 0);
    saved.xsave_size += 64;
    assert_int_equal(vcpu_state_check_host(&saved, vm.kvm_fd, &err), -ENOTSUP);
    vm_close(&vm);
}

static void kvm_is_checked_by_asking_it(void **state)
{
    struct err err = {0};
    own_fd int not_kvm = memfd_create("file", MFD_CLOEXEC);
    assert_true(kvm_check(not_kvm, &err) < 0);
    assert_non_null(strstr(err.text, "/dev/kvm is not KVM"));
}

/* --- the packed form: no KVM needed --- */

/* A state with another value in every field, all of them allowed. */
static void fill(struct vcpu_state *s)
{
    memset(s, 0, sizeof *s);
    s->cpuid.nent = 1;
    s->cpuid.entry[0] = (struct kvm_cpuid_entry2){.function = 0, .eax = 0xd, .ebx = 0x756e6547};
    s->msrs.nmsrs = 3;
    s->msrs.entry[0] = (struct kvm_msr_entry){.index = MSR_TSC, .data = 1000};
    s->msrs.entry[1] = (struct kvm_msr_entry){.index = 0x4b564d00, .data = 0x1001};
    s->msrs.entry[2] = (struct kvm_msr_entry){.index = MSR_TSC_DEADLINE, .data = 2000};
    s->tsc_khz = 2596138;
    s->mp_state.mp_state = KVM_MP_STATE_HALTED;
    uint8_t *parts[] = {(uint8_t *)&s->regs, (uint8_t *)s->lapic.regs, s->xsave, (uint8_t *)&s->debugregs};
    const size_t sizes[] = {sizeof s->regs, sizeof s->lapic.regs, 4096, 7 * 8};
    for (size_t k = 0; k < 4; k++) {
        for (size_t i = 0; i < sizes[k]; i++)
            parts[k][i] = (uint8_t)(i * 13 + k);
    }
    s->xsave_size = 4096;
    struct kvm_segment *segments[] = {&s->sregs.cs, &s->sregs.ds, &s->sregs.es, &s->sregs.fs,
                                      &s->sregs.gs, &s->sregs.ss, &s->sregs.tr, &s->sregs.ldt};
    for (uint8_t i = 0; i < 8; i++) {
        *segments[i] = (struct kvm_segment){.base = i + 1u, .limit = i + 2u, .selector = i, .type = 3, .present = 1};
        segments[i]->dpl = 3;
        segments[i]->db = i & 1;
        segments[i]->s = 1;
        segments[i]->l = i >> 1 & 1;
        segments[i]->g = i >> 2 & 1;
        segments[i]->avl = 1;
        segments[i]->unusable = 1;
    }
    s->sregs.gdt = (struct kvm_dtable){.base = 0x500, .limit = 47};
    s->sregs.idt = (struct kvm_dtable){.base = 0x600, .limit = 48};
    s->sregs.cr0 = 1;
    s->sregs.cr2 = 2;
    s->sregs.cr3 = 3;
    s->sregs.cr4 = 4;
    s->sregs.cr8 = 8;
    s->sregs.efer = 0x500;
    s->sregs.apic_base = 0xfee00900;
    s->sregs.interrupt_bitmap[3] = 9;
    s->xcrs.nr_xcrs = 1;
    s->xcrs.xcrs[0].value = 7;
    s->events = (struct kvm_vcpu_events){.exception = {1, 2, 3, 4, 5},
                                         .interrupt = {6, 7, 8, 9},
                                         .nmi = {10, 11, 12, 0},
                                         .sipi_vector = 13,
                                         .flags = 14,
                                         .smi = {15, 16, 17, 18},
                                         .triple_fault = {19},
                                         .exception_has_payload = 20,
                                         .exception_payload = 21};
}

static size_t packed(const struct vcpu_state *s, uint8_t buf[VCPU_STATE_PACKED_MAX])
{
    struct pack p = pack_into(buf, VCPU_STATE_PACKED_MAX);
    vcpu_state_pack(s, &p);
    assert_false(p.full);
    return p.len;
}

static void a_state_packs_and_unpacks_to_itself(void **state)
{
    static struct vcpu_state s, back;
    static uint8_t buf[VCPU_STATE_PACKED_MAX];
    struct err err = {0};
    fill(&s);
    struct unpack u = unpack_from(buf, packed(&s, buf));
    assert_int_equal(vcpu_state_unpack(&back, &u, &err), 0);
    assert_true(unpack_done(&u));
    assert_memory_equal(&back, &s, sizeof s);
}

static void the_largest_state_fits_its_bound(void **state)
{
    static struct vcpu_state s;
    static uint8_t buf[VCPU_STATE_PACKED_MAX];
    fill(&s);
    s.cpuid.nent = CPUID_ENTRIES_MAX;
    s.msrs.nmsrs = MSR_STATE_MAX;
    s.xcrs.nr_xcrs = KVM_MAX_XCRS;
    s.xsave_size = VCPU_XSAVE_MAX;
    packed(&s, buf);
}

static void a_state_cut_anywhere_is_refused(void **state)
{
    static struct vcpu_state s, back;
    static uint8_t buf[VCPU_STATE_PACKED_MAX];
    struct err err = {0};
    fill(&s);
    size_t len = packed(&s, buf);
    for (size_t cut = 0; cut < len; cut++) {
        struct unpack u = unpack_from(buf, cut);
        assert_int_equal(vcpu_state_unpack(&back, &u, &err), -EINVAL);
    }
}

static void a_state_that_lies_is_refused_in_words(void **state)
{
    static struct vcpu_state s, back;
    static uint8_t buf[VCPU_STATE_PACKED_MAX];
    struct err err = {0};
#define BAD(change, words)                                                                                             \
    do {                                                                                                               \
        fill(&s);                                                                                                      \
        change;                                                                                                        \
        struct unpack u = unpack_from(buf, packed(&s, buf));                                                           \
        assert_int_equal(vcpu_state_unpack(&back, &u, &err), -EINVAL);                                                 \
        assert_non_null(strstr(err.text, words));                                                                      \
    } while (0)
    BAD(s.msrs.entry[1].index = 0xc0010117, "has the MSR 0xc0010117, which is not a guest's"); /* VM_HSAVE_PA */
    BAD(s.msrs.entry[1].index = 0xc0000080, "has the MSR 0xc0000080");                         /* EFER */
    BAD(s.msrs.entry[1].index = MSR_TSC, "out of order");
    BAD(s.msrs.entry[0].index = MSR_TSC_DEADLINE, "out of order");
    BAD(s.msrs.entry[0].index = 0x4b564d00, "twice");
    BAD(s.mp_state.mp_state = 99, "unknown MP state 99");
    BAD(s.xsave_size = 512, "512 bytes of XSAVE state");
    BAD(s.xcrs.nr_xcrs = KVM_MAX_XCRS + 1, "malformed");
    BAD(s.cpuid.nent = CPUID_ENTRIES_MAX + 1, "malformed");
    BAD(s.msrs.nmsrs = MSR_STATE_MAX + 1, "malformed");
    BAD(s.cpuid.entry[0].function = 0xa, "CPUID leaf 0xa.0, which is not for guests");
#undef BAD
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_state_restored_into_a_new_vm_is_saved_as_the_same),
        cmocka_unit_test(the_guests_counter_goes_on_from_where_it_was),
        cmocka_unit_test(the_counter_of_a_guest_younger_than_a_second_does_not_go_back),
        cmocka_unit_test(a_deadline_that_has_passed_fires_again_after_the_restore),
        cmocka_unit_test(without_tsc_deadline_mode_no_deadline_is_made_up),
        cmocka_unit_test(an_msr_that_kvm_refuses_is_named),
        cmocka_unit_test(this_host_can_run_what_it_made),
        cmocka_unit_test(kvm_is_checked_by_asking_it),
        cmocka_unit_test(a_state_packs_and_unpacks_to_itself),
        cmocka_unit_test(the_largest_state_fits_its_bound),
        cmocka_unit_test(a_state_cut_anywhere_is_refused),
        cmocka_unit_test(a_state_that_lies_is_refused_in_words),
    };
    return cmocka_run_group_tests_name("vcpu_state", tests, NULL, NULL);
}
