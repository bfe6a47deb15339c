/* cp.c: forkd cp: a file to or from a sandbox.
 *
 * It goes through exec, in blocks of base64, which any guest with a shell, base64, dd and mv can do. A copy is written
 * beside its destination and renamed when it is whole, so that nobody sees half a file. */
#include "base/io.h"
#include "base/own.h"
#include "cli/cli.h"
#include "cli/interrupt.h"
#include "cli/progress.h"
#include "cli/sandbox.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { BLOCK = 384 << 10, SIZE_MAX_MIB = 256 };

static const char letters[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/* RFC 4648; `text` has room for 4 * (len + 2) / 3 + 1. */
static size_t base64_encode(const unsigned char *bytes, size_t len, char *text)
{
    char *put = text;
    for (size_t i = 0; i < len; i += 3) {
        unsigned group = bytes[i] << 16 | (i + 1 < len ? bytes[i + 1] << 8 : 0) | (i + 2 < len ? bytes[i + 2] : 0);
        *put++ = letters[group >> 18];
        *put++ = letters[group >> 12 & 63];
        *put++ = i + 1 < len ? letters[group >> 6 & 63] : '=';
        *put++ = i + 2 < len ? letters[group & 63] : '=';
    }
    *put = 0;
    return (size_t)(put - text);
}

/* Line ends are passed over; -1 for what is no base64, or is more than `cap` bytes. */
static ssize_t base64_decode(const char *text, unsigned char *bytes, size_t cap)
{
    unsigned group = 0, bits = 0;
    size_t len = 0;
    for (; *text && *text != '='; text++) {
        const char *letter = strchr(letters, *text);
        if (*text == '\n' || *text == '\r')
            continue;
        if (!letter)
            return -1;
        group = (group << 6 | (unsigned)(letter - letters)) & 0xffffff;
        bits += 6;
        if (bits < 8)
            continue;
        if (len == cap)
            return -1;
        bits -= 8;
        bytes[len++] = (unsigned char)(group >> bits);
    }
    return (ssize_t)len;
}

struct copy {
    struct client *client;
    const char *id, *there; /* the path in the sandbox */
    const char *here;
    _Atomic long long done, size; /* bytes */
};

/* What a script there failed with: its first line, or what else there is to say. */
static int complain(const struct copy *c, const json_t *answer, struct err *err)
{
    const char *words = json_text(answer, "stderr");
    size_t len = strcspn(words, "\n");
    if (json_is_true(json_object_get(answer, "timed_out")))
        return err_say(err, ETIMEDOUT, "%.200s in %.60s: the sandbox ran out of time", c->there, c->id);
    if (!len)
        return err_say(err, EIO, "%.200s in %.60s: a command there ended with status %d", c->there, c->id,
                       sandbox_exit_status(answer));
    return err_say(err, EIO, "%.200s in %.60s: %.*s", c->there, c->id, len < 200 ? (int)len : 200, words);
}

/* Runs sh -c SCRIPT with the path there as $1; its output is the caller's. */
static int there_run(const struct copy *c, const char *script, const char *more, const char *input, char **output,
                     struct err *err)
{
    json_t *answer, *body = json_pack("{s:[s, s, s, s, s, s]}", "args", "sh", "-c", script, "forkd", c->there, more);
    if (input)
        json_object_set_new(body, "stdin", json_string(input));
    int rc = sandbox_call(c->client, c->id, "exec", body, &answer, err);
    if (rc < 0)
        return rc;
    if (sandbox_exit_status(answer) != 0)
        rc = complain(c, answer, err);
    else if (output && !(*output = strdup(json_text(answer, "stdout"))))
        rc = err_say(err, ENOMEM, "out of memory");
    json_decref(answer);
    return rc;
}

static int put_blocks(struct copy *c, int fd, unsigned mode, struct err *err)
{
    own_free unsigned char *bytes = malloc(BLOCK);
    own_free char *text = malloc(4 * (BLOCK + 2) / 3 + 1);
    char octal[16];
    snprintf(octal, sizeof octal, "%o", mode & 07777);
    if (!bytes || !text)
        return err_say(err, ENOMEM, "out of memory");
    int rc = there_run(c, ": > \"$1.forkd-cp\" && chmod \"$2\" \"$1.forkd-cp\"", octal, NULL, NULL, err);
    while (rc == 0) {
        ssize_t n = read(fd, bytes, BLOCK);
        if (n < 0)
            rc = err_set(err, errno, "read %s", c->here);
        if (n <= 0)
            break;
        base64_encode(bytes, (size_t)n, text);
        rc = there_run(c, "base64 -d >> \"$1.forkd-cp\"", "", text, NULL, err);
        c->done += n;
    }
    if (rc == 0)
        return there_run(c, "mv -f \"$1.forkd-cp\" \"$1\"", "", NULL, NULL, err);
    client_set_interruptible(c->client, false);
    there_run(c, "rm -f \"$1.forkd-cp\"", "", NULL, NULL, NULL);
    return rc;
}

/* A directory there keeps the file's name: *whole is then the path of the copy in it, which c->there points to. */
static int name_keep(struct copy *c, char **whole, struct err *err)
{
    own_free char *said = NULL;
    const char *slash = strrchr(c->here, '/');
    bool ends = c->there[strlen(c->there) - 1] == '/';
    int rc = ends ? 0 : there_run(c, "if [ -d \"$1\" ]; then echo directory; fi", "", NULL, &said, err);
    if (rc < 0 || (!ends && !*said))
        return rc;
    if (asprintf(whole, "%s%s%s", c->there, ends ? "" : "/", slash ? slash + 1 : c->here) < 0)
        return err_say(err, ENOMEM, "out of memory");
    c->there = *whole;
    return 0;
}

static int put(struct copy *c, struct err *err)
{
    struct stat st;
    own_free char *whole = NULL;
    own_fd int fd = open(c->here, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &st) < 0)
        return err_set(err, errno, "open %s", c->here);
    if (!S_ISREG(st.st_mode) || st.st_size > (off_t)SIZE_MAX_MIB << 20)
        return err_say(err, EINVAL, "%s is no file of at most %d MiB", c->here, SIZE_MAX_MIB);
    c->size = st.st_size;
    int rc = name_keep(c, &whole, err);
    return rc < 0 ? rc : put_blocks(c, fd, st.st_mode, err);
}

static int get_blocks(struct copy *c, int fd, long long size, struct err *err)
{
    static const char script[] = "dd if=\"$1\" bs=393216 skip=\"$2\" count=1 2>/dev/null | base64";
    static_assert(BLOCK == 393216, "dd's block");
    own_free unsigned char *bytes = malloc(BLOCK);
    int rc = bytes ? 0 : err_say(err, ENOMEM, "out of memory");
    for (long long done = 0; rc == 0 && done < size;) {
        char skip[24];
        own_free char *text = NULL;
        snprintf(skip, sizeof skip, "%lld", done / BLOCK);
        rc = there_run(c, script, skip, NULL, &text, err);
        size_t wanted = size - done > BLOCK ? BLOCK : (size_t)(size - done);
        if (rc == 0 && base64_decode(text, bytes, BLOCK) != (ssize_t)wanted)
            rc = err_say(err, EPROTO, "%s changed while it was copied, or the sandbox has no base64", c->there);
        if (rc == 0)
            rc = io_write_all(fd, bytes, wanted, err);
        done += (long long)wanted;
        c->done = done;
    }
    return rc;
}

static int get(struct copy *c, struct err *err)
{
    own_free char *told = NULL;
    char path[PATH_MAX], part[PATH_MAX + 16];
    struct stat st;
    long long size;
    unsigned mode;
    int rc = there_run(c, "[ -f \"$1\" ] || { echo is no file >&2; exit 1; }; stat -L -c '%s %a' \"$1\"", "", NULL,
                       &told, err);
    if (rc < 0)
        return rc;
    if (sscanf(told, "%lld %o", &size, &mode) != 2 || size < 0 || size > (long long)SIZE_MAX_MIB << 20)
        return err_say(err, EINVAL, "%s is no file of at most %d MiB", c->there, SIZE_MAX_MIB);
    bool there = stat(c->here, &st) == 0, into = there && S_ISDIR(st.st_mode);
    if (there && !into && !S_ISREG(st.st_mode)) /* a copy takes its place: not that of a device */
        return err_say(err, EINVAL, "%s is neither a file nor a directory", c->here);
    snprintf(path, sizeof path, "%s%s%s", c->here, into ? "/" : "", into ? strrchr(c->there, '/') + 1 : "");
    /* The directory may be everybody's: the name is one that nobody can have prepared. */
    snprintf(part, sizeof part, "%s.XXXXXX", path);
    own_fd int fd = mkostemp(part, O_CLOEXEC);
    if (fd < 0)
        return err_set(err, errno, "open %s", part);
    c->size = size;
    rc = get_blocks(c, fd, size, err);
    /* What the guest says of set-uid bits is not believed. */
    if (rc == 0 && (fchmod(fd, mode & 0777) < 0 || rename(part, path) < 0))
        rc = err_set(err, errno, "rename %s", part);
    if (rc < 0)
        unlink(part);
    return rc;
}

/* "ID:/PATH" */
static bool split(char *word, struct copy *c)
{
    char *colon = strstr(word, ":/");
    if (!colon || colon == word || memchr(word, '/', (size_t)(colon - word)))
        return false;
    *colon = 0;
    c->id = word;
    c->there = colon + 1;
    return true;
}

static void tell_progress(void *owner, struct progress_now *now)
{
    const struct copy *c = owner;
    long long size = c->size;
    now->percent = size > 0 ? (int)(c->done * 100 / size) : -1;
}

static int cp_run(const struct args *args)
{
    struct copy c = {0};
    struct err err;
    char what[160];
    bool from = args->count == 2 && split(args->rest[0], &c);
    bool to = args->count == 2 && !from && split(args->rest[1], &c);
    if (!from && !to)
        return verb_usage("forkd cp needs a file and a place in a sandbox, ID:/PATH; see forkd cp --help");
    c.here = args->rest[from ? 1 : 0];
    if (client_open(args, &c.client, &err) < 0)
        return verb_fail(&err);
    snprintf(what, sizeof what, "copying %.120s", c.here);
    interrupts_hold();
    struct progress *progress = progress_begin_asking(what, tell_progress, &c);
    client_set_interruptible(c.client, true);
    int rc = from ? get(&c, &err) : put(&c, &err);
    progress_end(progress, rc < 0 ? "failed" : NULL);
    client_close(c.client);
    interrupts_release(0);
    if (rc < 0)
        return verb_fail(&err);
    return args->json ? verb_json(json_pack("{s:I}", "copied_bytes", (json_int_t)c.done)) : 0;
}

const struct verb verb_cp = {
    .name = "cp",
    .what = "copy a file to a sandbox or from one",
    .usage = "FILE ID:/PATH\n"
             "ID:/PATH FILE",
    .about = "Copies one file of at most 256 MiB, with its permissions, to a sandbox or from one. Where a directory is "
             "named, there or here, the copy in it has the file's name. The guest needs a shell, base64, dd and stat, "
             "as every Debian has.",
    .run = cp_run,
};
