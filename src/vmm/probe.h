/* probe.h: whether KVM runs kernel code at the CPU's own speed here.
 *
 * Theory of operation. A KVM without hardware virtualisation under it may run user code of a guest natively and
 * emulate the guest's kernel one instruction at a time: a stock Linux then boots some thousand times too slowly,
 * and nothing but time tells. So a guest of a few bytes runs one loop where a kernel runs (CPL 0, upper half of the
 * address space) and where a program runs (CPL 3, lower half), and the host runs the same loop. The shortest of a
 * few runs counts, so that a busy host does not look like an emulated one.
 *
 * Takes some 5 ms where kernel code is native, under 50 ms where it is not. Needs no irqchip and no devices. */
#ifndef FORKD_VMM_PROBE_H
#define FORKD_VMM_PROBE_H

#include "base/err.h"

#include <stdbool.h>

enum { PROBE_REASON_MAX = 240 };

struct probe_result {
    bool native;         /* a stock kernel runs at a usable speed */
    double kernel_times; /* how many times the host's time the loop took as kernel code; 0: it did not run */
    double user_times;   /* the same as user code */
    char reason[PROBE_REASON_MAX];
};

/* An error is one of making the VM; a guest that does not run is a result. `kvm_fd` stays the caller's. */
int probe_native(int kvm_fd, struct probe_result *result, struct err *err);

#endif
