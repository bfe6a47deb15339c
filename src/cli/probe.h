/* probe.h: can KVM run a stock Linux at native speed on this host? Asked of `forkd-vmm --probe`, which runs a real
 * guest of a few bytes. */
#ifndef FORKD_CLI_PROBE_H
#define FORKD_CLI_PROBE_H

#include "base/err.h"

#include <stdbool.h>

struct probe {
    bool kvm, native;
    char reason[320]; /* why not; "" if native */
};

int probe_host(struct probe *probe, struct err *err);

#endif
