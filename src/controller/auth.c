/* auth.c: see auth.h. */
#include "controller/auth.h"

#include "base/io.h"
#include "base/log.h"
#include "base/own.h"

#include <fcntl.h>
#include <gnutls/crypto.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>

enum { DIGEST_BYTES = 32, FILE_MAX = 256 * 1024 };

struct token {
    char name[AUTH_NAME_MAX + 1];
    uint8_t digest[DIGEST_BYTES];
    enum right right;
};

struct table {
    unsigned count;
    struct token token[AUTH_TOKENS_MAX];
};

struct auth {
    pthread_rwlock_t lock; /* guards `table` */
    struct table *table;
    char *path;
};

static const char *const right_names[] = {"none", "read", "run", "admin"};
_Static_assert(sizeof right_names / sizeof *right_names == RIGHT_ADMIN + 1, "every right has a name");

const char *right_name(enum right right)
{
    return right_names[right];
}

static int digest_make(const char *token, size_t len, uint8_t *digest, struct err *err)
{
    int rc = gnutls_hash_fast(GNUTLS_DIG_SHA256, token, len, digest);
    return rc < 0 ? err_say(err, EIO, "SHA-256 cannot be had: %s", gnutls_strerror(rc)) : 0;
}

static int hex_digit(char c)
{
    static const char digits[] = "0123456789abcdef";
    const char *at = c ? strchr(digits, c >= 'A' && c <= 'F' ? c | 0x20 : c) : NULL;
    return at ? (int)(at - digits) : -1;
}

static bool name_valid(const char *name, size_t len)
{
    static const char allowed[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-";
    return len >= 1 && len <= AUTH_NAME_MAX && strspn(name, allowed) >= len;
}

/* Whether a word is NAME:SHA256HEX; a token of that very form must be given by its digest. */
static bool digest_parse(const char *word, struct token *t)
{
    const char *colon = strchr(word, ':'), *hex = colon ? colon + 1 : "";
    if (strlen(hex) != 2 * (size_t)DIGEST_BYTES || !name_valid(word, (size_t)(colon - word)))
        return false;
    for (size_t i = 0; i < DIGEST_BYTES; i++) {
        int high = hex_digit(hex[2 * i]), low = hex_digit(hex[2 * i + 1]);
        if (high < 0 || low < 0)
            return false;
        t->digest[i] = (uint8_t)(high << 4 | low);
    }
    snprintf(t->name, sizeof t->name, "%.*s", (int)(colon - word), word);
    return true;
}

static int plain_parse(const char *word, unsigned line, struct token *t, struct err *err)
{
    size_t len = strlen(word);
    if (!strncmp(word, "REPLACE_ME", 10) || !strncmp(word, "CHANGE_ME", 9))
        return err_say(err, EINVAL, "the token is a placeholder; put a random one there");
    if (len < AUTH_TOKEN_MIN)
        return err_say(err, EINVAL, "the token is shorter than %d bytes", AUTH_TOKEN_MIN);
    if (len > AUTH_TOKEN_MAX)
        return err_say(err, EINVAL, "the token is longer than %d bytes", AUTH_TOKEN_MAX);
    snprintf(t->name, sizeof t->name, "line-%u", line);
    return digest_make(word, len, t->digest, err);
}

static int right_parse(const char *word, enum right *right, struct err *err)
{
    for (int r = RIGHT_READ; r <= RIGHT_ADMIN; r++) {
        if (!strcmp(word, right_names[r])) {
            *right = (enum right)r;
            return 0;
        }
    }
    return err_say(err, EINVAL, "after the token stands its right, which is read, run or admin, and nothing else");
}

static int line_parse(char *text, unsigned line, struct token *t, struct err *err)
{
    static const char blanks[] = " \t\r";
    char *rest, *word = strtok_r(text, blanks, &rest), *right = strtok_r(NULL, blanks, &rest);
    t->right = RIGHT_ADMIN;
    int rc = right ? right_parse(right, &t->right, err) : 0;
    if (rc == 0 && strtok_r(NULL, blanks, &rest))
        rc = err_say(err, EINVAL, "there is more than a token and its right");
    if (rc < 0 || digest_parse(word, t))
        return rc;
    return plain_parse(word, line, t, err);
}

static int table_add(struct table *table, const struct token *t, struct err *err)
{
    if (table->count == AUTH_TOKENS_MAX)
        return err_say(err, EINVAL, "there are more than %d tokens", AUTH_TOKENS_MAX);
    for (unsigned i = 0; i < table->count; i++) {
        if (!strcmp(table->token[i].name, t->name))
            return err_say(err, EINVAL, "the name %s is taken by another line", t->name);
        if (!memcmp(table->token[i].digest, t->digest, DIGEST_BYTES))
            return err_say(err, EINVAL, "this is the token of %s as well", table->token[i].name);
    }
    table->token[table->count++] = *t;
    return 0;
}

static int table_parse(char *text, const char *path, struct table *table, struct err *err)
{
    unsigned number = 1;
    for (char *line = text, *end; line; line = end, number++) {
        struct token t = {0};
        end = strchr(line, '\n');
        if (end)
            *end++ = 0;
        line += strspn(line, " \t\r");
        if (!*line || *line == '#')
            continue;
        int rc = line_parse(line, number, &t, err);
        if (rc == 0)
            rc = table_add(table, &t, err);
        if (rc < 0)
            return err_wrap(err, "%s, line %u", path, number);
    }
    return table->count ? 0 : err_say(err, EINVAL, "%s holds no token", path);
}

static void warn_if_open(const char *path)
{
    struct stat st;
    if (stat(path, &st) == 0 && st.st_mode & S_IROTH)
        log_warn("everybody on this host may read the token file %s", path);
}

static int table_load(const char *path, struct table **table, struct err *err)
{
    char *text = malloc(FILE_MAX);
    struct table *made = calloc(1, sizeof *made);
    int rc = text && made ? 0 : err_say(err, ENOMEM, "out of memory");
    ssize_t n = rc == 0 ? io_read_text(AT_FDCWD, path, text, FILE_MAX, err) : 0;
    if (n < 0)
        rc = err_wrap(err, "the token file");
    else if (rc == 0 && n == FILE_MAX - 1)
        rc = err_say(err, EINVAL, "the token file %s is longer than %d bytes", path, FILE_MAX - 2);
    else if (rc == 0 && strlen(text) != (size_t)n)
        rc = err_say(err, EINVAL, "the token file %s is no text", path);
    if (rc == 0) {
        warn_if_open(path);
        rc = table_parse(text, path, made, err);
    }
    if (text)
        explicit_bzero(text, FILE_MAX);
    free(text);
    if (rc < 0)
        free(made);
    else
        *table = made;
    return rc;
}

int auth_open(const char *path, struct auth **auth, struct err *err)
{
    *auth = NULL;
    if (!path)
        return 0;
    struct auth *a = calloc(1, sizeof *a);
    if (!a || !(a->path = strdup(path))) {
        free(a);
        return err_say(err, ENOMEM, "out of memory");
    }
    int rc = table_load(path, &a->table, err);
    if (rc < 0) {
        free(a->path);
        free(a);
        return rc;
    }
    pthread_rwlock_init(&a->lock, NULL);
    *auth = a;
    return 0;
}

void auth_close(struct auth *a)
{
    if (!a)
        return;
    pthread_rwlock_destroy(&a->lock);
    free(a->table);
    free(a->path);
    free(a);
}

int auth_reload(struct auth *a, struct err *err)
{
    struct table *fresh = NULL;
    int rc = a ? table_load(a->path, &fresh, err) : 0;
    if (!fresh)
        return rc;
    pthread_rwlock_wrlock(&a->lock);
    struct table *old = a->table;
    a->table = fresh;
    pthread_rwlock_unlock(&a->lock);
    free(old);
    return 0;
}

/* Looks at every byte of every digest, whatever it finds. */
static int table_find(const struct table *table, const uint8_t *digest)
{
    int found = -1;
    for (unsigned i = 0; i < table->count; i++) {
        uint8_t differ = 0;
        for (size_t b = 0; b < DIGEST_BYTES; b++)
            differ |= (uint8_t)(table->token[i].digest[b] ^ digest[b]);
        int mask = (differ - 1) >> 8; /* all ones where nothing differs */
        found = (found & ~mask) | ((int)i & mask);
    }
    return found;
}

int auth_check(struct auth *a, const char *field, struct auth_who *who, struct err *err)
{
    uint8_t digest[DIGEST_BYTES];
    *who = (struct auth_who){.right = a ? RIGHT_NONE : RIGHT_ADMIN};
    if (!a)
        return 0;
    if (!field || strncasecmp(field, "Bearer ", 7) != 0)
        return err_say(err, EACCES, "missing bearer token");
    const char *token = field + 7 + strspn(field + 7, " ");
    size_t len = strlen(token);
    while (len && (token[len - 1] == ' ' || token[len - 1] == '\t'))
        len--;
    int rc = digest_make(token, len, digest, err);
    if (rc < 0)
        return rc;
    pthread_rwlock_rdlock(&a->lock);
    int found = table_find(a->table, digest);
    if (found >= 0) {
        memcpy(who->name, a->table->token[found].name, sizeof who->name);
        who->right = a->table->token[found].right;
    }
    pthread_rwlock_unlock(&a->lock);
    return found < 0 ? err_say(err, EACCES, "invalid bearer token") : 0;
}
