/* effects.h: everything the agent does to the machine itself, in one place.
 *
 * With a test root nothing of the machine is touched: files go below that directory, and what has no file
 * (entropy, clock, host name, power) becomes a line of DIR/effects. */
#ifndef FORKD_AGENT_EFFECTS_H
#define FORKD_AGENT_EFFECTS_H

#include "base/err.h"

#include <stddef.h>
#include <stdint.h>

struct effects {
    const char *test_root; /* NULL: for real */
};

enum { EFFECTS_PATH_MAX = 512 };

/* The path below the test root, or as it is. */
const char *effects_path(const struct effects *e, const char *path, char buf[EFFECTS_PATH_MAX]);

/* Credits the bytes to the kernel's generator and makes it draw from them at once (random(4)). */
int effects_entropy(const struct effects *e, const uint8_t *bytes, size_t len, struct err *err);

int effects_clock(const struct effects *e, uint64_t realtime_ns, struct err *err);

/* The running host name, /etc/hostname, and the old name in /etc/hosts; a read-only root keeps its files. */
int effects_hostname(const struct effects *e, const char *name, struct err *err);

/* Writes a file whole or not at all. Its directory is made when it is missing, one level. */
int effects_file(const struct effects *e, const char *path, const void *bytes, size_t len, unsigned mode,
                 struct err *err);

/* Syncs and powers the machine off. Returns only when that fails or is recorded. */
void effects_poweroff(const struct effects *e);

#endif
