/* jail.c: see jail.h. */
#include "sys/jail.h"

#include "base/own.h"

#include <fcntl.h>
#include <grp.h>
#include <linux/capability.h>
#include <sched.h>
#include <stdbool.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>

static const char *const stage_names[] = {
    [JAIL_DESCRIPTORS] = "descriptors",
    [JAIL_LIMITS] = "limits",
    [JAIL_NAMESPACES] = "namespaces",
    [JAIL_ROOT] = "root",
    [JAIL_PROC] = "proc",
    [JAIL_IDENTITY] = "identity",
    [JAIL_DUMPABLE] = "dumpable",
};
_Static_assert(sizeof stage_names / sizeof *stage_names == JAIL_STAGES, "every stage has a name");

const char *jail_stage_name(enum jail_stage stage)
{
    return stage_names[stage];
}

static int compare_ints(const void *a, const void *b)
{
    int x = *(const int *)a, y = *(const int *)b;
    return (x > y) - (x < y);
}

static int close_between(unsigned first, unsigned last, struct err *err)
{
    if (first > last)
        return 0;
    return close_range(first, last, 0) < 0 ? err_set(err, errno, "close_range") : 0;
}

/* Should leave open what the caller listed, and only that; close-on-exec does not help, nothing is executed.
 * Must not depend on knowing what is open: a library may have opened something. */
static int enter_descriptors(const struct jail_spec *spec, struct err *err)
{
    if (spec->keep_count > JAIL_KEEP_MAX)
        return err_say(err, EINVAL, "the jail keeps at most %d descriptors", JAIL_KEEP_MAX);
    int keep[JAIL_KEEP_MAX + 1];
    memcpy(keep, spec->keep, spec->keep_count * sizeof *keep);
    keep[spec->keep_count] = spec->proc_fd;
    qsort(keep, spec->keep_count + 1, sizeof *keep, compare_ints);

    unsigned next = STDERR_FILENO + 1;
    for (size_t i = 0; i <= spec->keep_count; i++) {
        if (keep[i] < (int)next)
            continue;
        int rc = close_between(next, (unsigned)keep[i] - 1, err);
        if (rc < 0)
            return rc;
        next = (unsigned)keep[i] + 1;
    }
    return close_between(next, ~0u, err);
}

/* Should keep guest memory out of core files, and a flood of connections within bounds.
 * Must not limit what sandboxes of one uid share (processes, locked memory): one would starve the others. */
static int enter_limits(const struct jail_spec *spec, struct err *err)
{
    const struct rlimit none = {0}, files = {spec->nofile, spec->nofile};
    if (setrlimit(RLIMIT_CORE, &none) < 0)
        return err_set(err, errno, "set the limit of core files");
    if (setrlimit(RLIMIT_NOFILE, &files) < 0)
        return err_set(err, errno, "set the limit of descriptors to %u", spec->nofile);
    return 0;
}

static int proc_write(int proc_fd, const char *file, const char *text, struct err *err)
{
    own_fd int fd = openat(proc_fd, file, O_WRONLY | O_CLOEXEC);
    if (fd < 0)
        return err_set(err, errno, "open /proc/%s", file);
    return write(fd, text, strlen(text)) < 0 ? err_set(err, errno, "write /proc/%s", file) : 0;
}

/* The new user namespace knows one user, the one we are (user_namespaces(7)). */
static int map_own_user(int proc_fd, uid_t uid, gid_t gid, struct err *err)
{
    char map[32];
    int rc = proc_write(proc_fd, "self/setgroups", "deny", err);
    if (rc < 0)
        return rc;
    snprintf(map, sizeof map, "%u %u 1", uid, uid);
    rc = proc_write(proc_fd, "self/uid_map", map, err);
    if (rc < 0)
        return rc;
    snprintf(map, sizeof map, "%u %u 1", gid, gid);
    return proc_write(proc_fd, "self/gid_map", map, err);
}

/* Should take the host's network, mounts, System V objects and name away, once per tree: a sandbox reaches
 * the network through a tap that was handed in. Must not take the pid namespace: the controller and the
 * user's tools see host pids. */
static int enter_namespaces(const struct jail_spec *spec, struct err *err)
{
    int flags = CLONE_NEWNS | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS;
    uid_t uid = geteuid();
    gid_t gid = getegid();
    if (uid != 0)
        flags |= CLONE_NEWUSER;
    if (unshare(flags) < 0)
        return err_set(err, errno, "unshare namespaces");
    int rc = uid != 0 ? map_own_user(spec->proc_fd, uid, gid, err) : 0;
    if (rc < 0)
        return rc;
    /* What is mounted here stays here. */
    if (mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0)
        return err_set(err, errno, "make mounts private");
    return 0;
}

/* Should leave no file that can be opened by path, and no way to a user namespace, where a process would have
 * all capabilities again: the kernel refuses CLONE_NEWUSER to a process whose root is not its mount
 * namespace's root, hence the chroot below the pivot_root. Must not rely on a directory of the host: the file
 * system is mounted over /proc in this mount namespace, which exists wherever we run. */
static int enter_root(struct err *err)
{
    const unsigned long flags = MS_NOSUID | MS_NODEV | MS_NOEXEC;
    if (mount("forkd", "/proc", "tmpfs", flags, "size=4k,nr_inodes=8,mode=0555") < 0)
        return err_set(err, errno, "mount an empty root");
    if (chdir("/proc") < 0 || mkdir("empty", 0555) < 0 || mkdir("proc", 0555) < 0)
        return err_set(err, errno, "make an empty root");
    if (syscall(SYS_pivot_root, ".", ".") < 0)
        return err_set(err, errno, "pivot_root");
    if (umount2(".", MNT_DETACH) < 0 || chdir("/") < 0)
        return err_set(err, errno, "leave the host's root");
    return 0;
}

/* Should hide what the host's /proc tells about others, since the tree keeps a descriptor of it for its own
 * memory. Must not change the descriptor's number, which the caller knows. */
static int enter_proc(const struct jail_spec *spec, struct err *err)
{
    if (mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, "hidepid=invisible,subset=pid") < 0)
        return err_set(err, errno, "mount a /proc of its own");
    own_fd int fd = open("/proc", O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return err_set(err, errno, "open the /proc of its own");
    if (dup3(fd, spec->proc_fd, O_CLOEXEC) < 0)
        return err_set(err, errno, "replace the descriptor of /proc");
    return umount2("/proc", MNT_DETACH) < 0 ? err_set(err, errno, "take /proc away") : 0;
}

static int close_root(struct err *err)
{
    if (mount(NULL, "/", NULL, MS_REMOUNT | MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL) < 0)
        return err_set(err, errno, "make the empty root read-only");
    if (chroot("/empty") < 0 || chdir("/") < 0)
        return err_set(err, errno, "enter the empty root");
    return 0;
}

static int drop_capabilities(struct err *err)
{
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct none[_LINUX_CAPABILITY_U32S_3] = {0};
    if (prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) < 0)
        return err_set(err, errno, "clear ambient capabilities");
    return syscall(SYS_capset, &header, none) < 0 ? err_set(err, errno, "drop capabilities") : 0;
}

/* Should leave one uid and gid, the tree's, and no capability that could come back.
 * Must not go on if any of it fails: what follows assumes an ordinary user. */
static int enter_identity(const struct jail_spec *spec, struct err *err)
{
    /* EINVAL marks the first capability this kernel does not know; EPERM that we may not, and need not. */
    for (int cap = 0; prctl(PR_CAPBSET_DROP, cap, 0, 0, 0) == 0; cap++)
        ;
    if (geteuid() == 0) {
        if (setgroups(0, NULL) < 0)
            return err_set(err, errno, "drop supplementary groups");
        if (setresgid(spec->gid, spec->gid, spec->gid) < 0)
            return err_set(err, errno, "become gid %u", spec->gid);
        if (setresuid(spec->uid, spec->uid, spec->uid) < 0)
            return err_set(err, errno, "become uid %u", spec->uid);
    }
    return drop_capabilities(err);
}

/* Should keep siblings of one uid out of each other's memory, and privileges from coming back by execve. */
static int enter_dumpable(struct err *err)
{
    if (prctl(PR_SET_DUMPABLE, 0) < 0)
        return err_set(err, errno, "stop being dumpable");
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
        return err_set(err, errno, "give up new privileges");
    return 0;
}

int jail_enter(const struct jail_spec *spec, struct jail_report *report, struct err *err)
{
    *report = (struct jail_report){0};
    int rc = enter_descriptors(spec, err);
    if (rc == 0)
        rc = enter_limits(spec, err);
    if (rc < 0)
        return err_wrap(err, "jail");

    rc = enter_namespaces(spec, NULL);
    report->skipped[JAIL_NAMESPACES] = -rc;
    if (rc == 0)
        rc = enter_root(NULL);
    report->skipped[JAIL_ROOT] = -rc;
    bool has_root = rc == 0;
    if (has_root)
        rc = enter_proc(spec, NULL);
    report->skipped[JAIL_PROC] = -rc;
    rc = has_root ? close_root(err) : 0;
    if (rc == 0)
        rc = enter_identity(spec, err);
    if (rc == 0)
        rc = enter_dumpable(err);
    return rc < 0 ? err_wrap(err, "jail") : 0;
}
