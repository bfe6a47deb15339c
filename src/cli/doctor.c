/* doctor.c: forkd doctor; see doctor.h. The checks are in doctor_*.c by what they look at. */
#include "cli/doctor.h"

#include "base/io.h"
#include "cli/cli.h"

#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void looked_at(struct finding *f, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    vsnprintf(f->looked_at, sizeof f->looked_at, fmt, args);
    va_end(args);
}

void found(struct finding *f, enum verdict verdict, const char *remedy, const char *fmt, ...)
{
    va_list args;
    f->verdict = verdict;
    snprintf(f->remedy, sizeof f->remedy, "%s", remedy);
    va_start(args, fmt);
    vsnprintf(f->found, sizeof f->found, fmt, args);
    va_end(args);
}

const char *host_path(const char *path, char *buf, size_t cap)
{
    const char *root = getenv("FORKD_DOCTOR_ROOT");
    snprintf(buf, cap, "%s%s", root ? root : "", path);
    return buf;
}

ssize_t host_text(const char *path, char *text, size_t cap)
{
    char full[PATH_MAX];
    ssize_t n = io_read_text(AT_FDCWD, host_path(path, full, sizeof full), text, cap, NULL);
    if (n > 0 && text[n - 1] == '\n')
        text[--n] = 0;
    return n < 0 ? -1 : n;
}

long long text_number(const char *text, const char *key)
{
    size_t len = strlen(key);
    for (const char *line = text; line; line = strchr(line, '\n') ? strchr(line, '\n') + 1 : NULL)
        if (!strncmp(line, key, len))
            return strtoll(line + len + (line[len] == ':'), NULL, 10);
    return -1;
}

bool text_has_word(const char *text, const char *word)
{
    static const char between[] = " ,\n\t";
    size_t len = strlen(word);
    for (text += strspn(text, between); *text; text += strspn(text, between)) {
        size_t n = strcspn(text, between);
        if (n == len && !memcmp(text, word, len))
            return true;
        text += n;
    }
    return false;
}

static void print(const struct finding *f)
{
    static const char *const words[] = {"pass", "WARN", "FAIL"};
    printf("%s  %-15s %s %s\n", words[f->verdict], f->check, f->looked_at, f->found);
    if (*f->remedy)
        printf("      %-15s mend it with: %s\n", "", f->remedy);
}

static json_t *finding_json(const struct finding *f)
{
    static const char *const words[] = {"pass", "warn", "fail"};
    return json_pack("{s:s, s:s, s:s, s:s, s:s}", "check", f->check, "result", words[f->verdict], "looked_at",
                     f->looked_at, "found", f->found, "remedy", f->remedy);
}

static int doctor_run(const struct args *args)
{
    const struct doctor_check *const lists[] = {doctor_kvm, doctor_memory, doctor_disk, doctor_host, doctor_service};
    unsigned count[3] = {0};
    if (args->count)
        return verb_usage("forkd doctor takes no arguments");
    json_t *findings = json_array();
    for (size_t i = 0; i < sizeof lists / sizeof *lists; i++)
        for (const struct doctor_check *check = lists[i]; check->name; check++) {
            struct finding f = {.check = check->name};
            check->fn(&f, args);
            count[f.verdict]++;
            if (!args->json)
                print(&f);
            json_array_append_new(findings, finding_json(&f));
        }
    if (args->json)
        verb_json(json_incref(findings));
    else
        printf("%u passed, %u warnings, %u failed\n", count[PASS], count[WARN], count[FAIL]);
    json_decref(findings);
    return count[FAIL] ? EXIT_ERROR : 0;
}

const struct verb verb_doctor = {
    .name = "doctor",
    .what = "what this host can do, and what mends the rest",
    .usage = "[--json]",
    .about =
        "Checks what forkd needs of this host, one thing a line: what was looked at, what was found, and the command "
        "that mends it. A warning is about what costs or is missing, a failure about what will not work. The exit "
        "status is 1 if a check failed; warnings do not count.",
    .run = doctor_run,
};
