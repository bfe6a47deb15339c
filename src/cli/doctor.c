/* doctor.c: forkd doctor. Each check looks at one thing, says what it found, and names the command that mends it. */
#include "base/io.h"
#include "base/own.h"
#include "cli/cli.h"
#include "cli/images.h"
#include "cli/private.h"
#include "cli/probe.h"

#include <fcntl.h>
#include <limits.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/statvfs.h>

enum verdict { PASS, WARN, FAIL };

struct finding {
    const char *check, *looked_at;
    enum verdict verdict;
    char found[400], remedy[200];
};

static void found(struct finding *f, enum verdict verdict, const char *remedy, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));

static void found(struct finding *f, enum verdict verdict, const char *remedy, const char *fmt, ...)
{
    va_list args;
    f->verdict = verdict;
    snprintf(f->remedy, sizeof f->remedy, "%s", remedy);
    va_start(args, fmt);
    vsnprintf(f->found, sizeof f->found, fmt, args);
    va_end(args);
}

static void check_kvm(struct finding *f)
{
    f->looked_at = "/dev/kvm";
    own_fd int fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);
    if (fd >= 0)
        found(f, PASS, "", "can be opened");
    else if (errno == EACCES || errno == EPERM)
        found(f, FAIL, "usermod -aG kvm $USER, then log in again", "may not be opened by this user");
    else if (errno == ENOENT)
        found(f, FAIL, "modprobe kvm_amd || modprobe kvm_intel (and switch virtualisation on in the firmware)",
              "is not there");
    else
        found(f, FAIL, "modprobe kvm_amd || modprobe kvm_intel", "cannot be opened: %s", strerrordesc_np(errno));
}

static void check_native(struct finding *f)
{
    struct probe probe;
    struct err err;
    f->looked_at = "a guest of a few bytes, run by forkd-vmm --probe";
    if (probe_host(&probe, &err) < 0)
        found(f, FAIL, "meson compile -C build", "%s", err.text);
    else if (probe.native)
        found(f, PASS, "", "KVM runs kernel code at native speed");
    else
        found(f, FAIL, "forkd quickstart --in-lab (an emulated KVM host), or a host with hardware virtualisation", "%s",
              probe.reason);
}

static void check_image(struct finding *f)
{
    static char path[PATH_MAX + 32];
    char dir[PATH_MAX];
    images_dir(dir, sizeof dir);
    snprintf(path, sizeof path, "%s/python3/vmlinux", dir);
    f->looked_at = path;
    if (access(path, R_OK) == 0)
        found(f, PASS, "", "kernel and guest image are there");
    else
        found(f, WARN, "forkd images build python3", "there is no guest image yet");
}

/* The nearest directory of the path that exists. */
static int statvfs_near(char *path, struct statvfs *vfs)
{
    while (statvfs(path, vfs) < 0) {
        char *slash = strrchr(path, '/');
        if (errno != ENOENT || !slash || slash == path)
            return statvfs("/", vfs);
        *slash = 0;
    }
    return 0;
}

static void check_disk(struct finding *f)
{
    static char path[PATH_MAX];
    struct statvfs vfs;
    images_dir(path, sizeof path);
    f->looked_at = path;
    if (statvfs_near(path, &vfs) < 0) {
        found(f, WARN, "", "its free space is unknown: %s", strerrordesc_np(errno));
        return;
    }
    unsigned long long mib = (unsigned long long)vfs.f_bavail * vfs.f_frsize >> 20;
    enum verdict verdict = mib < 512 ? FAIL : mib < 4096 ? WARN : PASS;
    found(f, verdict, verdict == PASS ? "" : "free some space there, or set FORKD_IMAGES to another disk",
          "%llu MiB free%s", mib, verdict == PASS ? "" : "; an image and its building need some 3000");
}

static void check_memory(struct finding *f)
{
    char text[4096];
    f->looked_at = "MemAvailable in /proc/meminfo";
    const char *at =
        io_read_text(AT_FDCWD, "/proc/meminfo", text, sizeof text, NULL) > 0 ? strstr(text, "MemAvailable:") : NULL;
    unsigned long mib = at ? strtoul(at + 13, NULL, 10) >> 10 : 0;
    found(f, mib < 1024 ? WARN : PASS, mib < 1024 ? "use smaller parents: forkd snapshot --mem-size-mib 256" : "",
          "%lu MiB available", mib);
}

/* Where cgroup v2 is mounted, from mountinfo. */
static bool cgroup2_mount(char *path, size_t cap)
{
    own_file FILE *mounts = fopen("/proc/self/mountinfo", "re");
    char line[2048], where[1024];
    while (mounts && fgets(line, sizeof line, mounts))
        if (strstr(line, " - cgroup2 ") && sscanf(line, "%*s %*s %*s %*s %1023s", where) == 1) {
            snprintf(path, cap, "%s", where);
            return true;
        }
    return false;
}

static void check_cgroup(struct finding *f)
{
    static char path[1100];
    char text[512], mount[1024];
    f->looked_at = "cgroup v2";
    if (!cgroup2_mount(mount, sizeof mount)) {
        found(f, WARN, "boot with systemd.unified_cgroup_hierarchy=1", "is not mounted: memory limits cannot be kept");
        return;
    }
    snprintf(path, sizeof path, "%s/cgroup.controllers", mount);
    f->looked_at = path;
    if (io_read_text(AT_FDCWD, path, text, sizeof text, NULL) > 0 && strstr(text, "memory"))
        found(f, PASS, "", "has a memory controller");
    else
        found(f, WARN, "boot with systemd.unified_cgroup_hierarchy=1",
              "has no memory controller: memory limits cannot be kept");
}

static void check_nx(struct finding *f)
{
    char text[32] = "";
    f->looked_at = "/sys/module/kvm/parameters/nx_huge_pages";
    if (io_read_text(AT_FDCWD, f->looked_at, text, sizeof text, NULL) < 0) {
        found(f, PASS, "", "is not there: nothing to slow down the making of a VM");
        return;
    }
    text[strcspn(text, "\n")] = 0;
    bool quick = !strcmp(text, "N") || !strcmp(text, "never") || !strcmp(text, "0");
    if (quick)
        found(f, PASS, "", "is %s", text);
    else
        found(f, WARN, "echo never > /sys/module/kvm/parameters/nx_huge_pages (or boot with kvm.nx_huge_pages=never)",
              "is %s: on some kernels making a VM then takes 100 ms", text);
}

static void check_files(struct finding *f)
{
    struct rlimit limit;
    f->looked_at = "the limit of open files";
    getrlimit(RLIMIT_NOFILE, &limit);
    bool enough = limit.rlim_max >= 8192 || geteuid() == 0; /* root's controller raises it */
    found(f, enough ? PASS : WARN, enough ? "" : "ulimit -Hn 65536 (or LimitNOFILE= in the unit)",
          "is %llu; every sandbox takes four", (unsigned long long)limit.rlim_max);
}

static const struct {
    const char *name;
    void (*fn)(struct finding *f);
} checks[] = {
    {"kvm", check_kvm},       {"kvm-native", check_native}, {"guest-image", check_image}, {"disk", check_disk},
    {"memory", check_memory}, {"cgroup", check_cgroup},     {"nx-huge-pages", check_nx},  {"open-files", check_files},
};

static void print(const struct finding *f)
{
    static const char *const words[] = {"pass", "WARN", "FAIL"};
    printf("%s  %-13s %s %s\n", words[f->verdict], f->check, f->looked_at, f->found);
    if (*f->remedy)
        printf("      %-13s mend it with: %s\n", "", f->remedy);
}

static int doctor_run(const struct args *args)
{
    static const char *const words[] = {"pass", "warn", "fail"};
    int status = 0;
    if (args->count)
        return verb_usage("forkd doctor takes no arguments");
    json_t *list = json_array();
    for (size_t i = 0; i < sizeof checks / sizeof *checks; i++) {
        struct finding f = {.check = checks[i].name};
        checks[i].fn(&f);
        if (f.verdict == FAIL)
            status = EXIT_ERROR;
        if (!args->json)
            print(&f);
        json_array_append_new(list, json_pack("{s:s, s:s, s:s, s:s, s:s}", "check", f.check, "result", words[f.verdict],
                                              "looked_at", f.looked_at, "found", f.found, "remedy", f.remedy));
    }
    if (args->json)
        verb_json(json_incref(list));
    json_decref(list);
    return status;
}

const struct verb verb_doctor = {
    .name = "doctor",
    .what = "what this host can do, and what mends the rest",
    .usage = "[--json]",
    .about = "Checks what forkd needs of this host. The exit status is 1 if a check failed; warnings do not count.",
    .run = doctor_run,
};
