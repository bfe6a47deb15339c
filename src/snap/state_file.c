/* state_file.c: see state_file.h. */
#include "snap/state_file.h"

#include "base/crc.h"

#include <errno.h>
#include <string.h>

enum { HEADER_LEN = 64, ENTRY_LEN = 40, STATE_VERSION = 1, STATE_ARCH_X86_64 = 0x3e, END_LEN = 8 };

static const char magic[8] = "FORKDVMS";
static const char end_mark[8] = "FORKDEND";

static const char *const section_names[] = {
    [STATE_MACHINE] = "machine", [STATE_CLOCK] = "clock",     [STATE_VCPU] = "vcpu",       [STATE_IOAPIC] = "ioapic",
    [STATE_SERIAL] = "serial",   [STATE_BLK] = "blk",         [STATE_VSOCK] = "vsock",     [STATE_RNG] = "rng",
    [STATE_DISK] = "disk",       [STATE_VMGENID] = "vmgenid", [STATE_INSTANT] = "instant",
};
_Static_assert(sizeof section_names / sizeof *section_names == STATE_SECTIONS_END, "every section has a name");

const char *state_section_name(uint32_t type)
{
    return type < STATE_SECTIONS_END && section_names[type] ? section_names[type] : "unknown";
}

/* The table is as long as it may get, so that sections can be packed before their number is known. */
static size_t body_offset(void)
{
    return HEADER_LEN + ENTRY_LEN * STATE_SECTIONS_MAX;
}

void state_writer_init(struct state_writer *w, void *buf, size_t cap)
{
    *w = (struct state_writer){.out = pack_into(buf, cap)};
    if (cap < body_offset() + END_LEN) {
        w->out.full = true;
        return;
    }
    memset(buf, 0, body_offset());
    w->out.len = body_offset();
}

struct pack *state_writer_begin(struct state_writer *w, enum state_section type, uint32_t instance, uint32_t version)
{
    if (w->count == STATE_SECTIONS_MAX) {
        w->out.full = true;
        return &w->out;
    }
    w->entry[w->count] = (struct state_entry){
        .type = type, .instance = instance, .version = version, .flags = STATE_MUST_UNDERSTAND, .offset = w->out.len};
    return &w->out;
}

void state_writer_end(struct state_writer *w)
{
    if (w->out.full)
        return;
    struct state_entry *e = &w->entry[w->count++];
    e->length = w->out.len - e->offset;
    e->crc = crc32c(0, w->out.buf + e->offset, e->length);
}

int64_t state_writer_finish(struct state_writer *w, struct err *err)
{
    pack_bytes(&w->out, end_mark, sizeof end_mark);
    if (w->out.full || w->out.len > STATE_FILE_MAX)
        return err_say(err, ENOSPC, "the state of the machine does not fit its buffer");
    struct pack table = pack_into(w->out.buf + HEADER_LEN, ENTRY_LEN * STATE_SECTIONS_MAX);
    for (unsigned i = 0; i < w->count; i++) {
        const struct state_entry *e = &w->entry[i];
        pack_u32(&table, e->type);
        pack_u32(&table, e->instance);
        pack_u32(&table, e->version);
        pack_u32(&table, e->flags);
        pack_u64(&table, e->offset);
        pack_u64(&table, e->length);
        pack_u32(&table, e->crc);
        pack_u32(&table, 0);
    }
    struct pack header = pack_into(w->out.buf, HEADER_LEN);
    pack_bytes(&header, magic, sizeof magic);
    pack_u32(&header, STATE_VERSION);
    pack_u32(&header, STATE_ARCH_X86_64);
    pack_u32(&header, w->count);
    pack_u32(&header, 0);
    pack_u64(&header, w->out.len);
    pack_u32(&header, crc32c(0, w->out.buf + HEADER_LEN, ENTRY_LEN * STATE_SECTIONS_MAX));
    header.len = HEADER_LEN - 4;
    pack_u32(&header, crc32c(0, w->out.buf, HEADER_LEN - 4));
    return (int64_t)w->out.len;
}

/* Magic, version, architecture, length and both CRCs. */
static int check_header(struct state_reader *r, size_t len, struct err *err)
{
    if (len < body_offset() + END_LEN || len > STATE_FILE_MAX)
        return err_say(err, EINVAL, "the state file has %zu bytes: it was cut, or is none", len);
    struct unpack u = unpack_from(r->buf, HEADER_LEN);
    char found[sizeof magic];
    unpack_bytes(&u, found, sizeof found);
    uint32_t version = unpack_u32(&u), arch = unpack_u32(&u);
    r->count = unpack_u32(&u);
    unpack_u32(&u);
    uint64_t total = unpack_u64(&u);
    uint32_t table_crc = unpack_u32(&u);
    u.at = HEADER_LEN - 4;
    uint32_t header_crc = unpack_u32(&u);
    if (memcmp(found, magic, sizeof magic))
        return err_say(err, EINVAL, "this is no state file of forkd");
    if (header_crc != crc32c(0, r->buf, HEADER_LEN - 4))
        return err_say(err, EINVAL, "the header of the state file is damaged");
    if (version != STATE_VERSION)
        return err_say(err, EINVAL, "the state file has version %u; this forkd reads version %u", version,
                       STATE_VERSION);
    if (arch != STATE_ARCH_X86_64)
        return err_say(err, EINVAL, "the state file is of another architecture (%u)", arch);
    if (total != len)
        return err_say(err, EINVAL, "the state file has %zu bytes of %llu", len, (unsigned long long)total);
    if (r->count > STATE_SECTIONS_MAX || table_crc != crc32c(0, r->buf + HEADER_LEN, ENTRY_LEN * STATE_SECTIONS_MAX))
        return err_say(err, EINVAL, "the section table of the state file is damaged");
    if (memcmp(r->buf + len - END_LEN, end_mark, END_LEN))
        return err_say(err, EINVAL, "the end of the state file is missing");
    return 0;
}

static int check_section(const struct state_reader *r, const struct state_entry *e, uint64_t begin, uint64_t end,
                         struct err *err)
{
    const char *name = state_section_name(e->type);
    if (e->offset != begin || e->length > end - begin)
        return err_say(err, EINVAL, "section %s %u of the state file is out of place", name, e->instance);
    if (e->crc != crc32c(0, r->buf + e->offset, e->length))
        return err_say(err, EINVAL, "section %s %u of the state file is damaged", name, e->instance);
    if ((e->flags & STATE_MUST_UNDERSTAND) && (!e->type || e->type >= STATE_SECTIONS_END))
        return err_say(err, EINVAL, "the state file has a section of type %u that this forkd does not know", e->type);
    return 0;
}

int state_reader_init(struct state_reader *r, const void *buf, size_t len, struct err *err)
{
    *r = (struct state_reader){.buf = buf};
    int rc = check_header(r, len, err);
    uint64_t at = body_offset(), end = len - END_LEN;
    struct unpack table = unpack_from(r->buf + HEADER_LEN, rc < 0 ? 0 : ENTRY_LEN * STATE_SECTIONS_MAX);
    for (unsigned i = 0; rc == 0 && i < r->count; i++) {
        struct state_entry *e = &r->entry[i];
        e->type = unpack_u32(&table);
        e->instance = unpack_u32(&table);
        e->version = unpack_u32(&table);
        e->flags = unpack_u32(&table);
        e->offset = unpack_u64(&table);
        e->length = unpack_u64(&table);
        e->crc = unpack_u32(&table);
        unpack_u32(&table);
        rc = check_section(r, e, at, end, err);
        at = e->offset + e->length;
    }
    if (rc == 0 && at != end)
        rc = err_say(err, EINVAL, "the state file has bytes that belong to no section");
    return rc;
}

int state_reader_section(const struct state_reader *r, enum state_section type, uint32_t instance, uint32_t version,
                         struct unpack *u, struct err *err)
{
    for (unsigned i = 0; i < r->count; i++) {
        const struct state_entry *e = &r->entry[i];
        if (e->type != type || e->instance != instance)
            continue;
        if (e->version != version)
            return err_say(err, EINVAL, "section %s of the state file has version %u; this forkd reads version %u",
                           state_section_name(type), e->version, version);
        *u = unpack_from(r->buf + e->offset, e->length);
        return 0;
    }
    return err_say(err, ENOENT, "the state file has no section %s %u", state_section_name(type), instance);
}
