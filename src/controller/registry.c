/* registry.c: see registry.h. */
#include "controller/registry.h"

#include "base/io.h"
#include "base/own.h"

#include <fcntl.h>
#include <pthread.h>
#include <sqlite3.h>
#include <string.h>
#include <sys/stat.h>

enum { APPLICATION_ID = 0x666b6463 /* "fkdc" */, SCHEMA_VERSION = 3 };

enum statement {
    BEGIN,
    COMMIT,
    ROLLBACK,
    SNAPSHOT_ADD,
    SNAPSHOT_SET,
    SNAPSHOT_IMAGE,
    SNAPSHOT_REMOVE,
    SNAPSHOT_EACH,
    BRANCH_ADD,
    BRANCH_SET,
    BRANCH_REMOVE,
    SANDBOX_ADD,
    SANDBOX_READY,
    SANDBOX_BRANCHED,
    SANDBOX_REMOVE,
    SANDBOX_EACH,
    WORKSPACE_PUT,
    WORKSPACE_RUNS,
    WORKSPACE_REMOVE,
    WORKSPACE_EACH,
    STATEMENTS
};

static const char *const statement_text[] = {
    [BEGIN] = "BEGIN IMMEDIATE",
    [COMMIT] = "COMMIT",
    [ROLLBACK] = "ROLLBACK",
    [SNAPSHOT_ADD] =
        "INSERT INTO snapshots(id, tag, state, reason, created, secret, has_disk, tree) VALUES(?,?,?,?,?,?,?,?)",
    [SNAPSHOT_SET] = "UPDATE snapshots SET state = ?2, reason = ?3 WHERE id = ?1 AND state <> 4",
    [SNAPSHOT_IMAGE] = "UPDATE snapshots SET image_bytes = ?2 WHERE id = ?1",
    [SNAPSHOT_REMOVE] = "DELETE FROM snapshots WHERE id = ?",
    [SNAPSHOT_EACH] =
        "SELECT id, tag, state, reason, created, secret, has_disk, tree, source, parent_tag, mode,"
        " kick_us, save_us, log_us, pages_us, resume_us, rounds, pages_streamed, pages_in_pause, ready_us, image_bytes"
        " FROM snapshots LEFT JOIN branches USING(id)",
    [BRANCH_ADD] = "INSERT INTO branches(id, source, parent_tag, mode) VALUES(?,?,?,?)",
    [BRANCH_SET] = "UPDATE branches SET kick_us = ?2, save_us = ?3, log_us = ?4, pages_us = ?5, resume_us = ?6,"
                   " rounds = ?7, pages_streamed = ?8, pages_in_pause = ?9, ready_us = ?10 WHERE id = ?1",
    [BRANCH_REMOVE] = "DELETE FROM branches WHERE id = ?",
    [SANDBOX_ADD] =
        "INSERT INTO sandboxes(id, snapshot_id, state, created, memory_limit_mib, secret) VALUES(?,?,?,?,?,?)",
    [SANDBOX_READY] =
        "UPDATE sandboxes SET state = 2, snapshot_id = ?2, created = ?3, memory_limit_mib = ?4 WHERE id = ?1",
    [SANDBOX_BRANCHED] = "UPDATE sandboxes SET last_id = ?2, branch_count = branch_count + 1 WHERE id = ?1",
    [SANDBOX_REMOVE] = "DELETE FROM sandboxes WHERE id = ?",
    [SANDBOX_EACH] = "SELECT id, snapshot_id, state, created, memory_limit_mib, secret, last_id, branch_count"
                     " FROM sandboxes",
    [WORKSPACE_PUT] = "INSERT OR REPLACE INTO workspaces(name, id, state, source_tag, state_tag, sandbox_id,"
                      " memory_limit_mib, created, active) VALUES(?,?,?,?,?,?,?,?,?)",
    [WORKSPACE_RUNS] = "UPDATE workspaces SET sandbox_id = ?2, state = 2, active = ?3 WHERE name = ?1",
    [WORKSPACE_REMOVE] = "DELETE FROM workspaces WHERE name = ?",
    [WORKSPACE_EACH] = "SELECT name, id, state, source_tag, state_tag, sandbox_id, memory_limit_mib, created, active"
                       " FROM workspaces",
};
_Static_assert(sizeof statement_text / sizeof *statement_text == STATEMENTS, "every statement has its text");
_Static_assert(ROW_READY == 2, "as SANDBOX_READY has it");

/* What brings a file from version i to i + 1; a fresh one is of version 0. What was released is never changed. */
static const char *const schema_steps[] = {
    "CREATE TABLE snapshots(id TEXT PRIMARY KEY, tag TEXT NOT NULL, state INTEGER NOT NULL, reason TEXT NOT NULL,"
    " created INTEGER NOT NULL, secret BLOB NOT NULL, has_disk INTEGER NOT NULL) WITHOUT ROWID;"
    "CREATE UNIQUE INDEX snapshots_tag ON snapshots(tag) WHERE state <> 4;"
    "CREATE TABLE sandboxes(id TEXT PRIMARY KEY, snapshot_id TEXT NOT NULL, state INTEGER NOT NULL,"
    " created INTEGER NOT NULL, memory_limit_mib INTEGER NOT NULL, secret BLOB NOT NULL) WITHOUT ROWID;",
    /* Branches: several templates in a tree, and a sandbox that has a last one. */
    "ALTER TABLE snapshots ADD COLUMN tree TEXT NOT NULL DEFAULT '';"
    "UPDATE snapshots SET tree = id;"
    "ALTER TABLE snapshots ADD COLUMN image_bytes INTEGER NOT NULL DEFAULT 0;"
    "ALTER TABLE sandboxes ADD COLUMN last_id TEXT NOT NULL DEFAULT '';"
    "ALTER TABLE sandboxes ADD COLUMN branch_count INTEGER NOT NULL DEFAULT 0;"
    "CREATE TABLE branches(id TEXT PRIMARY KEY, source TEXT NOT NULL, parent_tag TEXT NOT NULL,"
    " mode INTEGER NOT NULL, kick_us INTEGER NOT NULL DEFAULT 0, save_us INTEGER NOT NULL DEFAULT 0,"
    " log_us INTEGER NOT NULL DEFAULT 0, pages_us INTEGER NOT NULL DEFAULT 0, resume_us INTEGER NOT NULL DEFAULT 0,"
    " rounds INTEGER NOT NULL DEFAULT 0, pages_streamed INTEGER NOT NULL DEFAULT 0,"
    " pages_in_pause INTEGER NOT NULL DEFAULT 0, ready_us INTEGER NOT NULL DEFAULT 0) WITHOUT ROWID;",
    /* Workspaces. */
    "CREATE TABLE workspaces(name TEXT PRIMARY KEY, id TEXT NOT NULL, state INTEGER NOT NULL,"
    " source_tag TEXT NOT NULL, state_tag TEXT NOT NULL, sandbox_id TEXT NOT NULL, memory_limit_mib INTEGER NOT NULL,"
    " created INTEGER NOT NULL, active INTEGER NOT NULL) WITHOUT ROWID;",
};
_Static_assert(ROW_HIDDEN == 4, "as the index and SNAPSHOT_SET have it");
_Static_assert(WORKSPACE_RUNNING == 2, "as WORKSPACE_RUNS has it");
_Static_assert(sizeof schema_steps / sizeof *schema_steps == SCHEMA_VERSION, "a step for every version");
_Static_assert(REST_FULL == 0 && REST_DIFF == 1 && REST_LIVE == 2, "as files have them");

struct registry {
    sqlite3 *db;
    sqlite3_stmt *stmt[STATEMENTS];
    pthread_mutex_t lock;
};

static int fail(struct registry *r, const char *what, struct err *err)
{
    int code = sqlite3_errcode(r->db) == SQLITE_FULL ? ENOSPC : EIO;
    return err_say(err, code, "the state file %s %s: %s", sqlite3_db_filename(r->db, "main"), what,
                   sqlite3_errmsg(r->db));
}

static int execute(struct registry *r, const char *sql, struct err *err)
{
    return sqlite3_exec(r->db, sql, NULL, NULL, NULL) == SQLITE_OK ? 0 : fail(r, "cannot be set up", err);
}

static int pragma_read(struct registry *r, const char *sql, int *value, struct err *err)
{
    sqlite3_stmt *stmt = NULL;
    int rc = 0;
    if (sqlite3_prepare_v2(r->db, sql, -1, &stmt, NULL) != SQLITE_OK || sqlite3_step(stmt) != SQLITE_ROW)
        rc = fail(r, "cannot be read", err);
    else
        *value = sqlite3_column_int(stmt, 0);
    sqlite3_finalize(stmt);
    return rc;
}

/* A file that is there and is no database must not be touched: it may be anything. */
static int refuse_strangers(const char *path, bool *fresh, struct err *err)
{
    char magic[16];
    own_fd int fd = open(path, O_RDONLY | O_CLOEXEC);
    struct stat st;
    *fresh = fd < 0 && errno == ENOENT;
    if (*fresh)
        return 0;
    if (fd < 0 || fstat(fd, &st) < 0)
        return err_set(err, errno, "open the state file %s", path);
    if (S_ISREG(st.st_mode) && st.st_size == 0) {
        *fresh = true;
        return 0;
    }
    if (S_ISREG(st.st_mode) && io_pread_all(fd, magic, sizeof magic, 0, NULL) == 0 &&
        memcmp(magic, "SQLite format 3", sizeof magic) == 0)
        return 0;
    return err_say(err, EINVAL,
                   "%s is not a state file of forkd-controller and is left as it is; choose another with --state",
                   path);
}

/* All or nothing: a transaction that is not committed ends with its connection. */
static int schema_upgrade(struct registry *r, int version, struct err *err)
{
    char sql[96];
    int rc = execute(r, "BEGIN IMMEDIATE", err);
    for (; rc == 0 && version < SCHEMA_VERSION; version++)
        rc = execute(r, schema_steps[version], err);
    snprintf(sql, sizeof sql, "PRAGMA application_id = %d; PRAGMA user_version = %d;", APPLICATION_ID, SCHEMA_VERSION);
    if (rc == 0)
        rc = execute(r, sql, err);
    return rc == 0 ? execute(r, "COMMIT", err) : rc;
}

static int schema_check(struct registry *r, const char *path, bool fresh, struct err *err)
{
    int application = 0, version = 0;
    if (fresh)
        return schema_upgrade(r, 0, err);
    int rc = pragma_read(r, "PRAGMA application_id", &application, err);
    if (rc == 0)
        rc = pragma_read(r, "PRAGMA user_version", &version, err);
    if (rc < 0)
        return rc;
    if (application != APPLICATION_ID)
        return err_say(err, EINVAL,
                       "%s is a database of another program and is left as it is; choose another with --state", path);
    if (version < 1 || version > SCHEMA_VERSION)
        return err_say(err, EINVAL, "%s is a state file of version %d, this controller reads versions 1 to %d", path,
                       version, SCHEMA_VERSION);
    return version < SCHEMA_VERSION ? schema_upgrade(r, version, err) : 0;
}

static int prepare(struct registry *r, struct err *err)
{
    for (int i = 0; i < STATEMENTS; i++)
        if (sqlite3_prepare_v3(r->db, statement_text[i], -1, SQLITE_PREPARE_PERSISTENT, &r->stmt[i], NULL) != SQLITE_OK)
            return fail(r, "cannot be asked", err);
    return 0;
}

/* Its owner's alone, whatever the umask: the secrets by which VMMs know their controller are in it. The journal beside
 * it gets the file's own mode. */
static int file_make(const char *path, struct err *err)
{
    own_fd int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    return fd < 0 ? err_set(err, errno, "open the state file %s", path) : 0;
}

int registry_open(const char *path, struct registry **registry, struct err *err)
{
    bool fresh;
    int rc = refuse_strangers(path, &fresh, err);
    if (rc == 0)
        rc = file_make(path, err);
    if (rc < 0)
        return rc;
    struct registry *r = calloc(1, sizeof *r);
    if (!r)
        return err_say(err, ENOMEM, "out of memory");
    pthread_mutex_init(&r->lock, NULL);
    int flags = SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOMUTEX;
    if (sqlite3_open_v2(path, &r->db, flags, NULL) != SQLITE_OK)
        rc = err_say(err, EIO, "open the state file %s: %s", path, sqlite3_errmsg(r->db));
    /* Before the file is read for the first time: or the journal's index is shared already. */
    if (rc == 0)
        rc = execute(r, "PRAGMA locking_mode = EXCLUSIVE", err);
    if (rc == 0)
        rc = schema_check(r, path, fresh, err);
    if (rc == 0)
        rc = execute(r, "PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL; PRAGMA temp_store = MEMORY", err);
    if (rc == 0)
        rc = prepare(r, err);
    if (rc < 0)
        registry_close(r);
    else
        *registry = r;
    return rc;
}

void registry_close(struct registry *r)
{
    if (!r)
        return;
    for (int i = 0; i < STATEMENTS; i++)
        sqlite3_finalize(r->stmt[i]);
    sqlite3_close(r->db);
    pthread_mutex_destroy(&r->lock);
    free(r);
}

/* Runs a statement that returns no rows and makes it ready for its next use. */
static int step(struct registry *r, enum statement which, struct err *err)
{
    sqlite3_stmt *stmt = r->stmt[which];
    int rc = sqlite3_step(stmt) == SQLITE_DONE ? 0 : fail(r, "cannot be written", err);
    sqlite3_reset(stmt);
    return rc;
}

static void bind_text(sqlite3_stmt *stmt, int at, const char *text)
{
    sqlite3_bind_text(stmt, at, text, -1, SQLITE_STATIC);
}

/* BEGIN was done: ends the transaction one way or the other. */
static int finish(struct registry *r, int rc, struct err *err)
{
    if (rc == 0)
        rc = step(r, COMMIT, err);
    if (rc < 0 && !sqlite3_get_autocommit(r->db))
        step(r, ROLLBACK, NULL);
    return rc;
}

/* The same for what outlives the host: the commit is on the disk when lasting_finish() returns. SQLite takes the level
 * when it compiles the pragma, and only outside of a transaction, so it is no prepared statement. */
static int lasting_begin(struct registry *r, struct err *err)
{
    int rc = execute(r, "PRAGMA synchronous = FULL", err);
    return rc == 0 ? step(r, BEGIN, err) : rc;
}

static int lasting_finish(struct registry *r, int rc, struct err *err)
{
    rc = finish(r, rc, err);
    execute(r, "PRAGMA synchronous = NORMAL", NULL);
    return rc;
}

static int branch_add(struct registry *r, const struct snapshot_row *row, struct err *err)
{
    sqlite3_stmt *stmt = r->stmt[BRANCH_ADD];
    bind_text(stmt, 1, row->id);
    bind_text(stmt, 2, row->branch.source);
    bind_text(stmt, 3, row->branch.parent_tag);
    sqlite3_bind_int(stmt, 4, row->branch.mode);
    return step(r, BRANCH_ADD, err);
}

int registry_snapshot_add(struct registry *r, const struct snapshot_row *row, struct err *err)
{
    pthread_mutex_lock(&r->lock);
    int rc = lasting_begin(r, err);
    sqlite3_stmt *stmt = r->stmt[SNAPSHOT_ADD];
    bind_text(stmt, 1, row->id);
    bind_text(stmt, 2, row->tag);
    sqlite3_bind_int(stmt, 3, row->state);
    bind_text(stmt, 4, row->reason);
    sqlite3_bind_int64(stmt, 5, (sqlite3_int64)row->created_at_unix);
    sqlite3_bind_blob(stmt, 6, row->secret, sizeof row->secret, SQLITE_STATIC);
    sqlite3_bind_int(stmt, 7, row->has_disk);
    bind_text(stmt, 8, row->tree);
    if (rc == 0)
        rc = step(r, SNAPSHOT_ADD, err);
    if (rc == 0 && *row->branch.source)
        rc = branch_add(r, row, err);
    rc = lasting_finish(r, rc, err);
    pthread_mutex_unlock(&r->lock);
    return rc;
}

static void bind_number(sqlite3_stmt *stmt, int at, uint64_t number)
{
    sqlite3_bind_int64(stmt, at, (sqlite3_int64)number);
}

static int branch_set(struct registry *r, const char *id, const struct rest_branch *branch, struct err *err)
{
    sqlite3_stmt *stmt = r->stmt[BRANCH_SET];
    bind_text(stmt, 1, id);
    for (int i = 0; i < REST_PHASES; i++)
        bind_number(stmt, 2 + i, branch->pause_us[i]);
    bind_number(stmt, 7, branch->rounds);
    bind_number(stmt, 8, branch->pages_streamed);
    bind_number(stmt, 9, branch->pages_in_pause);
    bind_number(stmt, 10, branch->ready_us);
    return step(r, BRANCH_SET, err);
}
_Static_assert(REST_KICK == 0 && REST_RESUME == 4 && REST_PHASES == 5, "as BRANCH_SET has them");

static int state_set(struct registry *r, const char *id, enum row_state state, const char *reason, struct err *err)
{
    bind_text(r->stmt[SNAPSHOT_SET], 1, id);
    sqlite3_bind_int(r->stmt[SNAPSHOT_SET], 2, state);
    bind_text(r->stmt[SNAPSHOT_SET], 3, reason);
    return step(r, SNAPSHOT_SET, err);
}

static int image_set(struct registry *r, const char *id, uint64_t bytes, struct err *err)
{
    bind_text(r->stmt[SNAPSHOT_IMAGE], 1, id);
    bind_number(r->stmt[SNAPSHOT_IMAGE], 2, bytes);
    return step(r, SNAPSHOT_IMAGE, err);
}

int registry_snapshot_set(struct registry *r, const char *id, enum row_state state, const char *reason, struct err *err)
{
    pthread_mutex_lock(&r->lock);
    int rc = lasting_begin(r, err);
    if (rc == 0)
        rc = state_set(r, id, state, reason, err);
    rc = lasting_finish(r, rc, err);
    pthread_mutex_unlock(&r->lock);
    return rc;
}

int registry_snapshot_image(struct registry *r, const char *id, uint64_t bytes, struct err *err)
{
    pthread_mutex_lock(&r->lock);
    int rc = lasting_begin(r, err);
    if (rc == 0)
        rc = image_set(r, id, bytes, err);
    rc = lasting_finish(r, rc, err);
    pthread_mutex_unlock(&r->lock);
    return rc;
}

int registry_snapshot_ready(struct registry *r, const char *id, uint64_t image_bytes, struct err *err)
{
    pthread_mutex_lock(&r->lock);
    int rc = lasting_begin(r, err);
    if (rc == 0)
        rc = image_set(r, id, image_bytes, err);
    if (rc == 0)
        rc = state_set(r, id, ROW_READY, "", err);
    rc = lasting_finish(r, rc, err);
    pthread_mutex_unlock(&r->lock);
    return rc;
}

int registry_branch_ready(struct registry *r, const char *id, const struct rest_branch *branch, struct err *err)
{
    pthread_mutex_lock(&r->lock);
    int rc = lasting_begin(r, err);
    if (rc == 0)
        rc = state_set(r, id, ROW_READY, "", err);
    if (rc == 0)
        rc = branch_set(r, id, branch, err);
    if (rc == 0) {
        bind_text(r->stmt[SANDBOX_BRANCHED], 1, branch->source);
        bind_text(r->stmt[SANDBOX_BRANCHED], 2, id);
        rc = step(r, SANDBOX_BRANCHED, err);
    }
    rc = lasting_finish(r, rc, err);
    pthread_mutex_unlock(&r->lock);
    return rc;
}

static int remove_by_id(struct registry *r, enum statement which, const char *id, struct err *err)
{
    bind_text(r->stmt[which], 1, id);
    return step(r, which, err);
}

int registry_snapshot_remove(struct registry *r, const char *id, struct err *err)
{
    pthread_mutex_lock(&r->lock);
    int rc = lasting_begin(r, err);
    if (rc == 0)
        rc = remove_by_id(r, SNAPSHOT_REMOVE, id, err);
    if (rc == 0)
        rc = remove_by_id(r, BRANCH_REMOVE, id, err);
    rc = lasting_finish(r, rc, err);
    pthread_mutex_unlock(&r->lock);
    return rc;
}

int registry_sandbox_remove(struct registry *r, const char *id, struct err *err)
{
    pthread_mutex_lock(&r->lock);
    int rc = remove_by_id(r, SANDBOX_REMOVE, id, err);
    pthread_mutex_unlock(&r->lock);
    return rc;
}

static int sandbox_add(struct registry *r, const struct sandbox_row *row, struct err *err)
{
    sqlite3_stmt *stmt = r->stmt[SANDBOX_ADD];
    bind_text(stmt, 1, row->id);
    bind_text(stmt, 2, row->snapshot_id);
    sqlite3_bind_int(stmt, 3, row->state);
    sqlite3_bind_int64(stmt, 4, (sqlite3_int64)row->created_at_unix);
    sqlite3_bind_int64(stmt, 5, (sqlite3_int64)row->memory_limit_mib);
    sqlite3_bind_blob(stmt, 6, row->secret, sizeof row->secret, SQLITE_STATIC);
    return step(r, SANDBOX_ADD, err);
}

static int sandbox_ready(struct registry *r, const struct sandbox_row *row, struct err *err)
{
    sqlite3_stmt *stmt = r->stmt[SANDBOX_READY];
    bind_text(stmt, 1, row->id);
    bind_text(stmt, 2, row->snapshot_id);
    sqlite3_bind_int64(stmt, 3, (sqlite3_int64)row->created_at_unix);
    sqlite3_bind_int64(stmt, 4, (sqlite3_int64)row->memory_limit_mib);
    int rc = step(r, SANDBOX_READY, err);
    if (rc < 0 || !*row->workspace)
        return rc;
    bind_text(r->stmt[WORKSPACE_RUNS], 1, row->workspace);
    bind_text(r->stmt[WORKSPACE_RUNS], 2, row->id);
    sqlite3_bind_int64(r->stmt[WORKSPACE_RUNS], 3, (sqlite3_int64)row->created_at_unix);
    return step(r, WORKSPACE_RUNS, err);
}

static int sandboxes_all(struct registry *r, const struct sandbox_row *rows, unsigned count,
                         int (*one)(struct registry *, const struct sandbox_row *, struct err *), struct err *err)
{
    pthread_mutex_lock(&r->lock);
    int rc = step(r, BEGIN, err);
    for (unsigned i = 0; rc == 0 && i < count; i++)
        rc = one(r, &rows[i], err);
    rc = finish(r, rc, err);
    pthread_mutex_unlock(&r->lock);
    return rc;
}

int registry_sandboxes_add(struct registry *r, const struct sandbox_row *rows, unsigned count, struct err *err)
{
    return sandboxes_all(r, rows, count, sandbox_add, err);
}

int registry_sandboxes_ready(struct registry *r, const struct sandbox_row *rows, unsigned count, struct err *err)
{
    return sandboxes_all(r, rows, count, sandbox_ready, err);
}

static void column_text(sqlite3_stmt *stmt, int at, char *into, size_t cap)
{
    const char *text = (const char *)sqlite3_column_text(stmt, at);
    snprintf(into, cap, "%s", text ? text : "");
}

static void column_secret(sqlite3_stmt *stmt, int at, uint8_t *secret)
{
    memset(secret, 0, CTL_SECRET_LEN);
    if (sqlite3_column_bytes(stmt, at) == CTL_SECRET_LEN)
        memcpy(secret, sqlite3_column_blob(stmt, at), CTL_SECRET_LEN);
}

/* Of a row of BRANCHES, from its column `at` on; NULLs where there is none. */
static void column_branch(sqlite3_stmt *stmt, int at, struct rest_branch *branch)
{
    column_text(stmt, at, branch->source, sizeof branch->source);
    column_text(stmt, at + 1, branch->parent_tag, sizeof branch->parent_tag);
    int mode = sqlite3_column_int(stmt, at + 2);
    branch->mode = mode == REST_DIFF || mode == REST_LIVE ? (enum rest_mode)mode : REST_FULL;
    for (int i = 0; i < REST_PHASES; i++)
        branch->pause_us[i] = (uint64_t)sqlite3_column_int64(stmt, at + 3 + i);
    branch->rounds = (unsigned)sqlite3_column_int(stmt, at + 8);
    branch->pages_streamed = (uint64_t)sqlite3_column_int64(stmt, at + 9);
    branch->pages_in_pause = (uint64_t)sqlite3_column_int64(stmt, at + 10);
    branch->ready_us = (uint64_t)sqlite3_column_int64(stmt, at + 11);
}

/* Ends a walk, whose lock is still held: `got` is what the last step came to, `rc` what the caller of the walk said of
 * the last row. */
static int walk_end(struct registry *r, sqlite3_stmt *stmt, int rc, int got, struct err *err)
{
    if (rc == 0 && got != SQLITE_DONE)
        rc = fail(r, "cannot be read", err);
    sqlite3_reset(stmt);
    pthread_mutex_unlock(&r->lock);
    return rc;
}

int registry_snapshots_each(struct registry *r, int (*fn)(void *arg, const struct snapshot_row *row), void *arg,
                            struct err *err)
{
    sqlite3_stmt *stmt = r->stmt[SNAPSHOT_EACH];
    int rc = 0, got = SQLITE_DONE;
    pthread_mutex_lock(&r->lock);
    while (rc == 0 && (got = sqlite3_step(stmt)) == SQLITE_ROW) {
        struct snapshot_row row = {.state = (enum row_state)sqlite3_column_int(stmt, 2),
                                   .created_at_unix = (uint64_t)sqlite3_column_int64(stmt, 4),
                                   .has_disk = sqlite3_column_int(stmt, 6)};
        column_text(stmt, 0, row.id, sizeof row.id);
        column_text(stmt, 1, row.tag, sizeof row.tag);
        column_text(stmt, 3, row.reason, sizeof row.reason);
        column_secret(stmt, 5, row.secret);
        column_text(stmt, 7, row.tree, sizeof row.tree);
        column_branch(stmt, 8, &row.branch);
        row.image_bytes = (uint64_t)sqlite3_column_int64(stmt, 20);
        rc = fn(arg, &row);
    }
    return walk_end(r, stmt, rc, got, err);
}

int registry_sandboxes_each(struct registry *r, int (*fn)(void *arg, const struct sandbox_row *row), void *arg,
                            struct err *err)
{
    sqlite3_stmt *stmt = r->stmt[SANDBOX_EACH];
    int rc = 0, got = SQLITE_DONE;
    pthread_mutex_lock(&r->lock);
    while (rc == 0 && (got = sqlite3_step(stmt)) == SQLITE_ROW) {
        struct sandbox_row row = {.state = (enum row_state)sqlite3_column_int(stmt, 2),
                                  .created_at_unix = (uint64_t)sqlite3_column_int64(stmt, 3),
                                  .memory_limit_mib = (uint64_t)sqlite3_column_int64(stmt, 4)};
        column_text(stmt, 0, row.id, sizeof row.id);
        column_text(stmt, 1, row.snapshot_id, sizeof row.snapshot_id);
        column_secret(stmt, 5, row.secret);
        column_text(stmt, 6, row.last_id, sizeof row.last_id);
        row.branch_count = (unsigned)sqlite3_column_int(stmt, 7);
        rc = fn(arg, &row);
    }
    return walk_end(r, stmt, rc, got, err);
}

int registry_workspace_put(struct registry *r, const struct workspace_row *row, struct err *err)
{
    pthread_mutex_lock(&r->lock);
    sqlite3_stmt *stmt = r->stmt[WORKSPACE_PUT];
    bind_text(stmt, 1, row->name);
    bind_text(stmt, 2, row->id);
    sqlite3_bind_int(stmt, 3, row->state);
    bind_text(stmt, 4, row->source_tag);
    bind_text(stmt, 5, row->state_tag);
    bind_text(stmt, 6, row->sandbox_id);
    bind_number(stmt, 7, row->memory_limit_mib);
    bind_number(stmt, 8, row->created_at_unix);
    bind_number(stmt, 9, row->active_at_unix);
    int rc = lasting_begin(r, err);
    if (rc == 0)
        rc = step(r, WORKSPACE_PUT, err);
    rc = lasting_finish(r, rc, err);
    pthread_mutex_unlock(&r->lock);
    return rc;
}

int registry_workspace_remove(struct registry *r, const char *name, struct err *err)
{
    pthread_mutex_lock(&r->lock);
    int rc = lasting_begin(r, err);
    if (rc == 0)
        rc = remove_by_id(r, WORKSPACE_REMOVE, name, err);
    rc = lasting_finish(r, rc, err);
    pthread_mutex_unlock(&r->lock);
    return rc;
}

int registry_workspaces_each(struct registry *r, int (*fn)(void *arg, const struct workspace_row *row), void *arg,
                             struct err *err)
{
    sqlite3_stmt *stmt = r->stmt[WORKSPACE_EACH];
    int rc = 0, got = SQLITE_DONE;
    pthread_mutex_lock(&r->lock);
    while (rc == 0 && (got = sqlite3_step(stmt)) == SQLITE_ROW) {
        struct workspace_row row = {.state = (enum workspace_state)sqlite3_column_int(stmt, 2),
                                    .memory_limit_mib = (uint64_t)sqlite3_column_int64(stmt, 6),
                                    .created_at_unix = (uint64_t)sqlite3_column_int64(stmt, 7),
                                    .active_at_unix = (uint64_t)sqlite3_column_int64(stmt, 8)};
        column_text(stmt, 0, row.name, sizeof row.name);
        column_text(stmt, 1, row.id, sizeof row.id);
        column_text(stmt, 3, row.source_tag, sizeof row.source_tag);
        column_text(stmt, 4, row.state_tag, sizeof row.state_tag);
        column_text(stmt, 5, row.sandbox_id, sizeof row.sandbox_id);
        rc = fn(arg, &row);
    }
    return walk_end(r, stmt, rc, got, err);
}
