/* writer.c: see writer.h.
 *
 * SECCOMP(store): fcntl[a1 in F_GETFL F_SETFL] - direct I/O on and off
 * SECCOMP(store): fallocate - reserves space, gives back what was zero
 * SECCOMP(store): ftruncate - the length of a file
 * SECCOMP(store): fsync - a snapshot is on the disk before it has its name
 * SECCOMP(store): ioctl[a1 == FICLONE] - shares what did not change with an older file
 * SECCOMP(store): fstatfs - how full the disk is, for the error
 * SECCOMP(store): clock_nanosleep - the rate limit */
#include "snap/writer.h"

#include "base/clock.h"
#include "base/io.h"
#include "base/own.h"
#include "mem/image.h"
#include "snap/crew.h"

#include <fcntl.h>
#include <linux/fs.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/statfs.h>

/* Four threads, each with its chunk, write as fast as a plain sequential writer (docs/snapshots.md); more are not
 * faster. */
enum { DIRECT_THREADS = 4, GIVE_BACK_BLOCKS = 16, PROGRESS_MS = 100 };

static const char *const engine_names[] = {
    [WRITER_DIRECT] = "direct", [WRITER_FALLOCATE] = "fallocate", [WRITER_BUFFERED] = "buffered"};
_Static_assert(sizeof engine_names / sizeof *engine_names == WRITER_ENGINES, "every engine has a name");

const char *writer_engine_name(enum writer_engine engine)
{
    return engine_names[engine];
}

/* One file being written. */
struct job {
    const struct writer *writer;
    const struct block_source *source;
    struct block_map *map;
    struct writer_report *report;
    uint8_t *buffer; /* a chunk for each thread */
    _Atomic bool direct;
    bool reserved, cloned;
    _Atomic uint64_t done, written; /* bytes */
    _Atomic uint64_t turned_zero;   /* blocks that might have been held, and are zero */
    uint64_t told_ns;               /* of the caller's thread */
};

static int fail(const struct job *job, int code, const char *what, struct err *err)
{
    struct statfs fs;
    if (code != ENOSPC || fstatfs(job->writer->fd, &fs) < 0)
        return err_set(err, code, "%s %s", what, job->writer->name);
    return err_say(err, ENOSPC, "the disk of the snapshot is full, %llu of its %llu MiB are free: %s %s",
                   (unsigned long long)(fs.f_bavail * (uint64_t)fs.f_bsize >> 20),
                   (unsigned long long)(fs.f_blocks * (uint64_t)fs.f_bsize >> 20), what, job->writer->name);
}

/* Each sentence stands once. */
static void warn(struct job *job, const char *sentence)
{
    char *warning = job->report->warning;
    size_t len = strlen(warning);
    if (strstr(warning, sentence))
        return;
    snprintf(warning + len, sizeof job->report->warning - len, "%s%s", len ? "; " : "", sentence);
}

/* What may be held, noted before anything is read. */
static int list_candidates(struct job *job, struct err *err)
{
    struct block_run run;
    uint64_t from = 0;
    int rc;
    while ((rc = job->source->next(job->source->owner, from, &run, err)) > 0) {
        rc = block_map_add(job->map, run.first, run.count, run.zero, err);
        if (rc < 0)
            return rc;
        from = run.first + run.count;
    }
    return rc;
}

/* Calls `fn` for every run of blocks held, across chunks. */
static int each_held_run(struct job *job, int (*fn)(struct job *job, uint64_t first, uint64_t count, struct err *err),
                         struct err *err)
{
    uint64_t first = 0, count = 0;
    for (uint64_t i = 0; i < job->map->count; i++) {
        const struct block_chunk *chunk = &job->map->chunk[i];
        for (unsigned block = 0, run; (run = chunk_run(chunk->held, &block)); block += run) {
            uint64_t at = chunk->number * CHUNK_BLOCKS + block;
            if (count && first + count == at) {
                count += run;
                continue;
            }
            int rc = count ? fn(job, first, count, err) : 0;
            if (rc < 0)
                return rc;
            first = at;
            count = run;
        }
    }
    return count ? fn(job, first, count, err) : 0;
}

static int reserve_run(struct job *job, uint64_t first, uint64_t count, struct err *err)
{
    if (!(job->writer->without & WITHOUT_FALLOCATE) &&
        fallocate(job->writer->fd, 0, (off_t)(first * BLOCK_BYTES), (off_t)(count * BLOCK_BYTES)) == 0)
        return 0;
    int code = job->writer->without & WITHOUT_FALLOCATE ? EOPNOTSUPP : errno;
    return code == EOPNOTSUPP || code == ENOSYS ? -EOPNOTSUPP : fail(job, code, "reserve space for", err);
}

/* What cannot be cloned is written: there is nothing to say about it. */
static bool clone_origin(const struct job *job)
{
    const struct origin *origin = job->writer->origin;
    return origin && origin->map->blocks == job->source->blocks && !(job->writer->without & WITHOUT_REFLINK) &&
           ioctl(job->writer->fd, FICLONE, origin->fd) == 0;
}

/* A clone has its blocks; what will be written over them is not known to be free, and seldom much. */
static int reserve(struct job *job, struct err *err)
{
    if (job->report->engine == WRITER_BUFFERED || job->cloned)
        return 0;
    int rc = each_held_run(job, reserve_run, err);
    job->reserved = rc == 0;
    if (rc != -EOPNOTSUPP)
        return rc;
    warn(job, "the filesystem cannot reserve space");
    if (job->report->engine == WRITER_FALLOCATE)
        job->report->engine = WRITER_BUFFERED;
    return 0;
}

static int set_direct(int fd, bool on)
{
    int flags = fcntl(fd, F_GETFL);
    return flags < 0 ? -1 : fcntl(fd, F_SETFL, on ? flags | O_DIRECT : flags & ~O_DIRECT);
}

static void begin_direct(struct job *job)
{
    if (job->report->engine != WRITER_DIRECT)
        return;
    job->direct = !(job->writer->without & WITHOUT_DIRECT) && set_direct(job->writer->fd, true) == 0;
}

/* After the threads: what they found out. */
static void end_direct(struct job *job)
{
    if (job->report->engine != WRITER_DIRECT)
        return;
    if (job->direct) {
        set_direct(job->writer->fd, false);
        return;
    }
    warn(job, "the filesystem cannot do direct I/O: written through the page cache");
    job->report->engine = job->reserved ? WRITER_FALLOCATE : WRITER_BUFFERED;
}

/* Waits until `bytes` may be written; time is given out in order of asking. */
static int pace_take(struct pace *pace, uint64_t bytes, struct err *err)
{
    if (!pace || !pace->bytes_per_second)
        return 0;
    uint64_t now = clock_monotonic_ns(), cost = bytes * NS_PER_SEC / pace->bytes_per_second;
    uint64_t turn = atomic_load(&pace->free_ns), begin;
    do
        begin = turn > now ? turn : now;
    while (!atomic_compare_exchange_weak(&pace->free_ns, &turn, begin + cost));
    const struct timespec until = {.tv_sec = (time_t)(begin / NS_PER_SEC), .tv_nsec = (long)(begin % NS_PER_SEC)};
    int code;
    while ((code = clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL)) == EINTR)
        ;
    return code ? err_set(err, code, "wait until the rate limit lets it write") : 0;
}

/* Reads what the chunk may hold; what is zero leaves `held`. */
static int fill(struct job *job, struct block_chunk *chunk, uint8_t *buffer, struct err *err)
{
    for (unsigned block = 0, run; (run = chunk_run(chunk->held, &block)); block += run) {
        uint8_t *into = buffer + (size_t)block * BLOCK_BYTES;
        int rc = job->source->read(job->source->owner, chunk->number * CHUNK_BLOCKS + block, run, into, err);
        if (rc < 0)
            return rc;
        for (unsigned i = 0; i < run; i++) {
            if (!image_page_is_zero(into + (size_t)i * BLOCK_BYTES))
                continue;
            uint64_t bit = UINT64_C(1) << ((block + i) % 64);
            chunk->held[(block + i) / 64] &= ~bit;
            job->turned_zero++;
            if (!job->source->zero_is_absent)
                chunk->zero[(block + i) / 64] |= bit;
        }
    }
    chunk->crc = chunk_sum(chunk, buffer);
    return 0;
}

/* Some filesystems take O_DIRECT and refuse the write: then without it, for all that is left. */
static int write_run(struct job *job, const uint8_t *from, uint64_t len, uint64_t at, struct err *err)
{
    int rc = io_pwrite_all(job->writer->fd, from, len, at, NULL);
    if (rc == -EINVAL && job->report->engine == WRITER_DIRECT) {
        job->direct = false;
        set_direct(job->writer->fd, false);
        rc = io_pwrite_all(job->writer->fd, from, len, at, NULL);
    }
    return rc < 0 ? fail(job, -rc, "write", err) : 0;
}

/* Takes those blocks off `write` that the clone has already. True: all of the chunk is the origin's. */
static bool leave_out_shared(const struct job *job, const struct block_chunk *chunk, uint64_t write[CHUNK_WORDS])
{
    const struct block_chunk *old = block_map_find(job->writer->origin->map, chunk->number);
    uint64_t changed[CHUNK_WORDS] = {0}, any = 0;
    job->source->changed(job->source->owner, chunk->number, changed);
    for (int i = 0; i < CHUNK_WORDS; i++) {
        write[i] &= ~(old ? old->held[i] & ~changed[i] : 0);
        any |= changed[i];
    }
    return !any;
}

/* The chunk is the origin's, whatever it might have held. */
static void take_record(const struct job *job, struct block_chunk *chunk)
{
    const struct block_chunk *old = block_map_find(job->writer->origin->map, chunk->number);
    *chunk = old ? *old : (struct block_chunk){.number = chunk->number};
}

/* After a chunk of which `blocks` might have been held. */
static int tell(struct job *job, unsigned thread, unsigned blocks, struct err *err)
{
    job->done += (uint64_t)blocks * BLOCK_BYTES;
    uint64_t now = clock_monotonic_ns();
    if (thread != 0 || !job->writer->progress || now - job->told_ns < PROGRESS_MS * NS_PER_MS)
        return 0;
    job->told_ns = now;
    return job->writer->progress(job->writer->owner, job->done, job->written, err);
}

static int write_chunk(void *owner, unsigned thread, uint64_t task, struct err *err)
{
    struct job *job = owner;
    struct block_chunk *chunk = &job->map->chunk[task];
    uint8_t *buffer = job->buffer + (size_t)thread * CHUNK_BYTES;
    uint64_t write[CHUNK_WORDS];
    unsigned blocks = chunk_count(chunk->held);
    memset(write, 0xff, sizeof write);
    if (job->cloned && leave_out_shared(job, chunk, write)) {
        take_record(job, chunk);
        return tell(job, thread, blocks, err);
    }
    int rc = fill(job, chunk, buffer, err);
    if (rc < 0)
        return rc;
    for (int i = 0; i < CHUNK_WORDS; i++)
        write[i] &= chunk->held[i];
    uint64_t bytes = (uint64_t)chunk_count(write) * BLOCK_BYTES;
    rc = pace_take(job->writer->pace, bytes, err);
    for (unsigned block = 0, run; rc == 0 && (run = chunk_run(write, &block)); block += run)
        rc = write_run(job, buffer + (size_t)block * BLOCK_BYTES, (uint64_t)run * BLOCK_BYTES,
                       (chunk->number * CHUNK_BLOCKS + block) * BLOCK_BYTES, err);
    job->written += bytes;
    return rc == 0 ? tell(job, thread, blocks, err) : rc;
}

static int write_chunks(struct job *job, struct err *err)
{
    unsigned threads = job->report->engine == WRITER_DIRECT ? DIRECT_THREADS : 1;
    size_t room = (size_t)threads * CHUNK_BYTES;
    void *buffer = mmap(NULL, room, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (buffer == MAP_FAILED)
        return err_set(err, errno, "get buffers to write %s", job->writer->name);
    job->buffer = buffer;
    begin_direct(job);
    int rc = crew_run(threads, job->map->count, write_chunk, job, err);
    end_direct(job);
    munmap(buffer, room);
    return rc;
}

/* Records that hold nothing after all leave the map. */
static void drop_empty(struct block_map *map)
{
    uint64_t kept = 0;
    for (uint64_t i = 0; i < map->count; i++)
        if (chunk_count(map->chunk[i].held) + chunk_count(map->chunk[i].zero))
            map->chunk[kept++] = map->chunk[i];
    map->count = kept;
}

static void punch(const struct job *job, uint64_t first, uint64_t end)
{
    if (end >= first + GIVE_BACK_BLOCKS)
        fallocate(job->writer->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)(first * BLOCK_BYTES),
                  (off_t)((end - first) * BLOCK_BYTES));
}

/* Invariant 1. What was never reserved is a hole already. */
static void give_back(struct job *job)
{
    if (!job->reserved || job->turned_zero < GIVE_BACK_BLOCKS)
        return;
    uint64_t end = 0;
    for (uint64_t i = 0; i < job->map->count; i++) {
        const struct block_chunk *chunk = &job->map->chunk[i];
        for (unsigned block = 0, run; (run = chunk_run(chunk->held, &block)); block += run) {
            punch(job, end, chunk->number * CHUNK_BLOCKS + block);
            end = chunk->number * CHUNK_BLOCKS + block + run;
        }
    }
    punch(job, end, job->map->blocks);
}

int writer_run(const struct writer *w, const struct block_source *source, struct block_map *map,
               struct writer_report *report, struct err *err)
{
    struct job job = {.writer = w, .source = source, .map = map, .report = report, .told_ns = clock_monotonic_ns()};
    *report = (struct writer_report){.engine = w->engine};
    block_map_init(map, source->blocks);
    int rc = list_candidates(&job, err);
    job.cloned = rc == 0 && clone_origin(&job);
    if (rc == 0 && ftruncate(w->fd, (off_t)(source->blocks * BLOCK_BYTES)) < 0)
        rc = fail(&job, errno, "set the length of", err);
    if (rc == 0)
        rc = reserve(&job, err);
    if (rc == 0)
        rc = write_chunks(&job, err);
    if (rc < 0)
        return rc;
    drop_empty(map);
    for (uint64_t i = 0; i < map->count; i++)
        report->bytes += (uint64_t)chunk_count(map->chunk[i].held) * BLOCK_BYTES;
    report->shared_bytes = report->bytes - job.written;
    give_back(&job);
    return !(w->without & WITHOUT_SYNC) && fsync(w->fd) < 0 ? fail(&job, errno, "sync", err) : 0;
}
