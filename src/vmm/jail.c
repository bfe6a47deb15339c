/* jail.c: the jail of a fork tree, once per tree, before guest code. */
#include "sys/jail.h"
#include "base/log.h"
#include "sys/seccomp.h"
#include "vmm/roles.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { DESCRIPTORS = 4096 };

int vmm_jail(const struct vmm_origin *origin, const struct ctl_jail *who, const int *keep, size_t count,
             struct err *err)
{
    int all[JAIL_KEEP_MAX];
    if (count + 1 > JAIL_KEEP_MAX)
        return err_say(err, E2BIG, "too many descriptors for the jail");
    memcpy(all, keep, count * sizeof *keep);
    all[count] = origin->kvm_fd;
    struct jail_spec spec = {
        .uid = who->uid == UINT32_MAX ? getuid() : who->uid,
        .gid = who->gid == UINT32_MAX ? getgid() : who->gid,
        .keep = all,
        .keep_count = count + 1,
        .proc_fd = origin->proc_fd,
        .nofile = DESCRIPTORS,
    };
    struct jail_report report;
    int rc = jail_enter(&spec, &report, err);
    if (rc < 0)
        return err_wrap(err, "enter the jail");
    for (int stage = 0; stage < JAIL_STAGES; stage++)
        if (report.skipped[stage])
            log_debug("jail without %s: %s", jail_stage_name(stage), strerror(report.skipped[stage]));
    return seccomp_install(SECCOMP_VMM, getenv("FORKD_SECCOMP_EXPLAIN") ? SECCOMP_EXPLAIN : SECCOMP_KILL, err);
}
