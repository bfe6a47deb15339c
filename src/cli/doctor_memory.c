/* doctor_memory.c: the host's memory and how it is handed out. */
#include "cli/doctor.h"

#include <stdio.h>
#include <string.h>

enum { ENOUGH_MIB = 1024 };

static void check_memory(struct finding *f, const struct args *args)
{
    char text[8192];
    looked_at(f, "MemAvailable in /proc/meminfo");
    long long kib = host_text("/proc/meminfo", text, sizeof text) > 0 ? text_number(text, "MemAvailable") : -1;
    if (kib < 0)
        found(f, WARN, "mount -t proc proc /proc", "cannot be read");
    else if (kib >> 10 < ENOUGH_MIB)
        found(f, WARN, "forkd snapshot --mem-size-mib 256 (a smaller parent), or forkd kill of what is not needed",
              "is %lld MiB", kib >> 10);
    else
        found(f, PASS, "", "is %lld MiB", kib >> 10);
}

/* Templates are mapped privately with MAP_NORESERVE, which mode 2 does not honour: every sandbox would be charged
 * with its whole memory (Documentation/mm/overcommit-accounting). */
static void check_overcommit(struct finding *f, const struct args *args)
{
    char text[32];
    looked_at(f, "/proc/sys/vm/overcommit_memory");
    if (host_text(f->looked_at, text, sizeof text) < 0)
        found(f, WARN, "mount -t proc proc /proc", "cannot be read");
    else if (!strcmp(text, "2"))
        found(f, FAIL, "sysctl vm.overcommit_memory=0 (and in /etc/sysctl.d)",
              "is 2: every sandbox is charged with the whole memory of its template, so few can be forked");
    else
        found(f, PASS, "", "is %s", text);
}

/* The value in brackets of "always [madvise] never". */
static const char *chosen(char *text)
{
    char *from = strchr(text, '['), *to = from ? strchr(from, ']') : NULL;
    if (!to)
        return text;
    *to = 0;
    return from + 1;
}

/* A parent boots on a memfd and asks for huge pages (MADV_HUGEPAGE); sandboxes refuse them for themselves, so that what
 * `enabled` says of private memory is told and not judged. */
static void check_huge_pages(struct finding *f, const struct args *args)
{
    static const char mend[] =
        "echo advise > /sys/kernel/mm/transparent_hugepage/shmem_enabled (and in /etc/tmpfiles.d)";
    char text[128], private[128] = "";
    looked_at(f, "/sys/kernel/mm/transparent_hugepage/shmem_enabled");
    host_text("/sys/kernel/mm/transparent_hugepage/enabled", private, sizeof private);
    if (host_text(f->looked_at, text, sizeof text) < 0) {
        found(f, WARN, "a kernel with CONFIG_TRANSPARENT_HUGEPAGE and CONFIG_SHMEM",
              "is not there: parents boot on small pages, which is slower");
        return;
    }
    const char *value = chosen(text);
    if (!strcmp(value, "never") || !strcmp(value, "deny"))
        found(f, WARN, mend, "is %s: parents boot on small pages, which is slower", value);
    else
        found(f, PASS, "",
              "is %s: parents get huge pages; enabled beside it is %s: sandboxes refuse them, or forks would copy 2 "
              "MiB at a time",
              value, *private ? chosen(private) : "not there");
}

const struct doctor_check doctor_memory[] = {
    {"memory", check_memory}, {"overcommit", check_overcommit}, {"huge-pages", check_huge_pages}, {0}};
