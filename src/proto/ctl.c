/* ctl.c: see ctl.h. Encoding and decoding of every message, and its way through a socket. */
#include "proto/ctl.h"

#include "base/fdpass.h"
#include "base/own.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* Descriptors of one message: those of the mask, then the extra ones. */
enum { CARRIED_MAX = CTL_FDS + CTL_EXTRA_MAX };
_Static_assert((int)CARRIED_MAX <= (int)FDPASS_MAX, "a message carries all descriptors there are");

#define FD(x) (1u << CTL_FD_##x)

/* What each type is called, which descriptors it must carry, which it may, and how many extra ones. */
static const struct {
    const char *name;
    uint32_t must, may;
    unsigned extra;
} types[CTL_TYPES_END] = {
    [CTL_BOOT] = {"BOOT", FD(KERNEL) | FD(VSOCK) | FD(LISTEN) | FD(CONSOLE), FD(INITRD) | FD(BASE) | FD(LAYER), 0},
    [CTL_STARTED] = {"STARTED", FD(OWN_MEMORY), 0, 0},
    [CTL_TEMPLATE] = {"TEMPLATE", 0, 0, 0},
    [CTL_IMAGE] = {"IMAGE", FD(MEMORY) | FD(STATE), 0, CTL_EXTRA_MAX},
    [CTL_LOAD] = {"LOAD", FD(MEMORY) | FD(STATE) | FD(LISTEN), FD(BASE), CTL_EXTRA_MAX},
    [CTL_LOADED] = {"LOADED", FD(OWN_MEMORY), 0, 0},
    [CTL_SPAWN] = {"SPAWN", FD(CTL) | FD(VSOCK) | FD(LISTEN) | FD(CONSOLE), FD(LAYER) | FD(CGROUP), 0},
    [CTL_SPAWNED] = {"SPAWNED", FD(PIDFD), 0, 0},
    [CTL_BORN] = {"BORN", FD(OWN_MEMORY), 0, 0},
    [CTL_GO] = {"GO", 0, 0, 0},
    [CTL_ADOPT] = {"ADOPT", 0, 0, 0},
    [CTL_ADOPTED] = {"ADOPTED", FD(OWN_MEMORY), FD(PIDFD), 0},
    [CTL_QUIT] = {"QUIT", 0, 0, 0},
    [CTL_RESUME] = {"RESUME", 0, 0, 0},
    [CTL_RESUMED] = {"RESUMED", 0, 0, 0},
    [CTL_FAILED] = {"FAILED", 0, 0, 0},
    [CTL_DOORBELL] = {"DOORBELL", 0, 0, 0},
    [CTL_STALLED] = {"STALLED", 0, 0, 0},
    [CTL_ENDED] = {"ENDED", 0, 0, 0},
    [CTL_BRANCH] = {"BRANCH", FD(CTL) | FD(LISTEN) | FD(PEER) | FD(OWN_MEMORY), FD(CGROUP), 0},
    [CTL_STREAM] = {"STREAM", FD(PEER), FD(LAYER), 0},
    [CTL_BRANCHED] = {"BRANCHED", FD(OWN_MEMORY), 0, 0},
    [CTL_EXPORT] = {"EXPORT", 0, 0, 0},
    [CTL_EXPORTED] = {"EXPORTED", FD(MEMORY) | FD(STATE) | FD(PAGES), FD(DIFF) | FD(BASE), CTL_EXTRA_MAX},
    [CTL_SETTLE] = {"SETTLE", 0, 0, 0},
    [CTL_SETTLED] = {"SETTLED", 0, 0, 0},
    [CTL_SAVE] = {"SAVE", FD(DIR) | FD(MEMORY) | FD(STATE),
                  FD(OWN_MEMORY) | FD(PAGES) | FD(DIFF) | FD(BASE) | FD(ORIGIN), CTL_EXTRA_MAX},
    [CTL_PROGRESS] = {"PROGRESS", 0, 0, 0},
    [CTL_SAVED] = {"SAVED", 0, 0, 0},
    [CTL_RESTORE] = {"RESTORE", 0, FD(BASE), CTL_EXTRA_MAX},
    [CTL_HANDED] = {"HANDED", 0, 0, 0},
};

const char *ctl_type_name(enum ctl_type type)
{
    return (unsigned)type < CTL_TYPES_END && types[type].name ? types[type].name : "unknown";
}

/* Most messages are far smaller than the largest, and a fork pays for every page of its stack that it touches. */
enum { SMALL_BODY = 512 };

#define IS_SMALL(body) _Static_assert(sizeof((struct ctl_message *)0)->body <= SMALL_BODY, "as ctl_size() has it")
IS_SMALL(spawn);
IS_SMALL(pid);
IS_SMALL(adopt);
IS_SMALL(adopted);
IS_SMALL(failed);
IS_SMALL(doorbell);
IS_SMALL(ended);
IS_SMALL(branch);
IS_SMALL(branched);
IS_SMALL(export);
IS_SMALL(settled);
IS_SMALL(progress);

/* What of a message there is, given its type. */
static size_t ctl_size(enum ctl_type type)
{
    switch (type) {
    case CTL_BOOT:
    case CTL_IMAGE:
    case CTL_LOAD:
    case CTL_SAVE:
    case CTL_SAVED:
        return sizeof(struct ctl_message);
    default:
        return offsetof(struct ctl_message, boot) + SMALL_BODY;
    }
}

void ctl_message_init(struct ctl_message *m, enum ctl_type type, uint32_t request)
{
    memset(m, 0, ctl_size(type));
    m->type = type;
    m->request = request;
    for (int i = 0; i < CTL_FDS; i++)
        m->fd[i] = -1;
}

void ctl_message_move(struct ctl_message *into, struct ctl_message *from)
{
    size_t size = ctl_size(from->type);
    memcpy(into, from, size);
    explicit_bzero(from, size);
    ctl_message_init(from, into->type, into->request);
}

void ctl_message_close(struct ctl_message *m)
{
    for (int i = 0; i < CTL_FDS; i++)
        fd_close(&m->fd[i]);
    for (unsigned i = 0; i < m->extra_count; i++)
        fd_close(&m->extra[i]);
    m->extra_count = 0;
}

static void pack_jail(struct pack *p, const struct ctl_jail *jail)
{
    pack_u32(p, jail->uid);
    pack_u32(p, jail->gid);
}

static void pack_image(struct pack *p, const struct ctl_image *image)
{
    pack_u64(p, image->mem_bytes);
    pack_u64(p, image->state_bytes);
    pack_u64(p, image->data_bytes);
    pack_u32(p, image->zero_count);
    for (uint32_t i = 0; i < image->zero_count && i < CTL_ZERO_RANGES_MAX; i++) {
        pack_u64(p, image->zero[i].offset);
        pack_u64(p, image->zero[i].len);
    }
}

static void pack_branched(struct pack *p, const struct ctl_branched *b)
{
    pack_u32(p, b->pid);
    pack_u64(p, b->kick_ns);
    pack_u64(p, b->save_ns);
    pack_u64(p, b->log_ns);
    pack_u64(p, b->pages_ns);
    pack_u64(p, b->resume_ns);
    pack_u32(p, b->rounds);
    pack_u64(p, b->pages_streamed);
    pack_u64(p, b->pages_in_pause);
    pack_u64(p, b->pages_differing);
}

static void unpack_branched(struct unpack *u, struct ctl_branched *b)
{
    b->pid = unpack_u32(u);
    b->kick_ns = unpack_u64(u);
    b->save_ns = unpack_u64(u);
    b->log_ns = unpack_u64(u);
    b->pages_ns = unpack_u64(u);
    b->resume_ns = unpack_u64(u);
    b->rounds = unpack_u32(u);
    b->pages_streamed = unpack_u64(u);
    b->pages_in_pause = unpack_u64(u);
    b->pages_differing = unpack_u64(u);
}

static void pack_body(struct pack *p, const struct ctl_message *m)
{
    switch (m->type) {
    case CTL_BOOT:
        pack_str(p, m->boot.id);
        pack_bytes(p, m->boot.secret, CTL_SECRET_LEN);
        pack_jail(p, &m->boot.jail);
        pack_u32(p, m->boot.mem_mib);
        pack_u32(p, m->boot.vcpus);
        pack_u8(p, m->boot.disk_read_only);
        pack_str(p, m->boot.cmdline);
        break;
    case CTL_IMAGE:
        pack_image(p, &m->image);
        break;
    case CTL_LOAD:
        pack_str(p, m->load.id);
        pack_bytes(p, m->load.secret, CTL_SECRET_LEN);
        pack_jail(p, &m->load.jail);
        pack_image(p, &m->load.image);
        break;
    case CTL_SPAWN:
        pack_str(p, m->spawn.id);
        pack_bytes(p, m->spawn.secret, CTL_SECRET_LEN);
        break;
    case CTL_STARTED:
    case CTL_LOADED:
    case CTL_SPAWNED:
    case CTL_BORN:
        pack_u32(p, m->pid.pid);
        break;
    case CTL_ADOPT:
        pack_bytes(p, m->adopt.secret, CTL_SECRET_LEN);
        break;
    case CTL_ADOPTED:
        pack_str(p, m->adopted.id);
        pack_u32(p, m->adopted.pid);
        pack_u8(p, m->adopted.role);
        pack_u8(p, m->adopted.stalled);
        pack_u8(p, m->adopted.handed);
        break;
    case CTL_FAILED:
    case CTL_STALLED:
        pack_u32(p, m->failed.code);
        pack_str(p, m->failed.text);
        break;
    case CTL_DOORBELL:
        pack_u32(p, m->doorbell.port);
        break;
    case CTL_ENDED:
        pack_u8(p, m->ended.reason);
        pack_str(p, m->ended.text);
        break;
    case CTL_BRANCH:
        pack_str(p, m->branch.id);
        pack_bytes(p, m->branch.secret, CTL_SECRET_LEN);
        pack_u8(p, m->branch.compare);
        break;
    case CTL_BRANCHED:
        pack_branched(p, &m->branched);
        break;
    case CTL_EXPORTED:
        pack_u64(p, m->export.ram);
        pack_u64(p, m->export.mem_bytes);
        pack_u64(p, m->export.state_bytes);
        pack_u32(p, m->export.birth_layers);
        break;
    case CTL_SETTLED:
        pack_u64(p, m->settled.pages);
        break;
    case CTL_SAVE:
        pack_u64(p, m->save.ram);
        pack_u64(p, m->save.state_bytes);
        pack_u32(p, m->save.birth_layers);
        pack_u8(p, m->save.engine);
        pack_u8(p, m->save.awaited);
        pack_u64(p, m->save.bytes_per_second);
        pack_str(p, m->save.meta);
        break;
    case CTL_PROGRESS:
        pack_u64(p, m->progress.done);
        pack_u64(p, m->progress.total);
        pack_u64(p, m->progress.written);
        break;
    case CTL_SAVED:
        pack_str(p, m->saved.meta);
        break;
    default:
        break;
    }
}

static void unpack_jail(struct unpack *u, struct ctl_jail *jail)
{
    jail->uid = unpack_u32(u);
    jail->gid = unpack_u32(u);
}

/* Zero ranges are whole pages, sorted, apart, inside the memory. */
static void unpack_image(struct unpack *u, struct ctl_image *image)
{
    image->mem_bytes = unpack_u64(u);
    image->state_bytes = unpack_u64(u);
    image->data_bytes = unpack_u64(u);
    image->zero_count = unpack_u32(u);
    if (image->zero_count > CTL_ZERO_RANGES_MAX)
        u->bad = true;
    uint64_t end = 0;
    for (uint32_t i = 0; !u->bad && i < image->zero_count; i++) {
        struct ctl_zero_range *z = &image->zero[i];
        z->offset = unpack_u64(u);
        z->len = unpack_u64(u);
        if (z->offset < end || z->offset > image->mem_bytes || z->len > image->mem_bytes - z->offset || !z->len ||
            (z->offset | z->len) & 4095)
            u->bad = true;
        end = z->offset + z->len;
    }
}

static void unpack_body(struct unpack *u, struct ctl_message *m)
{
    switch (m->type) {
    case CTL_BOOT:
        unpack_str(u, m->boot.id, sizeof m->boot.id);
        unpack_bytes(u, m->boot.secret, CTL_SECRET_LEN);
        unpack_jail(u, &m->boot.jail);
        m->boot.mem_mib = unpack_u32(u);
        m->boot.vcpus = unpack_u32(u);
        m->boot.disk_read_only = unpack_u8(u);
        unpack_str(u, m->boot.cmdline, sizeof m->boot.cmdline);
        break;
    case CTL_IMAGE:
        unpack_image(u, &m->image);
        break;
    case CTL_LOAD:
        unpack_str(u, m->load.id, sizeof m->load.id);
        unpack_bytes(u, m->load.secret, CTL_SECRET_LEN);
        unpack_jail(u, &m->load.jail);
        unpack_image(u, &m->load.image);
        break;
    case CTL_SPAWN:
        unpack_str(u, m->spawn.id, sizeof m->spawn.id);
        unpack_bytes(u, m->spawn.secret, CTL_SECRET_LEN);
        break;
    case CTL_STARTED:
    case CTL_LOADED:
    case CTL_SPAWNED:
    case CTL_BORN:
        m->pid.pid = unpack_u32(u);
        break;
    case CTL_ADOPT:
        unpack_bytes(u, m->adopt.secret, CTL_SECRET_LEN);
        break;
    case CTL_ADOPTED:
        unpack_str(u, m->adopted.id, sizeof m->adopted.id);
        m->adopted.pid = unpack_u32(u);
        m->adopted.role = unpack_u8(u);
        m->adopted.stalled = unpack_u8(u);
        m->adopted.handed = unpack_u8(u);
        break;
    case CTL_FAILED:
    case CTL_STALLED:
        m->failed.code = unpack_u32(u);
        unpack_str(u, m->failed.text, sizeof m->failed.text);
        break;
    case CTL_DOORBELL:
        m->doorbell.port = unpack_u32(u);
        break;
    case CTL_ENDED:
        m->ended.reason = unpack_u8(u);
        unpack_str(u, m->ended.text, sizeof m->ended.text);
        break;
    case CTL_BRANCH:
        unpack_str(u, m->branch.id, sizeof m->branch.id);
        unpack_bytes(u, m->branch.secret, CTL_SECRET_LEN);
        m->branch.compare = unpack_u8(u);
        break;
    case CTL_BRANCHED:
        unpack_branched(u, &m->branched);
        break;
    case CTL_EXPORTED:
        m->export.ram = unpack_u64(u);
        m->export.mem_bytes = unpack_u64(u);
        m->export.state_bytes = unpack_u64(u);
        m->export.birth_layers = unpack_u32(u);
        break;
    case CTL_SETTLED:
        m->settled.pages = unpack_u64(u);
        break;
    case CTL_SAVE:
        m->save.ram = unpack_u64(u);
        m->save.state_bytes = unpack_u64(u);
        m->save.birth_layers = unpack_u32(u);
        m->save.engine = unpack_u8(u);
        m->save.awaited = unpack_u8(u);
        m->save.bytes_per_second = unpack_u64(u);
        unpack_str(u, m->save.meta, sizeof m->save.meta);
        break;
    case CTL_PROGRESS:
        m->progress.done = unpack_u64(u);
        m->progress.total = unpack_u64(u);
        m->progress.written = unpack_u64(u);
        break;
    case CTL_SAVED:
        unpack_str(u, m->saved.meta, sizeof m->saved.meta);
        break;
    default:
        break;
    }
}

/* Returns the length, and the descriptors in the order of their bits, the extra ones last. */
static int encode(const struct ctl_message *m, uint8_t *buf, size_t cap, int *fds, unsigned *count, struct err *err)
{
    uint32_t mask = 0;
    *count = 0;
    for (int i = 0; i < CTL_FDS; i++) {
        if (m->fd[i] < 0)
            continue;
        fds[(*count)++] = m->fd[i];
        mask |= 1u << i;
    }
    if (m->extra_count > CTL_EXTRA_MAX)
        return err_say(err, E2BIG, "a %s message with %u layers cannot be sent", ctl_type_name(m->type),
                       m->extra_count);
    memcpy(fds + *count, m->extra, m->extra_count * sizeof *fds);
    *count += m->extra_count;
    struct pack p = pack_into(buf, cap);
    pack_u32(&p, CTL_MAGIC);
    pack_u32(&p, CTL_VERSION);
    pack_u32(&p, (uint32_t)m->type);
    pack_u32(&p, m->request);
    pack_u32(&p, mask);
    pack_body(&p, m);
    if (p.full)
        return err_say(err, EMSGSIZE, "a %s message is too long", ctl_type_name(m->type));
    return (int)p.len;
}

int ctl_send(int sock, const struct ctl_message *m, struct err *err)
{
    uint8_t buf[CTL_MESSAGE_MAX];
    int fds[CARRIED_MAX];
    unsigned count;
    int len = encode(m, buf, sizeof buf, fds, &count, err);
    int rc = len < 0 ? len : fdpass_send(sock, buf, (size_t)len, fds, count, err);
    return rc < 0 ? err_wrap(err, "send %s", ctl_type_name(m->type)) : 0;
}

int ctl_send_until(int sock, const struct ctl_message *m, uint64_t deadline_ns, struct err *err)
{
    uint8_t buf[CTL_MESSAGE_MAX];
    int fds[CARRIED_MAX];
    unsigned count;
    int len = encode(m, buf, sizeof buf, fds, &count, err);
    int rc = len < 0 ? len : fdpass_send_by(sock, buf, (size_t)len, fds, count, deadline_ns, err);
    return rc < 0 ? err_wrap(err, "send %s", ctl_type_name(m->type)) : 0;
}

static int decode(struct ctl_message *m, const uint8_t *buf, size_t len, int *fds, unsigned count)
{
    struct unpack u = unpack_from(buf, len);
    uint32_t magic = unpack_u32(&u), version = unpack_u32(&u), type = unpack_u32(&u), request = unpack_u32(&u),
             mask = unpack_u32(&u);
    unsigned masked = (unsigned)__builtin_popcount(mask);
    bool good = !u.bad && magic == CTL_MAGIC && version == CTL_VERSION && type < CTL_TYPES_END && types[type].name &&
                mask < 1u << CTL_FDS && masked <= count && count - masked <= types[type].extra &&
                (mask & types[type].must) == types[type].must && !(mask & ~(types[type].must | types[type].may));
    if (!good)
        return -EPROTO;
    ctl_message_init(m, (enum ctl_type)type, request);
    unpack_body(&u, m);
    if (!unpack_done(&u))
        return -EPROTO;
    unsigned next = 0;
    for (int i = 0; i < CTL_FDS; i++)
        if (mask & 1u << i)
            m->fd[i] = fds[next++];
    while (next < count)
        m->extra[m->extra_count++] = fds[next++];
    return 0;
}

/* What fdpass received: 1 and a message, 0 for the end, or the error. */
static int take(struct ctl_message *m, const uint8_t *buf, ssize_t len, int *fds, size_t count, struct err *err)
{
    if (len == -EMSGSIZE || len == -EPROTO)
        return err_wrap(err, "a control message is malformed"), -EPROTO;
    if (len <= 0)
        return (int)len;
    if (decode(m, buf, (size_t)len, fds, (unsigned)count) == 0)
        return 1;
    for (size_t i = 0; i < count; i++)
        close(fds[i]);
    return err_say(err, EPROTO, "a control message is malformed");
}

/* Messages carry secrets, and the receiver may fork. */
static void wipe(uint8_t *buf, ssize_t len)
{
    if (len > 0)
        explicit_bzero(buf, (size_t)len);
}

int ctl_recv(int sock, struct ctl_message *m, struct err *err)
{
    uint8_t buf[CTL_MESSAGE_MAX];
    int fds[CARRIED_MAX];
    size_t count = CARRIED_MAX;
    ssize_t len = fdpass_recv(sock, buf, sizeof buf, fds, &count, err);
    int rc = take(m, buf, len, fds, count, err);
    wipe(buf, len);
    return rc;
}

int ctl_recv_until(int sock, struct ctl_message *m, uint64_t deadline_ns, struct err *err)
{
    uint8_t buf[CTL_MESSAGE_MAX];
    int fds[CARRIED_MAX];
    size_t count = CARRIED_MAX;
    ssize_t len = fdpass_recv_by(sock, buf, sizeof buf, fds, &count, deadline_ns, err);
    int rc = take(m, buf, len, fds, count, err);
    wipe(buf, len);
    return rc;
}

/* What fs.nr_open is unless somebody changed it (Documentation/admin-guide/sysctl/fs.rst). */
enum { DESCRIPTOR_MAX = 1 << 20 };

int ctl_socket_parse(const char *text)
{
    char *end;
    long fd = strtol(text, &end, 10);
    return *end || end == text || fd < 0 || fd > DESCRIPTOR_MAX ? -1 : (int)fd;
}

int ctl_send_failed(int sock, uint32_t request, const struct err *why, struct err *err)
{
    struct ctl_message m;
    ctl_message_init(&m, CTL_FAILED, request);
    m.failed.code = (uint32_t)why->code;
    memcpy(m.failed.text, why->text, sizeof m.failed.text);
    m.failed.text[sizeof m.failed.text - 1] = 0;
    return ctl_send(sock, &m, err);
}
