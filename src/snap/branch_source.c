/* branch_source.c: the source's side of a branch; see branch.h.
 *
 * States, by what the target says next:
 *   strange   nothing is mapped; only HELLO is allowed
 *   known     the shared memfd is mapped; FETCH is allowed in any number, then PARK
 *   (paused)  not a state of the loop: the pause is one function that returns with the guest as it was
 *   captured  the target was told that the guest runs on; only DONE is allowed: pages fetched after the pause, or
 *             never, would be forgotten with it
 * Anything else, or the end of the socket, ends the branch. */
#include "base/clock.h"
#include "base/log.h"
#include "base/own.h"
#include "mem/bitmap.h"
#include "snap/branch.h"
#include "snap/machine_state.h"
#include "snap/state_file.h"

#include <stdlib.h>
#include <string.h>

void branch_source_init(struct branch_source *b)
{
    *b = (struct branch_source){.peer = {.fd = -1}, .layer_fd = -1};
    throttle_init(&b->throttle);
}

void branch_source_end(struct branch_source *b)
{
    int peer = b->peer.fd;
    throttle_end(&b->throttle);
    if (b->machine)
        loop_remove(b->machine->host.loop, &b->peer);
    fd_close(&peer);
    fd_close(&b->layer_fd);
    branch_shared_unmap(&b->shared);
    free(b->wanted.summary);
    branch_source_init(b);
}

/* What is first touched in the pause costs the host's page allocation there: so the state is written once before. */
static int rehearse(struct branch_source *b, struct err *err)
{
    int64_t len = machine_state_write(b->machine, b->shared.state, b->shared.state_room, err);
    return len < 0 ? (int)len : 0;
}

static int share(struct branch_source *b, const struct branch_message *m, int fd, struct err *err)
{
    if (m->state_bytes < machine_state_bound(b->machine) || m->state_bytes > STATE_FILE_MAX ||
        m->layers > DISK_LAYERS_MAX)
        return err_say(err, EPROTO, "the target of the branch is of another machine");
    int rc = branch_shared_map(&b->shared, gmem_pages(&b->machine->gmem), m->state_bytes, fd, err);
    if (rc < 0)
        return rc;
    b->wanted = (struct bitmap_summed){.word = b->shared.wanted,
                                       .summary = calloc(bitmap_summary_words(b->dirty->words), sizeof(uint64_t)),
                                       .words = b->dirty->words};
    if (!b->wanted.summary)
        return err_say(err, ENOMEM, "out of memory");
    b->target_layers = m->layers;
    b->target_row = (struct disk_row){m->row, m->merges};
    const struct machine_instant have = {m->instant_source, m->instant_number};
    rc = dirty_add_since(b->dirty, have, &b->wanted, err);
    return rc < 0 ? rc : rehearse(b, err);
}

static int fetch(struct branch_source *b, unsigned hold, struct err *err)
{
    int rc = throttle_set(&b->throttle, b->machine, hold, err);
    if (rc == 0)
        rc = dirty_fetch(b->dirty, b->machine, &b->wanted, err);
    if (rc < 0)
        return rc;
    struct branch_message reply = {.word = BRANCH_FETCHED,
                                   .wanted = bitmap_count(b->shared.wanted, b->dirty->words),
                                   .ram = (uintptr_t)b->machine->gmem.base};
    return branch_send(b->peer.fd, &reply, NULL, 0, err);
}

/* The layers the target has not got; all are frozen now. Their descriptors stay the disk's. What it has is the
 * beginning of the row if it is of that row, and none were merged since (disk.h, invariant 4); else it gets all. */
static int layers_for_target(const struct branch_source *b, struct branch_message *reply, int *fds, unsigned *count,
                             struct err *err)
{
    const struct disk *disk = &b->machine->disk;
    unsigned frozen = disk_frozen(disk);
    reply->row = disk->row.name;
    reply->merges = disk->row.merges;
    reply->layers = disk_row_same(b->target_row, disk->row) ? b->target_layers : 0;
    *count = 0;
    if (!b->machine->config.disk)
        return 0;
    if (reply->layers > frozen || frozen - reply->layers > BRANCH_FDS_MAX)
        return err_say(err, EPROTO, "the target of the branch has %u layers of %u", reply->layers, frozen);
    for (unsigned i = reply->layers; i < frozen; i++)
        fds[(*count)++] = disk_layer_fd(disk, i);
    return 0;
}

static int freeze(struct branch_source *b, struct err *err)
{
    struct machine *m = b->machine;
    if (!m->config.disk || m->config.disk_read_only)
        return 0;
    if (b->layer_fd < 0)
        return err_say(err, EPROTO, "a branch freezes the private layer once");
    pthread_mutex_lock(&m->lock);
    int rc = disk_freeze(&m->disk, steal_fd(&b->layer_fd), err);
    pthread_mutex_unlock(&m->lock);
    return rc;
}

/* With the CPUs parked: save, freeze, look, copy. Memory, CPUs, devices and disk are of this instant. */
static int capture(struct branch_source *b, struct branch_message *reply, int *fds, unsigned *count, struct err *err)
{
    struct machine *m = b->machine;
    uint64_t began = clock_monotonic_ns();
    /* Saved before it is frozen: the state names the layers there are now, which the target gets, and not the one
     * that only the source will have. */
    int64_t len = machine_state_write(m, b->shared.state, b->shared.state_room, err);
    int rc = len < 0 ? (int)len : freeze(b, err);
    uint64_t saved = clock_monotonic_ns();
    if (rc == 0)
        rc = dirty_look(b->dirty, m, &b->wanted, err);
    if (rc == 0)
        rc = layers_for_target(b, reply, fds, count, err);
    if (rc < 0)
        return rc;
    uint64_t fetched = clock_monotonic_ns();
    reply->state_bytes = (uint64_t)len;
    reply->staged = stage_fill(&b->shared.stage, m->gmem.base, &b->wanted);
    if (reply->staged == STAGE_PAGES)
        reply->wanted = bitmap_count(b->shared.wanted, b->dirty->words);
    reply->save_ns = saved - began;
    reply->log_ns = fetched - saved;
    reply->pages_ns = clock_monotonic_ns() - fetched;
    return 0;
}

/* Until the target has read the last pages, or is not heard of: invariant 1. */
static bool wait_for_resume(const struct branch_source *b)
{
    struct branch_message m;
    unsigned none = 0;
    uint64_t until = clock_monotonic_ns() + BRANCH_PAUSE_MAX_MS * NS_PER_MS;
    return branch_recv(b->peer.fd, &m, NULL, &none, until, NULL) == 1 && m.word == BRANCH_RESUME;
}

/* After the pause: what the target needs to name what it has become. */
static int tell_resumed(struct branch_source *b, uint64_t resume_ns, struct err *err)
{
    const struct machine_instant instant = dirty_capture(b->dirty);
    struct branch_message m = {.word = BRANCH_RESUMED,
                               .instant_source = instant.source,
                               .instant_number = instant.number,
                               .layers = b->machine->disk.birth_layers,
                               .resume_ns = resume_ns};
    b->captured = true;
    memcpy(b->shared.diff, b->dirty->since_birth, b->dirty->words * sizeof(uint64_t));
    return branch_send(b->peer.fd, &m, NULL, 0, err);
}

/* The pause. Must: leave the guest as it found it, whatever happens: running, or stopped where its disk is full, for
 * that is its owner's to end. Must not: wait for anything but CPUs, unless the target has something to read. */
static int pause_and_capture(struct branch_source *b, bool hold, struct err *err)
{
    struct machine *m = b->machine;
    struct branch_message reply = {.word = BRANCH_PARKED, .ram = (uintptr_t)m->gmem.base};
    int fds[BRANCH_FDS_MAX];
    unsigned count = 0;
    struct err ignored = {0};
    throttle_end(&b->throttle);
    bool ran = m->phase == MACHINE_RUNNING, told = false;
    uint64_t began = clock_monotonic_ns();
    int rc = machine_park(m, true, err);
    reply.kick_ns = clock_monotonic_ns() - began;
    if (rc == 0)
        rc = capture(b, &reply, fds, &count, err);
    if (rc == 0 && (hold || reply.wanted)) {
        rc = branch_send(b->peer.fd, &reply, fds, count, err);
        told = rc == 0;
        if (told && !wait_for_resume(b))
            rc = err_say(err, ETIMEDOUT, "the target of the branch did not end the pause");
    }
    uint64_t resuming = clock_monotonic_ns();
    int resumed = ran ? machine_resume(m, rc == 0 ? err : &ignored) : 0;
    uint64_t resume_ns = clock_monotonic_ns() - resuming;
    if (rc < 0 || resumed < 0)
        return rc < 0 ? rc : resumed;
    if (!told)
        rc = branch_send(b->peer.fd, &reply, fds, count, err);
    return rc < 0 ? rc : tell_resumed(b, resume_ns, err);
}

static int obey(struct branch_source *b, const struct branch_message *m, const int *fds, unsigned count,
                struct err *err)
{
    if (!b->shared.map)
        return m->word == BRANCH_HELLO && count == 1 ? share(b, m, fds[0], err)
                                                     : err_say(err, EPROTO, "the target of the branch said no HELLO");
    if (m->word == BRANCH_FETCH && !b->captured)
        return fetch(b, m->hold, err);
    if (m->word == BRANCH_PARK && !b->captured) {
        int rc = pause_and_capture(b, m->hold, err);
        /* Not before the target was told of the layers as they were in the pause. */
        machine_merge_layers(b->machine);
        return rc;
    }
    if (m->word != BRANCH_DONE || !b->captured)
        return err_say(err, EPROTO, "the target of the branch said %d %s the pause", m->word,
                       b->captured ? "after" : "before");
    dirty_branched(b->dirty);
    return -ESHUTDOWN;
}

static void on_peer(struct loop_source *source, uint32_t events)
{
    struct branch_source *b = list_entry(source, struct branch_source, peer);
    struct branch_message m;
    struct err err = {0};
    int fds[1];
    unsigned count = 1;
    int rc = branch_recv(source->fd, &m, fds, &count, clock_monotonic_ns(), &err);
    if (rc > 0) {
        rc = obey(b, &m, fds, count, &err);
        for (unsigned i = 0; i < count; i++)
            close(fds[i]);
        if (rc == 0)
            return;
    } else if (rc == 0) {
        rc = err_say(&err, EPIPE, "the target of the branch ended");
    }
    if (rc != -ESHUTDOWN) {
        struct branch_message sorry = {.word = BRANCH_SORRY, .code = (uint32_t)-rc};
        log_warn("branch: %s", err.text);
        branch_send(source->fd, &sorry, NULL, 0, NULL);
    }
    branch_source_end(b);
}

int branch_source_begin(struct branch_source *b, struct machine *m, struct dirty *dirty, int peer, int layer_fd,
                        struct err *err)
{
    own_fd int owned_peer = peer;
    own_fd int owned_layer = layer_fd;
    if (b->peer.fd >= 0)
        return err_say(err, EBUSY, "a branch of this sandbox is being made");
    if (m->config.disk && !m->config.disk_read_only && owned_layer < 0)
        return err_say(err, EINVAL, "a branch of a sandbox with a disk needs a layer");
    b->machine = m;
    b->dirty = dirty;
    b->peer.fn = on_peer;
    int rc = loop_add(m->host.loop, &b->peer, owned_peer, EPOLLIN, err);
    if (rc < 0)
        return rc;
    steal_fd(&owned_peer);
    b->layer_fd = steal_fd(&owned_layer);
    return 0;
}
