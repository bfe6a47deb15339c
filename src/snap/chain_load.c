/* chain_load.c: see chain_load.h.
 *
 * SECCOMP(store): memfd_create - the image and the state that are handed over
 * SECCOMP(store): fcntl[a1 in F_ADD_SEALS F_GET_SEALS] - sealed */
#include "snap/chain_load.h"

#include "base/clock.h"
#include "base/crc.h"
#include "base/io.h"
#include "base/own.h"
#include "disk/disk.h"
#include "disk/layers.h"
#include "snap/base_image.h"
#include "snap/crew.h"
#include "snap/machine_state.h"
#include "snap/state_file.h"

#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

enum { LOAD_THREADS = 4, PROGRESS_MS = 100 };

/* The state of the last link, and the disk whose section it is to get. */
struct resolved_state {
    uint8_t *bytes; /* owned */
    uint64_t len;
    uint64_t disk_bytes; /* whole blocks; 0: there is no disk */
    struct disk disk;
    bool has_disk;
};

/* Past the page cache, where the filesystem can: nobody reads memory.bin again, and a load waits for copies alone. */
static void set_direct(int fd, bool on)
{
    int flags = fcntl(fd, F_GETFL);
    if (flags >= 0)
        fcntl(fd, F_SETFL, on ? flags | O_DIRECT : flags & ~O_DIRECT);
}

/* A chunk read back */

/* Some filesystems take O_DIRECT and refuse the read. */
static int read_run(int fd, uint8_t *into, uint64_t len, uint64_t at, struct err *err)
{
    int rc = io_pread_all(fd, into, len, at, err);
    if (rc != -EINVAL)
        return rc;
    set_direct(fd, false);
    return io_pread_all(fd, into, len, at, err);
}

/* The caller's thread alone tells. */
static void tell(struct chain *chain, unsigned thread, const struct block_chunk *chunk)
{
    uint64_t now = clock_monotonic_ns();
    chain->done += (uint64_t)chunk_count(chunk->held) * BLOCK_BYTES;
    if (thread != 0 || !chain->progress || now - chain->told_ns < PROGRESS_MS * NS_PER_MS)
        return;
    chain->told_ns = now;
    chain->progress(chain->owner, chain->done, chain->total);
}

/* The blocks that a link holds of a chunk, to their places in `buffer`, checked. */
static int read_chunk(const struct chain_link *link, enum snapshot_file file, const struct block_chunk *chunk,
                      uint8_t *buffer, struct err *err)
{
    const char *name = snapshot_file_name(file);
    uint64_t first = chunk->number * CHUNK_BLOCKS;
    int rc = 0;
    for (unsigned block = 0, run; rc == 0 && (run = chunk_run(chunk->held, &block)); block += run)
        rc = read_run(link->fd[file], buffer + (size_t)block * BLOCK_BYTES, (size_t)run * BLOCK_BYTES,
                      (first + block) * BLOCK_BYTES, err);
    if (rc < 0)
        return err_wrap(err, "snapshot %s: %s", link->meta.tag, name);
    if (chunk_sum(chunk, buffer) != chunk->crc)
        return err_say(err, EINVAL, "snapshot %s: %s is damaged in blocks %llu to %llu", link->meta.tag, name,
                       (unsigned long long)first, (unsigned long long)(first + CHUNK_BLOCKS - 1));
    return 0;
}

/* One buffer for each thread of a crew. */
static uint8_t *get_buffers(void)
{
    void *at =
        mmap(NULL, (size_t)LOAD_THREADS * CHUNK_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    return at == MAP_FAILED ? NULL : at;
}

static void put_buffers(uint8_t *buffers)
{
    munmap(buffers, (size_t)LOAD_THREADS * CHUNK_BYTES);
}

/* Memory */

struct memory_job {
    struct chain *chain;
    uint8_t *ram; /* the memfd, mapped shared */
    uint8_t *buffers;
};

/* Copies what is still needed of what the link holds, and takes off what it decides. */
static void take(const struct block_chunk *chunk, const uint8_t *from, uint8_t *into, uint64_t *needed)
{
    uint64_t now[CHUNK_WORDS];
    for (int i = 0; i < CHUNK_WORDS; i++) {
        now[i] = needed[i] & chunk->held[i];
        needed[i] &= ~(chunk->held[i] | chunk->zero[i]);
    }
    for (unsigned block = 0, run; (run = chunk_run(now, &block)); block += run)
        memcpy(into + (size_t)block * BLOCK_BYTES, from + (size_t)block * BLOCK_BYTES, (size_t)run * BLOCK_BYTES);
}

/* From the last link to the first: the last word counts. */
static int load_chunk(void *owner, unsigned thread, uint64_t number, struct err *err)
{
    const struct memory_job *job = owner;
    uint64_t needed[CHUNK_WORDS];
    memset(needed, 0xff, sizeof needed);
    for (unsigned i = job->chain->count; i-- > 0;) {
        const struct chain_link *link = &job->chain->link[i];
        const struct block_chunk *chunk = block_map_find(&link->memory, number);
        uint8_t *buffer = job->buffers + (size_t)thread * CHUNK_BYTES;
        int rc = chunk ? read_chunk(link, FILE_MEMORY, chunk, buffer, err) : 0;
        if (rc < 0)
            return rc;
        if (!chunk)
            continue;
        take(chunk, buffer, job->ram + number * CHUNK_BYTES, needed);
        tell(job->chain, thread, chunk);
    }
    return 0;
}

/* Into a sealed memfd. */
static int resolve_memory(struct chain *chain, struct chain_image *image, struct err *err)
{
    uint64_t size = chain->link[0].meta.mem_bytes;
    void *ram;
    int rc = image_create(size, &image->memory, &ram, err);
    if (rc < 0)
        return rc;
    for (unsigned i = 0; i < chain->count; i++)
        set_direct(chain->link[i].fd[FILE_MEMORY], true);
    struct memory_job job = {.chain = chain, .ram = ram, .buffers = get_buffers()};
    if (!job.buffers)
        rc = err_set(err, ENOMEM, "get buffers to load a snapshot");
    if (rc == 0) {
        rc = crew_run(LOAD_THREADS, (size + CHUNK_BYTES - 1) / CHUNK_BYTES, load_chunk, &job, err);
        put_buffers(job.buffers);
    }
    if (rc == 0)
        rc = image_settle(image->memory, ram, size, &image->image, err);
    munmap(ram, size);
    return rc == 0 ? image_seal(image->memory, err) : rc;
}

/* State */

static int read_vmstate(const struct chain_link *link, struct resolved_state *state, struct err *err)
{
    const struct snapshot_part_sum *sum = &link->meta.part[SNAPSHOT_VMSTATE];
    struct stat st;
    if (fstat(link->fd[FILE_VMSTATE], &st) < 0)
        return err_set(err, errno, "vmstate");
    if ((uint64_t)st.st_size != sum->bytes || sum->bytes == 0 || sum->bytes > STATE_FILE_MAX)
        return err_say(err, EINVAL, "vmstate has %lld bytes instead of %llu: it was cut, or is of another snapshot",
                       (long long)st.st_size, (unsigned long long)sum->bytes);
    state->len = sum->bytes;
    state->bytes = malloc(state->len);
    if (!state->bytes)
        return err_set(err, ENOMEM, "read vmstate");
    int rc = io_pread_all(link->fd[FILE_VMSTATE], state->bytes, state->len, 0, err);
    return rc < 0 ? err_wrap(err, "vmstate") : 0;
}

static int check_state(const struct snapshot_meta *meta, struct resolved_state *state, struct err *err)
{
    struct state_reader reader;
    struct machine_config config = {0};
    /* Its own checks first: they name the section. */
    int rc = state_reader_init(&reader, state->bytes, state->len, err);
    if (rc == 0)
        rc = machine_state_config(state->bytes, state->len, &config, err);
    if (rc < 0)
        return err_wrap(err, "vmstate");
    if (crc32c(0, state->bytes, state->len) != meta->part[SNAPSHOT_VMSTATE].crc)
        return err_say(err, EINVAL, "vmstate is of another snapshot: its checksum is not the one in snapshot.json");
    if (config.mem_bytes != meta->mem_bytes || config.vcpus != meta->vcpus || config.disk != (*meta->base.path != 0) ||
        state_reader_section(&reader, STATE_DISK, 0, MACHINE_PART_VERSION, &(struct unpack){0}, NULL) != -ENOENT)
        return err_say(err, EINVAL, "vmstate is of another machine than snapshot.json describes");
    if (!config.disk)
        return 0;
    rc = disk_init(&state->disk, config.disk_bytes, err);
    if (rc < 0)
        return err_wrap(err, "vmstate");
    state->has_disk = true;
    state->disk_bytes = state->disk.bytes;
    if (meta->base.bytes == 0 || meta->base.bytes > state->disk_bytes)
        return err_say(err, EINVAL, "snapshot.json: the base image is larger than the disk, or empty");
    return 0;
}

/* Reads and checks the vmstate of the last link. */
static int resolve_state(const struct chain *chain, struct resolved_state *state, struct err *err)
{
    const struct chain_link *last = &chain->link[chain->count - 1];
    int rc = read_vmstate(last, state, err);
    return rc == 0 ? check_state(&last->meta, state, err) : rc;
}

static void resolved_state_free(struct resolved_state *state)
{
    if (state->has_disk)
        disk_destroy(&state->disk);
    free(state->bytes);
    *state = (struct resolved_state){0};
}

/* Disk */

struct disk_job {
    struct chain *chain;
    const struct chain_link *link;
    uint8_t *buffers;
};

static int check_chunk(void *owner, unsigned thread, uint64_t task, struct err *err)
{
    const struct disk_job *job = owner;
    const struct block_chunk *chunk = &job->link->disk.chunk[task];
    int rc = read_chunk(job->link, FILE_LAYER, chunk, job->buffers + (size_t)thread * CHUNK_BYTES, err);
    if (rc == 0)
        tell(job->chain, thread, chunk);
    return rc;
}

/* Puts a chunk's blocks of one kind where they are. */
static void put_blocks(struct disk *disk, const struct block_chunk *chunk, const uint64_t *bits, int layer)
{
    for (unsigned block = 0, run; (run = chunk_run(bits, &block)); block += run)
        layers_put(disk,
                   &(struct layer_run){.first = chunk->number * CHUNK_BLOCKS + block, .count = run, .layer = layer});
}

static bool holds_blocks(const struct block_map *map)
{
    for (uint64_t i = 0; i < map->count; i++)
        if (chunk_count(map->chunk[i].held))
            return true;
    return false;
}

static int resolve_link(struct chain *chain, struct chain_link *link, struct resolved_state *state,
                        struct chain_image *image, uint8_t *buffers, struct err *err)
{
    struct disk_job job = {.chain = chain, .link = link, .buffers = buffers};
    int rc = crew_run(LOAD_THREADS, link->disk.count, check_chunk, &job, err);
    if (rc < 0)
        return rc;
    int layer = (int)image->layer_count;
    if (holds_blocks(&link->disk)) {
        image->layer[image->layer_count++] = steal_fd(&link->fd[FILE_LAYER]);
        state->disk.layers = image->layer_count;
    }
    for (uint64_t i = 0; i < link->disk.count; i++) {
        put_blocks(&state->disk, &link->disk.chunk[i], link->disk.chunk[i].held, layer);
        put_blocks(&state->disk, &link->disk.chunk[i], link->disk.chunk[i].zero, -1);
    }
    return 0;
}

/* Checks all layers, hands them out and notes where the blocks are. */
static int resolve_disk(struct chain *chain, struct resolved_state *state, struct chain_image *image, struct err *err)
{
    if (!state->has_disk)
        return 0;
    state->disk.base_bytes = chain->link[chain->count - 1].meta.base.bytes;
    uint8_t *buffers = get_buffers();
    if (!buffers)
        return err_set(err, ENOMEM, "get buffers to load a snapshot");
    int rc = 0;
    for (unsigned i = 0; rc == 0 && i < chain->count; i++)
        rc = resolve_link(chain, &chain->link[i], state, image, buffers, err);
    put_buffers(buffers);
    return rc;
}

/* The sections of the state, and the disk's. */
static int64_t write_state(const struct resolved_state *state, void *buf, size_t cap, struct err *err)
{
    struct state_reader reader;
    struct state_writer w;
    int rc = state_reader_init(&reader, state->bytes, state->len, err);
    if (rc < 0)
        return rc;
    state_writer_init(&w, buf, cap);
    for (unsigned i = 0; i < reader.count; i++) {
        const struct state_entry *e = &reader.entry[i];
        pack_bytes(state_writer_begin(&w, (enum state_section)e->type, e->instance, e->version), reader.buf + e->offset,
                   (size_t)e->length);
        state_writer_end(&w);
    }
    if (state->has_disk) {
        disk_save(&state->disk, state_writer_begin(&w, STATE_DISK, 0, MACHINE_PART_VERSION));
        state_writer_end(&w);
    }
    return state_writer_finish(&w, err);
}

/* The state, disk section and all, into a sealed memfd. */
static int resolve_finish(const struct resolved_state *state, struct chain_image *image, struct err *err)
{
    size_t cap = state->len + (state->has_disk ? disk_state_bound(&state->disk) : 0);
    if (cap > STATE_FILE_MAX)
        cap = STATE_FILE_MAX;
    own_free uint8_t *buf = malloc(cap);
    if (!buf)
        return err_set(err, ENOMEM, "make the state of a template");
    int64_t len = write_state(state, buf, cap, err);
    if (len < 0)
        return (int)len;
    image->state = memfd_create("forkd-state", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (image->state < 0)
        return err_set(err, errno, "get memory for the state of a template");
    image->state_bytes = (uint64_t)len;
    int rc = io_pwrite_all(image->state, buf, (size_t)len, 0, err);
    return rc == 0 ? image_seal(image->state, err) : rc;
}

/* The whole */

void chain_image_close(struct chain_image *image)
{
    fd_close(&image->memory);
    fd_close(&image->state);
    for (unsigned i = 0; i < image->layer_count; i++)
        fd_close(&image->layer[i]);
    image->layer_count = 0;
}

int chain_load(struct chain *chain, int base, struct chain_image *image, struct err *err)
{
    const struct chain_link *last = &chain->link[chain->count - 1];
    struct resolved_state state = {0};
    *image = (struct chain_image){.memory = -1, .state = -1};
    int rc = chain_describe(chain, err);
    if (rc < 0)
        return rc;
    rc = resolve_state(chain, &state, err);
    if (rc < 0)
        err_wrap(err, "snapshot %s", last->meta.tag);
    if (rc == 0)
        rc = chain_check(chain, state.disk_bytes, err);
    if (rc == 0 && *last->meta.base.path)
        rc = base_image_check(&last->meta.base, base, err);
    if (rc == 0)
        rc = resolve_memory(chain, image, err);
    if (rc == 0)
        rc = resolve_disk(chain, &state, image, err);
    if (rc == 0)
        rc = resolve_finish(&state, image, err);
    resolved_state_free(&state);
    if (rc < 0)
        chain_image_close(image);
    return rc;
}
