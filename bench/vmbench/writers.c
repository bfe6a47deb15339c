/* writers.c: see writers.h. */
#include "vmbench/writers.h"

#include "base/clock.h"
#include "base/own.h"
#include "proto/ctl.h"
#include "proto/snapshot_meta.h"
#include "snap/save.h"

#include <fcntl.h>
#include <libgen.h>
#include <spawn.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>

extern char **environ;

enum { PATIENCE_SECONDS = 600, STORE_FD = 3, NAME_CAP = 32 };

/* One branch. Its thread has it until it is joined. */
struct writers_job {
    pthread_t thread;
    pid_t store; /* 0: there is only a file to sync */
    int fd;      /* the store's control socket, or the file; owned */
    struct written written;
    int rc;
    struct err err;
};

static void branch_name(char name[static NAME_CAP], unsigned i)
{
    snprintf(name, NAME_CAP, "branch-%u", i);
}

/* --- by the source itself --- */

static int own_next(void *owner, uint64_t from, struct block_run *run, struct err *err)
{
    const struct block_source *source = owner;
    *run = (struct block_run){.first = from, .count = source->blocks - from};
    return from < source->blocks;
}

struct own_memory {
    struct block_source source; /* first: own_next() knows no more */
    const uint8_t *ram;
};

static int own_read(void *owner, uint64_t first, uint64_t count, uint8_t *into, struct err *err)
{
    const struct own_memory *m = owner;
    memcpy(into, m->ram + first * BLOCK_BYTES, count * BLOCK_BYTES);
    return 0;
}

int writers_write_own(const struct writers *w, unsigned i, const void *ram, uint64_t len, uint64_t *bytes,
                      struct err *err)
{
    char name[NAME_CAP];
    struct block_map map;
    struct writer_report report;
    branch_name(name, i);
    own_fd int file = openat(w->dir, name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (file < 0)
        return err_set(err, errno, "create %s/%s", w->path, name);
    struct own_memory memory = {
        .source = {.blocks = len / BLOCK_BYTES, .zero_is_absent = true, .next = own_next, .read = own_read},
        .ram = ram};
    memory.source.owner = &memory;
    const struct writer writer = {.name = name, .fd = file, .engine = w->engine, .without = WITHOUT_SYNC};
    int rc = writer_run(&writer, &memory.source, &map, &report, err);
    block_map_free(&map);
    *bytes = report.bytes;
    return rc < 0 ? rc : steal_fd(&file);
}

/* --- by forkd-store --- */

static int store_path(char path[static PATH_MAX], struct err *err)
{
    char exe[PATH_MAX];
    ssize_t n = readlink("/proc/self/exe", exe, sizeof exe - 1);
    if (n < 0)
        return err_set(err, errno, "find out where this program is");
    exe[n] = 0;
    if (snprintf(path, PATH_MAX, "%s/../src/store/forkd-store", dirname(exe)) >= PATH_MAX)
        return err_say(err, ENAMETOOLONG, "the path of forkd-store is too long");
    return 0;
}

/* Spawned, not forked: no copy of a mapping of the guest's memory is made. */
static int store_start(struct writers_job *job, struct err *err)
{
    char path[PATH_MAX];
    char *argv[] = {"forkd-store", "--ctl", "3", NULL};
    int sock[2];
    if (store_path(path, err) < 0)
        return -err->code;
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sock) < 0)
        return err_set(err, errno, "socketpair");
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, sock[1], STORE_FD);
    int code = posix_spawn(&job->store, path, &actions, NULL, argv, environ);
    posix_spawn_file_actions_destroy(&actions);
    close(sock[1]);
    job->fd = sock[0];
    return code ? err_set(err, code, "start %s", path) : 0;
}

static int order_save(const struct writers *w, unsigned i, const struct machine_config *config,
                      const struct content_export *export, int memory_fd, uint64_t ram, int sock, struct err *err)
{
    own_free struct ctl_message *m = calloc(1, sizeof *m);
    own_free struct snapshot_meta *meta = calloc(1, sizeof *meta);
    char name[NAME_CAP];
    branch_name(name, i);
    if (!m || !meta)
        return err_set(err, ENOMEM, "write a branch");
    if (mkdirat(w->dir, name, 0700) < 0)
        return err_set(err, errno, "create %s/%s", w->path, name);
    own_fd int dir = openat(w->dir, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (dir < 0)
        return err_set(err, errno, "open %s/%s", w->path, name);
    memcpy(meta->tag, name, sizeof name);
    meta->mem_bytes = config->mem_bytes;
    meta->vcpus = config->vcpus;
    ctl_message_init(m, CTL_SAVE, i + 1);
    if (snapshot_meta_encode(meta, m->save.meta, sizeof m->save.meta, err) < 0)
        return -err->code;
    m->save.ram = ram;
    m->save.state_bytes = export->state_bytes;
    m->save.engine = (uint8_t)w->engine;
    m->fd[CTL_FD_DIR] = dir;
    m->fd[CTL_FD_MEMORY] = export->image_fd;
    m->fd[CTL_FD_STATE] = export->state_fd;
    m->fd[CTL_FD_OWN_MEMORY] = memory_fd;
    m->fd[CTL_FD_PAGES] = export->pages_fd;
    return ctl_send(sock, m, err);
}

/* --- what the threads wait for --- */

static int await_store(struct writers_job *job, struct err *err)
{
    own_free struct ctl_message *m = calloc(1, sizeof *m);
    own_free struct snapshot_meta *meta = calloc(1, sizeof *meta);
    uint64_t until = clock_monotonic_ns() + PATIENCE_SECONDS * NS_PER_SEC;
    int rc = 0;
    while (m && (rc = ctl_recv_until(job->fd, m, until, err)) > 0 && m->type == CTL_PROGRESS)
        ;
    job->written.durable_ns = clock_monotonic_ns();
    waitpid(job->store, NULL, 0);
    if (!m || !meta)
        return err_set(err, ENOMEM, "hear from forkd-store");
    if (rc == 0)
        return err_say(err, EPIPE, "forkd-store ended without an answer");
    if (rc > 0 && m->type == CTL_FAILED)
        return err_say(err, (int)m->failed.code, "%s", m->failed.text);
    if (rc < 0 || snapshot_meta_decode(meta, m->saved.meta, strlen(m->saved.meta), err) < 0)
        return -err->code;
    job->written.bytes = meta->logical_bytes;
    job->written.disk_bytes = meta->physical_bytes;
    return 0;
}

static int sync_file(struct writers_job *job, struct err *err)
{
    struct stat st;
    if (fsync(job->fd) < 0 || fstat(job->fd, &st) < 0)
        return err_set(err, errno, "sync a branch");
    job->written.durable_ns = clock_monotonic_ns();
    job->written.disk_bytes = (uint64_t)st.st_blocks * 512;
    return 0;
}

static void *job_main(void *arg)
{
    struct writers_job *job = arg;
    job->rc = job->store ? await_store(job, &job->err) : sync_file(job, &job->err);
    fd_close(&job->fd);
    return NULL;
}

static int job_begin(struct writers *w, unsigned i, struct writers_job *job, struct err *err)
{
    int code = pthread_create(&job->thread, NULL, job_main, job);
    if (code)
        return err_set(err, code, "start a thread");
    w->jobs[i] = job;
    return 0;
}

static struct writers_job *job_new(struct err *err)
{
    struct writers_job *job = calloc(1, sizeof *job);
    if (job)
        job->fd = -1;
    else
        err_set(err, ENOMEM, "write a branch");
    return job;
}

static void job_free(struct writers_job *job)
{
    if (job)
        fd_close(&job->fd);
    free(job);
}

int writers_save(struct writers *w, unsigned i, const struct machine_config *config,
                 const struct content_export *export, int memory_fd, uint64_t ram, struct err *err)
{
    struct writers_job *job = job_new(err);
    int rc = job ? store_start(job, err) : -err->code;
    if (rc == 0)
        rc = order_save(w, i, config, export, memory_fd, ram, job->fd, err);
    if (rc == 0)
        rc = job_begin(w, i, job, err);
    if (rc < 0)
        job_free(job);
    return rc;
}

int writers_sync(struct writers *w, unsigned i, int file, uint64_t bytes, struct err *err)
{
    struct writers_job *job = job_new(err);
    if (!job)
        return -err->code;
    job->written.bytes = bytes;
    job->fd = fcntl(file, F_DUPFD_CLOEXEC, 0);
    int rc = job->fd < 0 ? err_set(err, errno, "keep a branch's file") : job_begin(w, i, job, err);
    if (rc < 0)
        job_free(job);
    return rc;
}

int writers_wait(struct writers *w, unsigned i, struct written *written, struct err *err)
{
    struct writers_job *job = w->jobs[i];
    w->jobs[i] = NULL;
    pthread_join(job->thread, NULL);
    *written = job->written;
    int rc = job->rc < 0 ? err_say(err, job->err.code, "branch %u: %s", i, job->err.text) : 0;
    job_free(job);
    return rc;
}

/* --- the directory --- */

int writers_open(struct writers *w, const char *root, enum writer_engine engine, unsigned n, struct err *err)
{
    *w = (struct writers){.engine = engine, .dir = -1, .n = n, .jobs = calloc(n, sizeof *w->jobs)};
    if (!w->jobs)
        return err_set(err, ENOMEM, "write %u branches", n);
    if (snprintf(w->path, sizeof w->path, "%s/vmbench-XXXXXX", root) >= (int)sizeof w->path)
        return err_say(err, ENAMETOOLONG, "%s is too long", root);
    if (!mkdtemp(w->path))
        return err_set(err, errno, "make a directory in %s", root);
    w->dir = open(w->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    return w->dir < 0 ? err_set(err, errno, "open %s", w->path) : 0;
}

static void branch_remove(const struct writers *w, unsigned i)
{
    char name[NAME_CAP];
    branch_name(name, i);
    if (unlinkat(w->dir, name, 0) == 0)
        return;
    own_fd int dir = openat(w->dir, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    for (int file = 0; dir >= 0 && file < SNAPSHOT_FILES; file++)
        unlinkat(dir, snapshot_file_name((enum snapshot_file)file), 0);
    unlinkat(w->dir, name, AT_REMOVEDIR);
}

void writers_close(struct writers *w)
{
    struct written ignored;
    for (unsigned i = 0; i < w->n && w->jobs; i++)
        if (w->jobs[i])
            writers_wait(w, i, &ignored, NULL);
    for (unsigned i = 0; i < w->n && w->dir >= 0; i++)
        branch_remove(w, i);
    if (w->dir >= 0)
        rmdir(w->path);
    fd_close(&w->dir);
    free(steal_ptr(w->jobs));
}
