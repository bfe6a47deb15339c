/* save.c: see save.h.
 *
 * SECCOMP(store): lseek - data and holes of the image
 * SECCOMP(store): pread64 - the template's memory, its layers, the base image
 * SECCOMP(store): fsync - files and the directory are on the disk before the snapshot has its name */
#include "snap/save.h"

#include "base/clock.h"
#include "base/crc.h"
#include "base/io.h"
#include "base/log.h"
#include "base/own.h"
#include "disk/layers.h"
#include "mem/bitmap.h"
#include "snap/base_image.h"
#include "snap/machine_state.h"
#include "snap/state_file.h"

#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

int save_open(int dir, bool has_disk, int fd[SNAPSHOT_FILES], struct err *err)
{
    for (int i = 0; i < SNAPSHOT_FILES; i++)
        fd[i] = -1;
    for (int i = 0; i < SNAPSHOT_FILES; i++) {
        if (!has_disk && (i == FILE_LAYER || i == FILE_LAYER_MAP))
            continue;
        fd[i] = openat(dir, snapshot_file_name((enum snapshot_file)i), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
        if (fd[i] < 0)
            return err_set(err, errno, "create %s", snapshot_file_name((enum snapshot_file)i));
    }
    return 0;
}

/* All that is being saved. */
struct saving {
    const struct save *what;
    const int *fd;
    struct snapshot_meta *meta;
    uint64_t ram_pages;
    uint64_t *pages, *diff; /* owned; NULL where there is none */
    bool is_diff;           /* and so holds what is in `diff` alone */
    struct chain *origin;   /* NULL: nothing to share with */
    uint8_t *state;         /* owned */
    struct state_reader reader;
    struct machine_config config;
    struct disk disk; /* where its blocks are; nothing of it is open */
    bool has_index;
    struct pace pace;
    /* Bytes: of all files that are not known to be zero, and of the files before this one. */
    uint64_t total, done, written;
};

/* Bitmaps */

static int read_bitmap(int fd, uint64_t pages, uint64_t **bitmap, const char *what, struct err *err)
{
    size_t bytes = bitmap_words(pages) * sizeof **bitmap;
    *bitmap = NULL;
    if (fd < 0)
        return 0;
    own_free uint64_t *words = malloc(bytes ? bytes : 1);
    if (!words)
        return err_set(err, ENOMEM, "read the bitmap of pages that %s", what);
    int rc = io_pread_all(fd, words, bytes, 0, err);
    if (rc < 0)
        return err_wrap(err, "read the bitmap of pages that %s", what);
    *bitmap = steal_ptr(words);
    return 0;
}

static bool bit(const uint64_t *bitmap, uint64_t page)
{
    return bitmap && bitmap[page / 64] >> (page % 64) & 1;
}

/* The first page at or after `page` whose bit is `value`, or `end`. */
static uint64_t find_bit(const uint64_t *bitmap, uint64_t page, uint64_t end, bool value)
{
    while (page < end) {
        uint64_t word = (value ? bitmap[page / 64] : ~bitmap[page / 64]) >> (page % 64);
        if (word) {
            page += (uint64_t)__builtin_ctzll(word);
            return page < end ? page : end;
        }
        page = (page / 64 + 1) * 64;
    }
    return end;
}

static bool run_of_bits(const uint64_t *bitmap, uint64_t from, uint64_t end, struct block_run *run)
{
    uint64_t first = bitmap ? find_bit(bitmap, from, end, true) : end;
    if (first == end)
        return false;
    *run = (struct block_run){.first = first, .count = find_bit(bitmap, first, end, false) - first};
    return true;
}

/* Memory */

/* The next run of pages that are data in the image. */
static int run_of_data(const struct saving *s, uint64_t from, struct block_run *run, struct err *err)
{
    off_t data = lseek(s->what->memory, (off_t)(from * BLOCK_BYTES), SEEK_DATA);
    if (data < 0 && errno == ENXIO)
        return 0;
    off_t hole = data < 0 ? -1 : lseek(s->what->memory, data, SEEK_HOLE);
    if (hole < 0)
        return err_set(err, errno, "look for data in the template's image");
    uint64_t first = (uint64_t)data / BLOCK_BYTES, end = ((uint64_t)hole + BLOCK_BYTES - 1) / BLOCK_BYTES;
    if (first >= s->ram_pages)
        return 0;
    *run = (struct block_run){.first = first, .count = (end < s->ram_pages ? end : s->ram_pages) - first};
    return 1;
}

static int memory_next(void *owner, uint64_t from, struct block_run *run, struct err *err)
{
    struct saving *s = owner;
    if (from >= s->ram_pages)
        return 0;
    if (s->is_diff)
        return run_of_bits(s->diff, from, s->ram_pages, run);
    struct block_run private, data;
    bool differs = run_of_bits(s->pages, from, s->ram_pages, &private);
    int rc = run_of_data(s, from, &data, err);
    if (rc < 0)
        return rc;
    if (!rc && !differs)
        return 0;
    *run = !rc || (differs && private.first < data.first) ? private : data;
    return 1;
}

static int memory_read(void *owner, uint64_t first, uint64_t count, uint8_t *into, struct err *err)
{
    struct saving *s = owner;
    for (uint64_t page = first, end = first + count, next; page < end; page = next) {
        bool private = bit(s->pages, page);
        next = s->pages ? find_bit(s->pages, page, end, !private) : end;
        uint64_t at = page * BLOCK_BYTES + (private ? s->what->ram : 0);
        int rc = io_pread_all(private ? s->what->own_memory : s->what->memory, into + (page - first) * BLOCK_BYTES,
                              (size_t)(next - page) * BLOCK_BYTES, at, err);
        if (rc == -EPIPE && private)
            return err_say(err, EPIPE, "the template ended while it was written");
        if (rc < 0)
            return err_wrap(err, "read the template's memory");
    }
    return 0;
}

static void memory_changed(void *owner, uint64_t chunk, uint64_t bits[CHUNK_WORDS])
{
    const struct saving *s = owner;
    uint64_t words = (s->ram_pages + 63) / 64;
    for (uint64_t i = 0; i < CHUNK_WORDS && chunk * CHUNK_WORDS + i < words; i++)
        bits[i] = s->diff[chunk * CHUNK_WORDS + i];
}

/* Disk */

static int disk_next(void *owner, uint64_t from, struct block_run *run, struct err *err)
{
    struct saving *s = owner;
    struct layer_run found;
    while (layers_next(&s->disk, from, &found)) {
        from = found.first + found.count;
        if (s->is_diff && found.layer >= 0 && (unsigned)found.layer < s->what->birth_layers)
            continue;
        *run = (struct block_run){.first = found.first, .count = found.count, .zero = found.layer < 0};
        return 1;
    }
    return 0;
}

static int disk_read_blocks(void *owner, uint64_t first, uint64_t count, uint8_t *into, struct err *err)
{
    struct saving *s = owner;
    struct layer_run run;
    for (uint64_t block = first, end = first + count; block < end; block = run.first + run.count) {
        if (!layers_next(&s->disk, block, &run) || run.first != block || run.layer < 0)
            return err_say(err, EIO, "block %llu of the disk is in no layer", (unsigned long long)block);
        if (run.first + run.count > end)
            run.count = end - run.first;
        int rc = io_pread_all(s->what->layers[run.layer], into + (block - first) * BLOCK_BYTES,
                              (size_t)run.count * BLOCK_BYTES, block * BLOCK_BYTES, err);
        if (rc < 0)
            return err_wrap(err, "read layer %d of the disk", run.layer);
    }
    return 0;
}

/* What is zero may have become so: it counts as changed. */
static void disk_changed(void *owner, uint64_t chunk, uint64_t bits[CHUNK_WORDS])
{
    const struct saving *s = owner;
    struct layer_run run;
    uint64_t at = chunk * CHUNK_BLOCKS, end = at + CHUNK_BLOCKS;
    for (; layers_next(&s->disk, at, &run) && run.first < end; at = run.first + run.count) {
        if (run.layer >= 0 && (unsigned)run.layer < s->what->birth_layers)
            continue;
        for (uint64_t block = run.first; block < run.first + run.count && block < end; block++)
            bits[block % CHUNK_BLOCKS / 64] |= UINT64_C(1) << (block % 64);
    }
}

/* Files */

static int on_progress(void *owner, uint64_t done, uint64_t written, struct err *err)
{
    struct saving *s = owner;
    if (!s->what->progress)
        return 0;
    return s->what->progress(s->what->owner, s->done + done, s->total, s->written + written, err);
}

static int source_bytes(const struct block_source *source, uint64_t *bytes, struct err *err)
{
    struct block_run run;
    int rc;
    *bytes = 0;
    for (uint64_t from = 0; (rc = source->next(source->owner, from, &run, err)) > 0; from = run.first + run.count)
        *bytes += run.zero ? 0 : run.count * BLOCK_BYTES;
    return rc;
}

static void add_warning(struct snapshot_meta *meta, const char *warning)
{
    size_t len = strlen(meta->warning);
    if (*warning && !strstr(meta->warning, warning))
        snprintf(meta->warning + len, sizeof meta->warning - len, "%s%s", len ? "; " : "", warning);
}

static int sync_file(const struct saving *s, enum snapshot_file file, struct err *err)
{
    return fsync(s->fd[file]) < 0 ? err_set(err, errno, "sync %s", snapshot_file_name(file)) : 0;
}

/* A data file and its map. */
static int write_data(struct saving *s, enum snapshot_file file, const struct block_source *source,
                      enum snapshot_part part, struct err *err)
{
    const struct chain_link *old = s->origin ? &s->origin->link[0] : NULL;
    const struct origin origin = {.fd = old ? old->fd[file] : -1,
                                  .map = !old                  ? NULL
                                         : file == FILE_MEMORY ? &old->memory
                                                               : &old->disk};
    const struct writer writer = {.name = snapshot_file_name(file),
                                  .origin = old ? &origin : NULL,
                                  .fd = s->fd[file],
                                  .engine = s->what->engine,
                                  .without = s->what->without,
                                  .pace = &s->pace,
                                  .progress = on_progress,
                                  .owner = s};
    const enum snapshot_file map_file = file == FILE_MEMORY ? FILE_MEMORY_MAP : FILE_LAYER_MAP;
    struct snapshot_part_sum *sum = &s->meta->part[part];
    struct block_map map;
    struct writer_report report;
    int rc = writer_run(&writer, source, &map, &report, err);
    if (rc == 0)
        rc = block_map_write(&map, s->fd[map_file], snapshot_file_name(map_file), &sum->bytes, &sum->crc, err);
    if (rc == 0)
        rc = sync_file(s, map_file, err);
    block_map_free(&map);
    if (rc < 0)
        return rc;
    s->written += report.bytes - report.shared_bytes;
    s->meta->logical_bytes += report.bytes;
    s->meta->shared_bytes += report.shared_bytes;
    add_warning(s->meta, report.warning);
    if (file == FILE_MEMORY)
        snprintf(s->meta->engine, sizeof s->meta->engine, "%s", writer_engine_name(report.engine));
    return 0;
}

static int write_files(struct saving *s, struct err *err)
{
    const struct block_source memory = {.owner = s,
                                        .blocks = s->ram_pages,
                                        .zero_is_absent = !s->is_diff,
                                        .next = memory_next,
                                        .read = memory_read,
                                        .changed = memory_changed};
    const struct block_source disk = {.owner = s,
                                      .blocks = s->has_index ? s->disk.bytes / DISK_BLOCK : 0,
                                      .next = disk_next,
                                      .read = disk_read_blocks,
                                      .changed = disk_changed};
    uint64_t memory_bytes, disk_bytes = 0;
    int rc = source_bytes(&memory, &memory_bytes, err);
    if (rc == 0 && s->has_index)
        rc = source_bytes(&disk, &disk_bytes, err);
    s->total = memory_bytes + disk_bytes;
    if (rc == 0)
        rc = write_data(s, FILE_MEMORY, &memory, SNAPSHOT_MEMORY_MAP, err);
    s->done = memory_bytes;
    return rc == 0 && s->has_index ? write_data(s, FILE_LAYER, &disk, SNAPSHOT_DISK_MAP, err) : rc;
}
_Static_assert((int)DISK_BLOCK == (int)BLOCK_BYTES, "a block of the disk is a block of its file");

/* The state without its disk section. */
static int write_vmstate(struct saving *s, struct err *err)
{
    struct state_writer w;
    size_t cap = s->what->state_bytes;
    own_free uint8_t *buf = malloc(cap);
    if (!buf)
        return err_set(err, ENOMEM, "write vmstate");
    state_writer_init(&w, buf, cap);
    for (unsigned i = 0; i < s->reader.count; i++) {
        const struct state_entry *e = &s->reader.entry[i];
        if (e->type == STATE_DISK)
            continue;
        pack_bytes(state_writer_begin(&w, (enum state_section)e->type, e->instance, e->version),
                   s->reader.buf + e->offset, (size_t)e->length);
        state_writer_end(&w);
    }
    int64_t len = state_writer_finish(&w, err);
    int rc = len < 0 ? (int)len : io_pwrite_all(s->fd[FILE_VMSTATE], buf, (size_t)len, 0, err);
    if (rc < 0)
        return err_wrap(err, "vmstate");
    s->meta->part[SNAPSHOT_VMSTATE] =
        (struct snapshot_part_sum){.bytes = (uint64_t)len, .crc = crc32c(0, buf, (size_t)len)};
    return sync_file(s, FILE_VMSTATE, err);
}

static void count_physical(struct saving *s)
{
    for (int i = 0; i < SNAPSHOT_FILES; i++) {
        struct stat st;
        if (s->fd[i] >= 0 && fstat(s->fd[i], &st) == 0)
            s->meta->physical_bytes += (uint64_t)st.st_blocks * 512;
    }
}

static int write_meta(struct saving *s, uint64_t began_ns, struct err *err)
{
    char text[SNAPSHOT_META_MAX];
    count_physical(s);
    s->meta->write_ms = (clock_monotonic_ns() - began_ns) / NS_PER_MS;
    s->meta->written = true;
    int len = snapshot_meta_encode(s->meta, text, sizeof text, err);
    int rc = len < 0 ? len : io_pwrite_all(s->fd[FILE_META], text, (size_t)len, 0, err);
    if (rc < 0)
        return err_wrap(err, "snapshot.json");
    rc = sync_file(s, FILE_META, err);
    if (rc == 0 && fsync(s->what->dir) < 0)
        rc = err_set(err, errno, "sync the snapshot's directory");
    return rc;
}

/* What the template is */

static int read_index(struct saving *s, struct err *err)
{
    struct unpack u;
    int rc = state_reader_section(&s->reader, STATE_DISK, 0, MACHINE_PART_VERSION, &u, err);
    if (rc == 0)
        rc = disk_init(&s->disk, s->config.disk_bytes, err);
    if (rc < 0)
        return rc;
    s->has_index = true;
    rc = disk_load(&s->disk, &u, err);
    if (rc == 0 && (s->disk.layers > s->what->layer_count || s->what->birth_layers > s->disk.layers))
        rc = err_say(err, EINVAL, "the template's state names %u layers, %u of them its parent's; %u came with it",
                     s->disk.layers, s->what->birth_layers, s->what->layer_count);
    return rc;
}

static int read_template(struct saving *s, struct err *err)
{
    const struct save *what = s->what;
    if (what->state_bytes == 0 || what->state_bytes > STATE_FILE_MAX)
        return err_say(err, EINVAL, "a state of %llu bytes is none of ours", (unsigned long long)what->state_bytes);
    s->state = malloc(what->state_bytes);
    if (!s->state)
        return err_set(err, ENOMEM, "read the template's state");
    int rc = io_pread_all(what->state, s->state, what->state_bytes, 0, err);
    if (rc == 0)
        rc = state_reader_init(&s->reader, s->state, what->state_bytes, err);
    if (rc == 0)
        rc = machine_state_config(s->state, what->state_bytes, &s->config, err);
    if (rc < 0)
        return err_wrap(err, "the template's state");
    s->ram_pages = s->config.mem_bytes / BLOCK_BYTES;
    s->meta->mem_bytes = s->config.mem_bytes;
    s->meta->vcpus = s->config.vcpus;
    if (s->config.disk != (*s->meta->base.path != 0) || s->config.disk != (s->fd[FILE_LAYER] >= 0))
        return err_say(err, EINVAL, "the template has %s disk, the snapshot is described otherwise",
                       s->config.disk ? "a" : "no");
    rc = read_bitmap(what->pages, s->ram_pages, &s->pages, "differ", err);
    if (rc == 0)
        rc = read_bitmap(what->diff, s->ram_pages, &s->diff, "were written", err);
    if (rc == 0 && s->config.disk)
        rc = read_index(s, err);
    s->is_diff = *s->meta->parent_tag != 0;
    if (rc == 0 && s->is_diff && !s->diff)
        rc = err_say(err, EINVAL, "a diff needs a bitmap of what was written, and the template has none");
    return rc;
}

/* An origin that is not what it should be is left alone: then all is written. */
static void look_at_origin(struct saving *s)
{
    struct err err;
    struct chain *origin = s->what->origin;
    if (!origin || s->is_diff || !s->diff)
        return;
    if (chain_inspect(origin, s->config.disk ? s->disk.bytes : 0, &err) < 0)
        log_warn("nothing is shared with the snapshot of the branch's source: %s", err.text);
    else if (origin->link[0].meta.mem_bytes == s->config.mem_bytes &&
             (origin->link[0].fd[FILE_LAYER] >= 0) == s->config.disk)
        s->origin = origin;
}

int save_run(const struct save *what, const int fd[SNAPSHOT_FILES], struct snapshot_meta *meta, struct err *err)
{
    struct saving s = {.what = what, .fd = fd, .meta = meta, .pace.bytes_per_second = what->bytes_per_second};
    uint64_t began = clock_monotonic_ns();
    int rc = read_template(&s, err);
    if (rc == 0)
        look_at_origin(&s);
    if (rc == 0)
        rc = write_files(&s, err);
    if (rc == 0)
        rc = write_vmstate(&s, err);
    if (rc == 0 && s.config.disk)
        rc = base_image_note(&meta->base, what->base, err);
    if (rc == 0)
        rc = write_meta(&s, began, err);
    if (s.has_index)
        disk_destroy(&s.disk);
    free(s.pages);
    free(s.diff);
    free(s.state);
    return rc;
}
