/* audit.h: one compact JSON line per request, appended to a file that may be rotated (reopen on SIGHUP). */
#ifndef FORKD_CONTROLLER_AUDIT_H
#define FORKD_CONTROLLER_AUDIT_H

#include "base/err.h"

#include <stdint.h>

struct audit;

struct audit_line {
    const char *method, *path; /* without the query */
    unsigned status;
    uint64_t latency_us;
    const char *ua, *remote, *token_id; /* may be NULL */
};

/* A NULL path: nothing is written, *audit becomes NULL, which every function here takes. */
int audit_open(const char *path, struct audit **audit, struct err *err);
void audit_close(struct audit *audit);
/* Opens the path anew; if that fails the old file stays. */
int audit_reopen(struct audit *audit, struct err *err);
/* From any thread; a line that cannot be written is logged once per run of failures. */
void audit_write(struct audit *audit, const struct audit_line *line);

#endif
