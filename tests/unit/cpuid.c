/* cpuid.c: claims about src/arch/cpuid.c: what no guest may ever see, whatever the host has. */
#include "arch/cpuid.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

enum reg { EAX, EBX, ECX, EDX };

#define BIT(n) (UINT32_C(1) << (n))

/* Named by the documents that define them, not by our list: the list is what is tested. */
static const struct {
    uint32_t leaf, subleaf;
    enum reg reg;
    unsigned bit;
    const char *name;
} forbidden[] = {
    {0x1, 0, ECX, 2, "dtes64"},
    {0x1, 0, ECX, 3, "monitor"},
    {0x1, 0, ECX, 5, "vmx"},
    {0x1, 0, ECX, 6, "smx"},
    {0x1, 0, ECX, 7, "est"},
    {0x1, 0, ECX, 11, "sdbg"},
    {0x1, 0, ECX, 15, "pdcm"},
    {0x1, 0, ECX, 18, "dca"},
    {0x1, 0, ECX, 27, "osxsave"},
    {0x1, 0, EDX, 21, "ds"},
    {0x1, 0, EDX, 22, "acpi"},
    {0x6, 0, EAX, 0, "digital thermal sensor"},
    {0x6, 0, EAX, 7, "hwp"},
    {0x6, 0, ECX, 0, "aperfmperf"},
    {0x7, 0, EBX, 2, "sgx"},
    {0x7, 0, EBX, 4, "hle"},
    {0x7, 0, EBX, 11, "rtm"},
    {0x7, 0, EBX, 12, "rdt_m"},
    {0x7, 0, EBX, 14, "mpx"},
    {0x7, 0, EBX, 15, "rdt_a"},
    {0x7, 0, EBX, 25, "intel_pt"},
    {0x7, 0, ECX, 4, "ospke"},
    {0x7, 0, ECX, 5, "waitpkg"},
    {0x7, 0, ECX, 7, "shstk"},
    {0x7, 0, ECX, 13, "tme"},
    {0x7, 0, ECX, 16, "la57"},
    {0x7, 0, ECX, 23, "key locker"},
    {0x7, 0, ECX, 24, "bus_lock_detect"},
    {0x7, 0, ECX, 29, "enqcmd"},
    {0x7, 0, ECX, 30, "sgx_lc"},
    {0x7, 0, ECX, 31, "pks"},
    {0x7, 0, EDX, 5, "uintr"},
    {0x7, 0, EDX, 11, "rtm_always_abort"},
    {0x7, 0, EDX, 18, "pconfig"},
    {0x7, 0, EDX, 19, "arch_lbr"},
    {0x7, 0, EDX, 20, "ibt"},
    {0x7, 0, EDX, 22, "amx_bf16"},
    {0x7, 0, EDX, 24, "amx_tile"},
    {0x7, 0, EDX, 25, "amx_int8"},
    {0x7, 1, EAX, 8, "arch_perfmon_ext"},
    {0x7, 1, EAX, 17, "fred"},
    {0x7, 1, EAX, 18, "lkgs"},
    {0x7, 1, EAX, 21, "amx_fp16"},
    {0x7, 1, EAX, 22, "hreset"},
    {0x7, 1, EAX, 26, "lam"},
    {0x7, 1, EDX, 8, "amx_complex"},
    {0x7, 1, EDX, 15, "user_msr"},
    {0x7, 1, EDX, 18, "cet_sss"},
    {0x7, 1, EDX, 19, "avx10"},
    {0x7, 1, EDX, 21, "apx"},
    {0xd, 1, EAX, 4, "xfd"},
    {0x40000001, 0, EAX, 4, "async_pf"},
    {0x40000001, 0, EAX, 10, "async_pf_vmexit"},
    {0x40000001, 0, EAX, 14, "async_pf_int"},
    {0x40000001, 0, EAX, 15, "msi_ext_dest_id"},
    {0x40000001, 0, EAX, 16, "hc_map_gpa_range"},
    {0x40000001, 0, EAX, 17, "migration_control"},
    {0x80000001, 0, ECX, 2, "svm"},
    {0x80000001, 0, ECX, 10, "ibs"},
    {0x80000001, 0, ECX, 12, "skinit"},
    {0x80000001, 0, ECX, 13, "wdt"},
    {0x80000001, 0, ECX, 15, "lwp"},
    {0x80000001, 0, ECX, 19, "nodeid_msr"},
    {0x80000001, 0, ECX, 23, "perfctr_core"},
    {0x80000001, 0, ECX, 24, "perfctr_nb"},
    {0x80000001, 0, ECX, 26, "bpext"},
    {0x80000001, 0, ECX, 27, "ptsc"},
    {0x80000001, 0, ECX, 28, "perfctr_llc"},
    {0x80000001, 0, ECX, 29, "mwaitx"},
    {0x80000007, 0, EDX, 1, "fid"},
    {0x80000008, 0, EBX, 1, "irperf"},
    {0x80000008, 0, EBX, 4, "rdpru"},
    {0x80000008, 0, EBX, 6, "mba"},
    {0x80000021, 0, EAX, 7, "upper_address_ignore"},
};

/* Leaves of features no guest has: performance counters, processor trace, SGX, AMX, SVM, SEV, IBS, LWP, FRED... */
static const uint32_t forbidden_leaves[] = {
    0x5,        0xa,        0xf,        0x10,       0x12,       0x14,       0x17,       0x18,      0x19,
    0x1a,       0x1b,       0x1c,       0x1d,       0x1e,       0x20,       0x23,       0x24,      0x40000010,
    0x8000000a, 0x8000001b, 0x8000001c, 0x8000001f, 0x80000020, 0x80000022, 0x80000023, 0x80000026};

static void host_add(struct cpuid_host *host, uint32_t leaf, uint32_t subleaf, bool indexed, uint32_t ones)
{
    host->entry[host->nent++] = (struct kvm_cpuid_entry2){.function = leaf,
                                                          .index = subleaf,
                                                          .flags = indexed ? 1 : 0,
                                                          .eax = ones,
                                                          .ebx = ones,
                                                          .ecx = ones,
                                                          .edx = ones};
}

static bool is_indexed(uint32_t leaf)
{
    return leaf == 0x4 || leaf == 0x7 || leaf == 0xb || leaf == 0xd || (leaf >= 0xf && leaf <= 0x24) ||
           leaf == 0x8000001d || leaf == 0x80000020;
}

static void set_vendor(struct cpuid_host *host, const char *vendor)
{
    memcpy(&host->entry[0].ebx, vendor, 4);
    memcpy(&host->entry[0].edx, vendor + 4, 4);
    memcpy(&host->entry[0].ecx, vendor + 8, 4);
}

/* A host that has everything anybody will ever think of. */
static struct cpuid_host host_of_the_future(void)
{
    struct cpuid_host host = {0};
    for (uint32_t leaf = 0; leaf <= 0x24; leaf++) {
        for (uint32_t sub = 0; sub < (is_indexed(leaf) && leaf != 0xd ? 3 : 1); sub++)
            host_add(&host, leaf, sub, is_indexed(leaf), UINT32_MAX);
    }
    host_add(&host, 0xd, 1, true, UINT32_MAX);
    for (uint32_t i = 2; i < 20; i++) {
        host_add(&host, 0xd, i, true, 0);
        host.entry[host.nent - 1].eax = i == 18 ? 8192 : 64;
        host.entry[host.nent - 1].ebx = 576 + i * 256;
    }
    host_add(&host, 0x40000000, 0, false, UINT32_MAX);
    host_add(&host, 0x40000001, 0, false, UINT32_MAX);
    host_add(&host, 0x40000010, 0, false, UINT32_MAX);
    for (uint32_t leaf = 0x80000000; leaf <= 0x80000026; leaf++)
        host_add(&host, leaf, 0, is_indexed(leaf), UINT32_MAX);
    set_vendor(&host, "GenuineIntel");
    assert_true(host.nent <= CPUID_HOST_ENTRIES_MAX);
    return host;
}

static struct kvm_cpuid_entry2 lookup(const struct cpuid *guest, uint32_t leaf, uint32_t subleaf)
{
    for (uint32_t i = 0; i < guest->nent; i++) {
        const struct kvm_cpuid_entry2 *e = &guest->entry[i];
        if (e->function == leaf && (!(e->flags & 1) || e->index == subleaf))
            return *e;
    }
    return (struct kvm_cpuid_entry2){0};
}

static uint32_t value(const struct cpuid *guest, uint32_t leaf, uint32_t subleaf, enum reg reg)
{
    struct kvm_cpuid_entry2 e = lookup(guest, leaf, subleaf);
    return reg == EAX ? e.eax : reg == EBX ? e.ebx : reg == ECX ? e.ecx : e.edx;
}

static struct cpuid built(const struct cpuid_host *host, unsigned vcpus)
{
    struct cpuid guest;
    struct err err = {0};
    assert_int_equal(cpuid_build(host, vcpus, &guest, &err), 0);
    assert_true(guest.nent > 0 && guest.nent < CPUID_ENTRIES_MAX);
    return guest;
}

static void a_host_with_everything_shows_nothing_forbidden(void **state)
{
    struct cpuid_host host = host_of_the_future();
    struct cpuid guest = built(&host, 4);
    for (size_t i = 0; i < sizeof forbidden / sizeof forbidden[0]; i++) {
        if (value(&guest, forbidden[i].leaf, forbidden[i].subleaf, forbidden[i].reg) >> forbidden[i].bit & 1)
            fail_msg("the guest is shown %s", forbidden[i].name);
    }
    for (size_t i = 0; i < sizeof forbidden_leaves / sizeof forbidden_leaves[0]; i++) {
        struct kvm_cpuid_entry2 e = lookup(&guest, forbidden_leaves[i], 0);
        if (e.eax | e.ebx | e.ecx | e.edx)
            fail_msg("the guest is shown leaf 0x%x", forbidden_leaves[i]);
    }
}

static void a_host_with_everything_shows_what_guests_need(void **state)
{
    struct cpuid_host host = host_of_the_future();
    struct cpuid guest = built(&host, 4);
    assert_true(value(&guest, 1, 0, ECX) & BIT(31));          /* hypervisor */
    assert_true(value(&guest, 1, 0, ECX) & BIT(24));          /* TSC deadline */
    assert_true(value(&guest, 1, 0, ECX) & BIT(21));          /* x2APIC */
    assert_true(value(&guest, 1, 0, ECX) & BIT(28));          /* AVX */
    assert_true(value(&guest, 7, 0, EBX) & BIT(16));          /* AVX-512 */
    assert_true(value(&guest, 0x80000001, 0, EDX) & BIT(29)); /* long mode */
    assert_true(value(&guest, 0x40000001, 0, EAX) & BIT(3));  /* kvmclock */
    assert_true(value(&guest, 0, 0, EAX) <= 0x1f);
    assert_int_equal(value(&guest, 0x40000000, 0, EAX), 0x40000001);
}

static void hypervisor_and_deadline_timer_are_on_though_kvm_does_not_list_them(void **state)
{
    struct cpuid_host host = {0};
    host_add(&host, 0, 0, false, 0xd);
    host_add(&host, 1, 0, false, 0);
    host.entry[1].eax = 0x600; /* a family */
    struct cpuid guest = built(&host, 1);
    assert_int_equal(value(&guest, 1, 0, ECX), BIT(31) | BIT(24));
    assert_int_equal(value(&guest, 1, 0, EDX), 0);
}

static void the_xsave_leaf_has_components_of_allowed_features_only(void **state)
{
    struct cpuid_host host = host_of_the_future();
    struct cpuid guest = built(&host, 1);
    struct kvm_cpuid_entry2 main = lookup(&guest, 0xd, 0), one = lookup(&guest, 0xd, 1);
    assert_int_equal(main.eax, 0x2e7); /* x87, SSE, AVX, AVX-512, PKRU */
    assert_int_equal(main.edx, 0);
    assert_int_equal(main.ecx, 576 + 9 * 256 + 64); /* ends with PKRU */
    assert_int_equal(one.ecx, 0);                   /* no supervisor state: CET, PT, PASID, HDC, LBR */
    assert_int_equal(one.edx, 0);
    for (uint32_t i = 2; i < 32; i++)
        assert_int_equal(lookup(&guest, 0xd, i).eax != 0, 0x2e7 >> i & 1);
}

static void without_avx_512_its_components_go_too(void **state)
{
    struct cpuid_host host = host_of_the_future();
    for (uint32_t i = 0; i < host.nent; i++) {
        if (host.entry[i].function == 7 && host.entry[i].index == 0)
            host.entry[i].ebx &= ~BIT(16);
    }
    struct cpuid guest = built(&host, 1);
    assert_int_equal(lookup(&guest, 0xd, 0).eax, 0x207);
    assert_int_equal(lookup(&guest, 0xd, 6).eax, 0);
}

static void topology_is_one_package_of_single_threaded_cores(void **state)
{
    struct cpuid_host host = host_of_the_future();
    static const unsigned counts[] = {1, 2, 3, 16};
    for (size_t c = 0; c < sizeof counts / sizeof counts[0]; c++) {
        unsigned n = counts[c];
        struct cpuid guest = built(&host, n);
        unsigned bits = lookup(&guest, 0xb, 1).eax;
        assert_true(1u << bits >= n && 1u << bits < 2 * n);
        for (unsigned id = 0; id < n; id++) {
            cpuid_for_vcpu(&guest, id);
            assert_int_equal(value(&guest, 1, 0, EBX) >> 24, id);
            assert_int_equal(value(&guest, 1, 0, EBX) >> 16 & 0xff, n);
            assert_int_equal(value(&guest, 1, 0, EDX) >> 28 & 1, n > 1);
            assert_int_equal(value(&guest, 0xb, 0, EBX), 1);
            assert_int_equal(value(&guest, 0xb, 0, EDX), id);
            assert_int_equal(value(&guest, 0xb, 1, EBX), n);
            assert_int_equal(value(&guest, 0xb, 1, EDX), id);
            assert_int_equal(value(&guest, 0x1f, 1, EDX), id);
            assert_int_equal(value(&guest, 0x80000008, 0, ECX) & 0xff, n - 1);
            assert_int_equal(value(&guest, 0x8000001e, 0, EAX), id);
            assert_int_equal(value(&guest, 0x8000001e, 0, EBX), id);
            assert_int_equal(value(&guest, 0x80000001, 0, ECX) >> 1 & 1, n > 1);
        }
    }
}

static void caches_beyond_the_second_level_are_shared_by_all(void **state)
{
    struct cpuid_host host = {0};
    host_add(&host, 0, 0, false, 0x1f);
    host_add(&host, 1, 0, false, 0);
    for (uint32_t level = 1; level <= 3; level++) {
        host_add(&host, 4, level - 1, true, 0);
        host.entry[host.nent - 1].eax = 0xffffc000 | level << 5 | 1;
    }
    host_add(&host, 4, 3, true, 0);
    struct cpuid guest = built(&host, 8);
    assert_int_equal(lookup(&guest, 4, 0).eax >> 14 & 0xfff, 0);
    assert_int_equal(lookup(&guest, 4, 1).eax >> 14 & 0xfff, 0);
    assert_int_equal(lookup(&guest, 4, 2).eax >> 14 & 0xfff, 7);
    assert_int_equal(lookup(&guest, 4, 2).eax >> 26, 7);
    assert_int_equal(lookup(&guest, 4, 3).eax, 0);
}

static void a_host_that_lacks_a_feature_is_told_which(void **state)
{
    struct cpuid_host host = host_of_the_future();
    struct cpuid guest = built(&host, 2);
    struct err err = {0};
    assert_int_equal(cpuid_check_host(&guest, &host, &err), 0);
    for (uint32_t i = 0; i < host.nent; i++) {
        if (host.entry[i].function == 7 && host.entry[i].index == 0)
            host.entry[i].ebx &= ~BIT(5);
    }
    assert_int_equal(cpuid_check_host(&guest, &host, &err), -ENOTSUP);
    assert_string_equal(err.text, "the state uses the CPU feature avx2, which this host lacks");
}

static void a_host_of_another_vendor_is_refused(void **state)
{
    struct cpuid_host host = host_of_the_future();
    struct cpuid guest = built(&host, 2);
    struct err err = {0};
    set_vendor(&host, "AuthenticAMD");
    assert_int_equal(cpuid_check_host(&guest, &host, &err), -ENOTSUP);
    assert_string_equal(err.text, "the state is of GenuineIntel CPUs, this host's are AuthenticAMD");
}

static void a_set_from_a_file_may_hold_only_what_is_on_the_list(void **state)
{
    struct cpuid_host host = host_of_the_future();
    struct err err = {0};
    struct cpuid good = built(&host, 2);
    assert_int_equal(cpuid_check_list(&good, &err), 0);

    struct cpuid bad = good;
    for (uint32_t i = 0; i < bad.nent; i++) {
        if (bad.entry[i].function == 0x80000001)
            bad.entry[i].ecx |= BIT(2);
    }
    assert_int_equal(cpuid_check_list(&bad, &err), -EINVAL);
    assert_string_equal(err.text,
                        "the state has a CPU feature that is not for guests: bit 2 of ECX in CPUID leaf 0x80000001.0");

    bad = good;
    bad.entry[bad.nent++] = (struct kvm_cpuid_entry2){.function = 0x8000000a, .eax = 1};
    assert_int_equal(cpuid_check_list(&bad, &err), -EINVAL);

    bad = good;
    for (uint32_t i = 0; i < bad.nent; i++) {
        if (bad.entry[i].function == 0xd && bad.entry[i].index == 0)
            bad.entry[i].eax |= 3 << 17;
    }
    assert_int_equal(cpuid_check_list(&bad, &err), -EINVAL);
}

static void a_set_packs_and_unpacks_to_itself(void **state)
{
    struct cpuid_host host = host_of_the_future();
    struct cpuid guest = built(&host, 2), back;
    uint8_t buf[8192];
    struct pack p = pack_into(buf, sizeof buf);
    cpuid_pack(&guest, &p);
    assert_false(p.full);
    struct unpack u = unpack_from(buf, p.len);
    assert_true(cpuid_unpack(&back, &u));
    assert_true(unpack_done(&u));
    assert_memory_equal(&back, &guest, sizeof guest);

    memset(buf, 0xff, 4); /* a count that lies */
    u = unpack_from(buf, p.len);
    assert_false(cpuid_unpack(&back, &u));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_host_with_everything_shows_nothing_forbidden),
        cmocka_unit_test(a_host_with_everything_shows_what_guests_need),
        cmocka_unit_test(hypervisor_and_deadline_timer_are_on_though_kvm_does_not_list_them),
        cmocka_unit_test(the_xsave_leaf_has_components_of_allowed_features_only),
        cmocka_unit_test(without_avx_512_its_components_go_too),
        cmocka_unit_test(topology_is_one_package_of_single_threaded_cores),
        cmocka_unit_test(caches_beyond_the_second_level_are_shared_by_all),
        cmocka_unit_test(a_host_that_lacks_a_feature_is_told_which),
        cmocka_unit_test(a_host_of_another_vendor_is_refused),
        cmocka_unit_test(a_set_from_a_file_may_hold_only_what_is_on_the_list),
        cmocka_unit_test(a_set_packs_and_unpacks_to_itself),
    };
    return cmocka_run_group_tests_name("cpuid", tests, NULL, NULL);
}
