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

/* Bodies. Each is packed and unpacked field by field in the same order, so the two stand together. */

static void pack_jail(struct pack *p, const struct ctl_jail *jail)
{
    pack_u32(p, jail->uid);
    pack_u32(p, jail->gid);
}

static void unpack_jail(struct unpack *u, struct ctl_jail *jail)
{
    jail->uid = unpack_u32(u);
    jail->gid = unpack_u32(u);
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

static void pack_boot(struct pack *p, const struct ctl_boot *boot)
{
    pack_str(p, boot->id);
    pack_bytes(p, boot->secret, CTL_SECRET_LEN);
    pack_jail(p, &boot->jail);
    pack_u32(p, boot->mem_mib);
    pack_u32(p, boot->vcpus);
    pack_u8(p, boot->disk_read_only);
    pack_str(p, boot->cmdline);
}

static void unpack_boot(struct unpack *u, struct ctl_boot *boot)
{
    unpack_str(u, boot->id, sizeof boot->id);
    unpack_bytes(u, boot->secret, CTL_SECRET_LEN);
    unpack_jail(u, &boot->jail);
    boot->mem_mib = unpack_u32(u);
    boot->vcpus = unpack_u32(u);
    boot->disk_read_only = unpack_u8(u);
    unpack_str(u, boot->cmdline, sizeof boot->cmdline);
}

static void pack_load(struct pack *p, const struct ctl_load *load)
{
    pack_str(p, load->id);
    pack_bytes(p, load->secret, CTL_SECRET_LEN);
    pack_jail(p, &load->jail);
    pack_image(p, &load->image);
}

static void unpack_load(struct unpack *u, struct ctl_load *load)
{
    unpack_str(u, load->id, sizeof load->id);
    unpack_bytes(u, load->secret, CTL_SECRET_LEN);
    unpack_jail(u, &load->jail);
    unpack_image(u, &load->image);
}

static void pack_adopted(struct pack *p, const struct ctl_adopted *adopted)
{
    pack_str(p, adopted->id);
    pack_u32(p, adopted->pid);
    pack_u8(p, adopted->role);
    pack_u8(p, adopted->stalled);
    pack_u8(p, adopted->handed);
}

static void unpack_adopted(struct unpack *u, struct ctl_adopted *adopted)
{
    unpack_str(u, adopted->id, sizeof adopted->id);
    adopted->pid = unpack_u32(u);
    adopted->role = unpack_u8(u);
    adopted->stalled = unpack_u8(u);
    adopted->handed = unpack_u8(u);
}

static void pack_branch(struct pack *p, const struct ctl_branch *branch)
{
    pack_str(p, branch->id);
    pack_bytes(p, branch->secret, CTL_SECRET_LEN);
    pack_u8(p, branch->compare);
}

static void unpack_branch(struct unpack *u, struct ctl_branch *branch)
{
    unpack_str(u, branch->id, sizeof branch->id);
    unpack_bytes(u, branch->secret, CTL_SECRET_LEN);
    branch->compare = unpack_u8(u);
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

static void pack_export(struct pack *p, const struct ctl_export *export)
{
    pack_u64(p, export->ram);
    pack_u64(p, export->mem_bytes);
    pack_u64(p, export->state_bytes);
    pack_u32(p, export->birth_layers);
}

static void unpack_export(struct unpack *u, struct ctl_export *export)
{
    export->ram = unpack_u64(u);
    export->mem_bytes = unpack_u64(u);
    export->state_bytes = unpack_u64(u);
    export->birth_layers = unpack_u32(u);
}

static void pack_save(struct pack *p, const struct ctl_save *save)
{
    pack_u64(p, save->ram);
    pack_u64(p, save->state_bytes);
    pack_u32(p, save->birth_layers);
    pack_u8(p, save->engine);
    pack_u8(p, save->awaited);
    pack_u64(p, save->bytes_per_second);
    pack_str(p, save->meta);
}

static void unpack_save(struct unpack *u, struct ctl_save *save)
{
    save->ram = unpack_u64(u);
    save->state_bytes = unpack_u64(u);
    save->birth_layers = unpack_u32(u);
    save->engine = unpack_u8(u);
    save->awaited = unpack_u8(u);
    save->bytes_per_second = unpack_u64(u);
    unpack_str(u, save->meta, sizeof save->meta);
}

static void pack_body(struct pack *p, const struct ctl_message *m)
{
    switch (m->type) {
    case CTL_BOOT:
        pack_boot(p, &m->boot);
        break;
    case CTL_IMAGE:
        pack_image(p, &m->image);
        break;
    case CTL_LOAD:
        pack_load(p, &m->load);
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
        pack_adopted(p, &m->adopted);
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
        pack_branch(p, &m->branch);
        break;
    case CTL_BRANCHED:
        pack_branched(p, &m->branched);
        break;
    case CTL_EXPORTED:
        pack_export(p, &m->export);
        break;
    case CTL_SETTLED:
        pack_u64(p, m->settled.pages);
        break;
    case CTL_SAVE:
        pack_save(p, &m->save);
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

static void unpack_body(struct unpack *u, struct ctl_message *m)
{
    switch (m->type) {
    case CTL_BOOT:
        unpack_boot(u, &m->boot);
        break;
    case CTL_IMAGE:
        unpack_image(u, &m->image);
        break;
    case CTL_LOAD:
        unpack_load(u, &m->load);
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
        unpack_adopted(u, &m->adopted);
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
        unpack_branch(u, &m->branch);
        break;
    case CTL_BRANCHED:
        unpack_branched(u, &m->branched);
        break;
    case CTL_EXPORTED:
        unpack_export(u, &m->export);
        break;
    case CTL_SETTLED:
        m->settled.pages = unpack_u64(u);
        break;
    case CTL_SAVE:
        unpack_save(u, &m->save);
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
