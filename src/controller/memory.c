/* memory.c: see memory.h. Fields: Documentation/filesystems/proc.rst of the kernel. */
#include "controller/memory.h"

#include "base/io.h"
#include "sys/cgroup.h"

#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* The KiB of one line of smaps_rollup ("Private_Dirty:  123 kB"). */
static uint64_t rollup_kib(const char *rollup, const char *name)
{
    const char *at = strstr(rollup, name);
    return at ? strtoull(at + strlen(name), NULL, 10) : 0;
}

/* User and system time, fields 14 and 15; what is in parentheses before them may hold anything. */
static int cpu_ms(pid_t pid, long long *ms)
{
    char path[64], stat[1024];
    unsigned long long user, system;
    snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
    const char *at = io_read_text(AT_FDCWD, path, stat, sizeof stat, NULL) > 0 ? strrchr(stat, ')') : NULL;
    if (!at || sscanf(at + 1, " %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %llu %llu", &user, &system) != 2)
        return -1;
    *ms = (long long)((user + system) * 1000 / (unsigned long long)sysconf(_SC_CLK_TCK));
    return 0;
}

void memory_json(json_t *object, pid_t pid, int cgroup)
{
    char path[64], rollup[4096];
    uint64_t bytes;
    snprintf(path, sizeof path, "/proc/%d/smaps_rollup", (int)pid);
    if (pid && io_read_text(AT_FDCWD, path, rollup, sizeof rollup, NULL) > 0) {
        uint64_t own = rollup_kib(rollup, "Private_Clean:") + rollup_kib(rollup, "Private_Dirty:");
        json_object_set_new(object, "memory_own_kib", json_integer((json_int_t)own));
        json_object_set_new(object, "memory_pss_kib", json_integer((json_int_t)rollup_kib(rollup, "\nPss:")));
    } else {
        json_object_set_new(object, "memory_own_kib", json_null());
        json_object_set_new(object, "memory_pss_kib", json_null());
    }
    long long ms;
    if (pid && cpu_ms(pid, &ms) == 0)
        json_object_set_new(object, "cpu_ms", json_integer(ms));
    if (cgroup >= 0 && cgroup_memory_current(cgroup, &bytes, NULL) == 0)
        json_object_set_new(object, "memory_charged_kib", json_integer((json_int_t)(bytes >> 10)));
}
