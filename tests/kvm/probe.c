/* probe.c: the probe tells how kernel code runs here, in words that fit what it measured. */
#include "kvm/check.h"

#include "base/own.h"
#include "sys/kvm.h"
#include "vmm/probe.h"

#include <string.h>

/* User code of the lower half is run by the CPU itself on every KVM there is; the shortest of a few runs shows it
 * on a busy host as well. */
static void test_probe_measures_a_real_guest(void **state)
{
    struct probe_result result;
    struct err err = {0};
    own_fd int kvm_fd = kvm_open(&err);
    assert_true(kvm_fd >= 0);
    must(probe_native(kvm_fd, &result, &err));
    assert_true(result.user_times > 0.1 && result.user_times < 100);
    assert_true(result.kernel_times > 0.1);
    assert_non_null(strstr(result.reason, result.native ? "natively" : "emulates"));
}

int main(void)
{
    check_kvm();
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_probe_measures_a_real_guest)};
    return cmocka_run_group_tests_name("the probe of KVM", tests, NULL, NULL);
}
