/* pack.h: checked little-endian packing, for what goes to disk, over a socket or into a guest.
 *
 * Both directions are sticky: after the first value that does not fit, or that is not there, every further
 * call does nothing (a reader returns zeros), and the caller asks once at the end. Nothing allocates. */
#ifndef FORKD_BASE_PACK_H
#define FORKD_BASE_PACK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct pack {
    uint8_t *buf;
    size_t cap, len;
    bool full; /* something did not fit: the contents are not to be used */
};

struct unpack {
    const uint8_t *buf;
    size_t len, at;
    bool bad; /* something was missing or malformed: the values read are not to be used */
};

static inline struct pack pack_into(void *buf, size_t cap)
{
    return (struct pack){.buf = buf, .cap = cap};
}

static inline struct unpack unpack_from(const void *buf, size_t len)
{
    return (struct unpack){.buf = buf, .len = len};
}

void pack_bytes(struct pack *p, const void *bytes, size_t len);
void pack_u8(struct pack *p, uint8_t v);
void pack_u16(struct pack *p, uint16_t v);
void pack_u32(struct pack *p, uint32_t v);
void pack_u64(struct pack *p, uint64_t v);
/* A 32-bit length and that many bytes. */
void pack_blob(struct pack *p, const void *bytes, size_t len);
/* A blob of the string's characters, without the terminator. */
void pack_str(struct pack *p, const char *s);

bool unpack_bytes(struct unpack *u, void *into, size_t len);
uint8_t unpack_u8(struct unpack *u);
uint16_t unpack_u16(struct unpack *u);
uint32_t unpack_u32(struct unpack *u);
uint64_t unpack_u64(struct unpack *u);
/* The next `len` bytes where they lie (valid as long as the buffer), or NULL. */
const uint8_t *unpack_span(struct unpack *u, size_t len);
/* A blob where it lies; *len is 0 when it is bad. */
const uint8_t *unpack_blob(struct unpack *u, size_t *len);
/* A string into a buffer of `cap` bytes, terminated; one that does not fit or holds a zero byte is bad. */
bool unpack_str(struct unpack *u, char *into, size_t cap);
/* All was there and nothing is left over. */
static inline bool unpack_done(const struct unpack *u)
{
    return !u->bad && u->at == u->len;
}

#endif
