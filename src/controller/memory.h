/* memory.h: what a VMM process holds for itself and used, as people ask for it with ?memory=true. */
#ifndef FORKD_CONTROLLER_MEMORY_H
#define FORKD_CONTROLLER_MEMORY_H

#include <jansson.h>
#include <sys/types.h>

/* Sets memory_own_kib (Private_Clean + Private_Dirty: what its end would give back) and memory_pss_kib (the same and
 * its share of what it has in common with others), null where they cannot be read, memory_charged_kib where there is
 * a cgroup (-1: none), and cpu_ms, the processor time it had, where the process is known. */
void memory_json(json_t *object, pid_t pid, int cgroup);

#endif
