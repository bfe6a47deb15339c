/* doctor_host.c: limits, the clock, and what networks would need. */
#include "cli/doctor.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/capability.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>
#include <unistd.h>

enum { DESCRIPTORS_WANTED = 8192 };

/* Where cgroup v2 is mounted, from mountinfo. */
static bool cgroup2_mount(char *path, size_t cap)
{
    static char mounts[1 << 16];
    char where[1024];
    if (host_text("/proc/self/mountinfo", mounts, sizeof mounts) < 0)
        return false;
    for (char *save, *line = strtok_r(mounts, "\n", &save); line; line = strtok_r(NULL, "\n", &save))
        if (strstr(line, " - cgroup2 ") && sscanf(line, "%*s %*s %*s %*s %1023s", where) == 1) {
            snprintf(path, cap, "%s", where);
            return true;
        }
    return false;
}

static void check_cgroup(struct finding *f, const struct args *args)
{
    static const char mend[] = "boot with systemd.unified_cgroup_hierarchy=1 cgroup_enable=memory";
    char path[1100], text[512], mount[1024];
    looked_at(f, "cgroup v2");
    if (!cgroup2_mount(mount, sizeof mount)) {
        found(f, WARN, mend, "is not mounted: memory limits cannot be kept");
        return;
    }
    snprintf(path, sizeof path, "%s/cgroup.controllers", mount);
    looked_at(f, "%.500s", path);
    if (host_text(path, text, sizeof text) < 0)
        found(f, WARN, mend, "cannot be read: memory limits cannot be kept");
    else if (!text_has_word(text, "memory"))
        found(f, WARN, mend, "has no memory controller: memory limits cannot be kept");
    else
        found(f, PASS, "", "has: %.400s", text);
}

/* "Max open files  SOFT HARD files" */
static long long descriptors_hard(void)
{
    char text[4096];
    const char *line = host_text("/proc/self/limits", text, sizeof text) > 0 ? strstr(text, "Max open files") : NULL;
    char hard[32] = "";
    if (!line || sscanf(line + 14, "%*s %31s", hard) != 1)
        return -1;
    return !strcmp(hard, "unlimited") ? LLONG_MAX : strtoll(hard, NULL, 10);
}

static bool may_raise_limits(void)
{
    char text[8192];
    const char *line = host_text("/proc/self/status", text, sizeof text) > 0 ? strstr(text, "CapEff:") : NULL;
    return line && strtoull(line + 7, NULL, 16) >> CAP_SYS_RESOURCE & 1;
}

static void check_files(struct finding *f, const struct args *args)
{
    looked_at(f, "the limit of open files in /proc/self/limits");
    long long hard = descriptors_hard();
    if (hard >= DESCRIPTORS_WANTED)
        found(f, PASS, "", "can be raised to %lld; every sandbox takes four", hard);
    else if (may_raise_limits())
        found(f, PASS, "", "is %lld, and may be raised by this user", hard);
    else
        found(f, WARN, "ulimit -Hn 65536 as root, or nofile in /etc/security/limits.conf (LimitNOFILE= in a unit)",
              "cannot be raised above %lld; every sandbox takes four", hard);
}

static void check_clock(struct finding *f, const struct args *args)
{
    char text[64];
    looked_at(f, "/sys/devices/system/clocksource/clocksource0/current_clocksource");
    if (host_text(f->looked_at, text, sizeof text) < 0)
        found(f, WARN, "mount -t sysfs sys /sys", "cannot be read");
    else if (!strcmp(text, "tsc") || !strcmp(text, "kvm-clock"))
        found(f, PASS, "", "is %s", text);
    else
        found(f, WARN, "boot with tsc=reliable, if the CPUs' counters are, and look for 'clocksource' in dmesg",
              "is %s: every look at the clock is a system call, and guests' clocks are less steady", text);
}

static bool host_has(const char *path)
{
    char full[PATH_MAX];
    return access(host_path(path, full, sizeof full), F_OK) == 0;
}

/* Built in, loaded, or among the modules of the kernel that runs. */
static bool kernel_has(const char *module)
{
    static char list[1 << 20];
    static const char *const lists[] = {"modules.builtin", "modules.dep"};
    struct utsname kernel;
    char path[PATH_MAX], file[96];
    snprintf(path, sizeof path, "/sys/module/%s", module);
    if (host_has(path) || uname(&kernel) < 0)
        return host_has(path);
    snprintf(file, sizeof file, "/%s.ko", module);
    for (size_t i = 0; i < 2; i++) {
        snprintf(path, sizeof path, "/lib/modules/%s/%s", kernel.release, lists[i]);
        if (host_text(path, list, sizeof list) > 0 && strstr(list, file))
            return true;
    }
    return false;
}

/* Sandboxes have no network in this version; these two say whether the host could give them one. */
static void check_nft(struct finding *f, const struct args *args)
{
    looked_at(f, "nf_tables of the kernel and the program nft");
    bool kernel = kernel_has("nf_tables"), program = host_has("/usr/sbin/nft") || host_has("/sbin/nft");
    if (kernel && program)
        found(f, PASS, "", "are there");
    else
        found(f, WARN, kernel ? "apt-get install nftables" : "a kernel with CONFIG_NF_TABLES (Debian's has it)",
              "are not both there: %s is missing; only networks of sandboxes would need it",
              kernel ? "the program" : "the kernel's part");
}

static void check_tap(struct finding *f, const struct args *args)
{
    looked_at(f, "/dev/net/tun");
    if (host_has("/dev/net/tun"))
        found(f, PASS, "", "is there");
    else
        found(f, WARN, "modprobe tun", "is not there; only networks of sandboxes would need it");
}

const struct doctor_check doctor_host[] = {
    {"cgroup", check_cgroup}, {"open-files", check_files}, {"clock-source", check_clock},
    {"nftables", check_nft},  {"tap", check_tap},          {0},
};
