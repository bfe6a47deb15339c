/* aml.c: see aml.h. Opcodes: ACPI 6.4, 20.3. */
#include "arch/aml.h"

#include <string.h>

enum {
    OP_NAME = 0x08,
    OP_BYTE = 0x0a,
    OP_WORD = 0x0b,
    OP_DWORD = 0x0c,
    OP_STRING = 0x0d,
    OP_QWORD = 0x0e,
    OP_SCOPE = 0x10,
    OP_BUFFER = 0x11,
    OP_PACKAGE = 0x12,
    OP_METHOD = 0x14,
    OP_EXT = 0x5b,
    OP_EXT_DEVICE = 0x82,
    OP_ARG0 = 0x68,
    OP_NOTIFY = 0x86,
    OP_EQUAL = 0x93,
    OP_IF = 0xa0,

    METHOD_SERIALIZED = 1 << 3,
    NAME_LEN = 4,
    /* A length is always written in three bytes (20 bits), so that it can be filled in later. */
    LENGTH_BYTES = 3,
};

static void name_write(struct pack *p, const char *name)
{
    pack_bytes(p, name, NAME_LEN);
}

static aml_mark length_open(struct pack *p)
{
    static const uint8_t room[LENGTH_BYTES];
    aml_mark mark = p->len;
    pack_bytes(p, room, sizeof room);
    return mark;
}

/* PkgLength (20.2.4): counts itself; two bits say how many bytes follow, four hold the lowest bits. */
void aml_close(struct pack *p, aml_mark mark)
{
    if (p->full)
        return;
    size_t length = p->len - mark;
    p->buf[mark] = (uint8_t)((LENGTH_BYTES - 1) << 6 | (length & 0xf));
    p->buf[mark + 1] = (uint8_t)(length >> 4);
    p->buf[mark + 2] = (uint8_t)(length >> 12);
}

aml_mark aml_scope_open(struct pack *p, const char *name)
{
    pack_u8(p, OP_SCOPE);
    aml_mark mark = length_open(p);
    pack_u8(p, '\\');
    name_write(p, name);
    return mark;
}

aml_mark aml_device_open(struct pack *p, const char *name)
{
    pack_u8(p, OP_EXT);
    pack_u8(p, OP_EXT_DEVICE);
    aml_mark mark = length_open(p);
    name_write(p, name);
    return mark;
}

aml_mark aml_method_open(struct pack *p, const char *name, unsigned args)
{
    pack_u8(p, OP_METHOD);
    aml_mark mark = length_open(p);
    name_write(p, name);
    pack_u8(p, (uint8_t)(args | METHOD_SERIALIZED));
    return mark;
}

aml_mark aml_if_arg0_equals_open(struct pack *p, uint64_t value)
{
    pack_u8(p, OP_IF);
    aml_mark mark = length_open(p);
    pack_u8(p, OP_EQUAL);
    pack_u8(p, OP_ARG0);
    aml_integer(p, value);
    return mark;
}

aml_mark aml_package_open(struct pack *p, uint8_t elements)
{
    pack_u8(p, OP_PACKAGE);
    aml_mark mark = length_open(p);
    pack_u8(p, elements);
    return mark;
}

void aml_name(struct pack *p, const char *name)
{
    pack_u8(p, OP_NAME);
    name_write(p, name);
}

void aml_integer(struct pack *p, uint64_t value)
{
    if (value <= 1) {
        pack_u8(p, (uint8_t)value); /* ZeroOp, OneOp */
    } else if (value <= UINT8_MAX) {
        pack_u8(p, OP_BYTE);
        pack_u8(p, (uint8_t)value);
    } else if (value <= UINT16_MAX) {
        pack_u8(p, OP_WORD);
        pack_u16(p, (uint16_t)value);
    } else if (value <= UINT32_MAX) {
        pack_u8(p, OP_DWORD);
        pack_u32(p, (uint32_t)value);
    } else {
        pack_u8(p, OP_QWORD);
        pack_u64(p, value);
    }
}

void aml_string(struct pack *p, const char *text)
{
    pack_u8(p, OP_STRING);
    pack_bytes(p, text, strlen(text) + 1);
}

static unsigned hex_digit(char c)
{
    return (unsigned)(c <= '9' ? c - '0' : c - 'A' + 10) & 0xf;
}

/* 19.3.4: five bits a letter and four a digit, the bytes in the order they are read. */
void aml_eisa_id(struct pack *p, const char *id)
{
    unsigned letters = (id[0] - '@') << 10 | (id[1] - '@') << 5 | (id[2] - '@');
    const uint8_t bytes[] = {(uint8_t)(letters >> 8), (uint8_t)letters,
                             (uint8_t)(hex_digit(id[3]) << 4 | hex_digit(id[4])),
                             (uint8_t)(hex_digit(id[5]) << 4 | hex_digit(id[6]))};
    pack_u8(p, OP_DWORD);
    pack_bytes(p, bytes, sizeof bytes);
}

void aml_notify(struct pack *p, const char *name, uint8_t value)
{
    enum { DUAL_NAME = 0x2e };
    pack_u8(p, OP_NOTIFY);
    pack_u8(p, '\\');
    pack_u8(p, DUAL_NAME);
    name_write(p, "_SB_");
    name_write(p, name);
    aml_integer(p, value);
}

struct aml_resources aml_resources_open(struct pack *p)
{
    struct aml_resources r;
    aml_name(p, "_CRS");
    pack_u8(p, OP_BUFFER);
    r.package = length_open(p);
    pack_u8(p, OP_WORD);
    r.size = p->len;
    pack_u16(p, 0);
    return r;
}

void aml_resource_memory(struct pack *p, uint32_t base, uint32_t size)
{
    enum { FIXED_32 = 0x86, LENGTH = 9, READ_WRITE = 1 };
    pack_u8(p, FIXED_32);
    pack_u16(p, LENGTH);
    pack_u8(p, READ_WRITE);
    pack_u32(p, base);
    pack_u32(p, size);
}

void aml_resource_io(struct pack *p, uint16_t base, uint8_t ports)
{
    enum { IO = 0x47, DECODE_16 = 1 };
    pack_u8(p, IO);
    pack_u8(p, DECODE_16);
    pack_u16(p, base);
    pack_u16(p, base);
    pack_u8(p, 1); /* alignment */
    pack_u8(p, ports);
}

void aml_resource_interrupt(struct pack *p, uint32_t gsi)
{
    enum { EXTENDED_INTERRUPT = 0x89, LENGTH = 6, CONSUMER = 1, EDGE = 2 };
    pack_u8(p, EXTENDED_INTERRUPT);
    pack_u16(p, LENGTH);
    pack_u8(p, CONSUMER | EDGE);
    pack_u8(p, 1); /* one interrupt */
    pack_u32(p, gsi);
}

void aml_resources_close(struct pack *p, struct aml_resources r)
{
    enum { END_TAG = 0x79 };
    pack_u8(p, END_TAG);
    pack_u8(p, 0); /* a checksum of 0 is not checked */
    if (p->full)
        return;
    size_t size = p->len - (r.size + 2);
    p->buf[r.size] = (uint8_t)size;
    p->buf[r.size + 1] = (uint8_t)(size >> 8);
    aml_close(p, r.package);
}
