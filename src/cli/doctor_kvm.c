/* doctor_kvm.c: KVM, and how it runs guests and makes VMs. */
#include "base/own.h"
#include "cli/doctor.h"
#include "cli/probe.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/kvm.h>
#include <string.h>
#include <sys/ioctl.h>

static void check_kvm(struct finding *f, const struct args *args)
{
    static const char modprobe[] =
        "modprobe kvm_amd || modprobe kvm_intel (and switch virtualisation on in the firmware)";
    char path[PATH_MAX];
    looked_at(f, "/dev/kvm");
    own_fd int fd = open(host_path("/dev/kvm", path, sizeof path), O_RDWR | O_CLOEXEC);
    if (fd >= 0 && ioctl(fd, KVM_GET_API_VERSION, NULL) == KVM_API_VERSION)
        found(f, PASS, "", "can be opened and speaks version %d of the interface", KVM_API_VERSION);
    else if (fd >= 0)
        found(f, FAIL, modprobe, "is no KVM device");
    else if (errno == EACCES || errno == EPERM)
        found(f, FAIL, "usermod -aG kvm $USER, then log in again", "may not be opened by this user");
    else if (errno == ENOENT)
        found(f, FAIL, modprobe, "is not there");
    else
        found(f, FAIL, modprobe, "cannot be opened: %s", strerrordesc_np(errno));
}

static void check_native(struct finding *f, const struct args *args)
{
    struct probe probe;
    struct err err;
    looked_at(f, "a guest of a few bytes, run by forkd-vmm --probe,");
    if (probe_host(&probe, &err) < 0)
        found(f, FAIL, "install forkd again, or set FORKD_VMM to the program forkd-vmm", "was not run: %s", err.text);
    else if (probe.native)
        found(f, PASS, "", "ran kernel code at native speed");
    else
        found(f, FAIL, "forkd quickstart --in-lab (an emulated KVM host), or a host with hardware virtualisation",
              "did not: %s", probe.reason);
}

/* Without huge pages for executable memory off, a VM's making starts a thread of the kernel that moves between cgroups,
 * which waits for an RCU grace period unless cgroup2 is mounted favordynmods: 100 ms and more on Linux 6.1. */
static void check_nx(struct finding *f, const struct args *args)
{
    static char mounts[1 << 16];
    char text[32];
    looked_at(f, "/sys/module/kvm/parameters/nx_huge_pages");
    if (host_text(f->looked_at, text, sizeof text) < 0) {
        found(f, PASS, "", "is not there: nothing to slow down the making of a VM");
        return;
    }
    bool quick = !strcmp(text, "N") || !strcmp(text, "never") || !strcmp(text, "0");
    bool favoured =
        host_text("/proc/self/mountinfo", mounts, sizeof mounts) > 0 && text_has_word(mounts, "favordynmods");
    if (quick)
        found(f, PASS, "", "is %s", text);
    else if (favoured)
        found(f, PASS, "", "is %s, but cgroup2 is mounted favordynmods", text);
    else
        found(f, WARN,
              "echo never > /sys/module/kvm/parameters/nx_huge_pages (at boot: kvm.nx_huge_pages=never), or mount -o "
              "remount,favordynmods /sys/fs/cgroup",
              "is %s and cgroup2 is not mounted favordynmods: on some kernels making a VM then takes 100 ms", text);
}

const struct doctor_check doctor_kvm[] = {
    {"kvm", check_kvm}, {"kvm-native", check_native}, {"nx-huge-pages", check_nx}, {0}};
