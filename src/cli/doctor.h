/* doctor.h: what the checks of forkd doctor share.
 *
 * Theory of operation. A check is a function that looks at one thing and fills one finding: pass; warn, where forkd
 * works but something costs or is missing; fail, where it will not work. It names what it looked at, says what it
 * found as the rest of a sentence about that, and, unless it passes, names the command that mends it. Checks change
 * nothing but unnamed files of their own.
 *
 * Files of the host (/proc, /sys, /dev, /etc) are looked up below FORKD_DOCTOR_ROOT where that is set, so that tests
 * can show a check a host with any fault. */
#ifndef FORKD_CLI_DOCTOR_H
#define FORKD_CLI_DOCTOR_H

#include "cli/args.h"

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

enum verdict { PASS, WARN, FAIL };

struct finding {
    const char *check;
    enum verdict verdict;
    char looked_at[512], found[480], remedy[240];
};

struct doctor_check {
    const char *name; /* NULL ends a list */
    void (*fn)(struct finding *finding, const struct args *args);
};

/* In the order in which they are told. */
extern const struct doctor_check doctor_kvm[], doctor_memory[], doctor_disk[], doctor_host[], doctor_service[];

void looked_at(struct finding *finding, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* `remedy` is "" for a pass. */
void found(struct finding *finding, enum verdict verdict, const char *remedy, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));

/* A file of the host: its path below the root, or its text without the last newline. The length, -1 without. */
const char *host_path(const char *path, char *buf, size_t cap);
ssize_t host_text(const char *path, char *text, size_t cap);
/* The number after `key` in a text of lines "key: number" or "key number"; -1: it is not there. */
long long text_number(const char *text, const char *key);
/* Whether `word` is one of the text's words; words are parted by spaces, commas and line ends. */
bool text_has_word(const char *text, const char *word);

#endif
