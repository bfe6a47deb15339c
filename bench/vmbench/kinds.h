/* kinds.h: what is spawned: forks of a template that are machines, and the bare minimum beside them. */
#ifndef BENCH_KINDS_H
#define BENCH_KINDS_H

#include "kvm/rig.h"
#include "vmbench/series.h"

/* A fork of the rig's template: attached, restored, run to its first answer. */
struct kind kind_machine(struct rig *rig);
/* The floor: fork, KVM VM, memory slots of the same size, vCPU, its registers, first exit. Nothing else: no
 * irqchip, no devices, no other state. */
struct kind kind_bare(struct rig *rig);

#endif
