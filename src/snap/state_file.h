/* state_file.h: the state of a machine's CPUs and devices as bytes ("vmstate").
 *
 * Theory of operation. A 64-byte plain header, a table of sections, the sections, and an end mark. Each section
 * has a type, an instance, a version, a must-understand flag and a CRC-32C; the header has one over itself and
 * the table. A reader verifies everything before it parses anything. Sections are packed field by field by the
 * part of the machine they belong to (base/pack.h).
 *
 *   header   "FORKDVMS" magic u64 | version u32 | arch u32 | sections u32 | 0 u32 | total length u64 |
 *            CRC of the table u32 | 24 bytes of zero | CRC of the 60 bytes before it u32
 *   table    per section: type u32 | instance u32 | version u32 | flags u32 | offset u64 | length u64 | CRC u32 | 0 u32
 *   end      "FORKDEND" u64
 *
 * Invariants.
 * 1. Sections do not overlap, are in the table's order, and fill the file between table and end mark.
 * 2. A section that must be understood and is not known is an error that names its type. */
#ifndef FORKD_SNAP_STATE_FILE_H
#define FORKD_SNAP_STATE_FILE_H

#include "base/err.h"
#include "base/pack.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    STATE_SECTIONS_MAX = 64,
    STATE_FILE_MAX = 16 << 20,
    STATE_MUST_UNDERSTAND = 1,
};

enum state_section {
    STATE_MACHINE = 1, /* memory size, number of CPUs and devices */
    STATE_CLOCK,
    STATE_VCPU, /* one per CPU: the instance is its index */
    STATE_IOAPIC,
    STATE_SERIAL,
    STATE_BLK,
    STATE_VSOCK,
    STATE_RNG,
    STATE_VMGENID,
    STATE_DISK,
    STATE_INSTANT, /* machine.h; none in what was booted, until it is a template */
    STATE_SECTIONS_END
};

/* Writing: sections are added one after the other into a buffer of the caller's. */
struct state_writer {
    struct pack out;
    unsigned count;
    struct state_entry {
        uint32_t type, instance, version, flags, crc;
        uint64_t offset, length;
    } entry[STATE_SECTIONS_MAX];
};

void state_writer_init(struct state_writer *w, void *buf, size_t cap);
/* Where to pack the next section; state_writer_end() closes it. Sections must be understood. */
struct pack *state_writer_begin(struct state_writer *w, enum state_section type, uint32_t instance, uint32_t version);
void state_writer_end(struct state_writer *w);
/* The length of the finished file, or -ENOSPC when it did not fit. */
int64_t state_writer_finish(struct state_writer *w, struct err *err);

/* Reading: verifies header, table, CRCs and end mark. The buffer stays the caller's and must not change. */
struct state_reader {
    const uint8_t *buf;
    unsigned count;
    struct state_entry entry[STATE_SECTIONS_MAX];
};

int state_reader_init(struct state_reader *r, const void *buf, size_t len, struct err *err);
/* The section's contents; -ENOENT with a sentence when there is none of that type, instance and version. */
int state_reader_section(const struct state_reader *r, enum state_section type, uint32_t instance, uint32_t version,
                         struct unpack *u, struct err *err);

/* "vcpu", "blk": for messages. */
const char *state_section_name(uint32_t type);

#endif
