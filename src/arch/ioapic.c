/* ioapic.c: see ioapic.h. Registers: 82093AA datasheet, section 3. */
#include "arch/ioapic.h"

#include "arch/board.h"

#include <errno.h>
#include <stdbool.h>
#include <string.h>

enum {
    WINDOW_SELECT = 0x00,
    WINDOW_DATA = 0x10,
    WINDOW_EOI = 0x40, /* exists from version 0x20 on: not here */

    REG_ID = 0x00,
    REG_VERSION = 0x01,
    REG_ARBITRATION = 0x02,
    REG_REDIRECTION = 0x10, /* two for each pin */

    VERSION = 0x11,
};

#define ENTRY_VECTOR(e)      ((uint32_t)(e)&0xff)
#define ENTRY_DELIVERY(e)    ((uint32_t)((e) >> 8) & 7)
#define ENTRY_LOGICAL(e)     ((uint32_t)((e) >> 11) & 1)
#define ENTRY_DESTINATION(e) ((uint32_t)((e) >> 56) & 0xff)
#define ENTRY_STATUS         (UINT64_C(1) << 12)
#define ENTRY_REMOTE_IRR     (UINT64_C(1) << 14)
#define ENTRY_LEVEL          (UINT64_C(1) << 15)
#define ENTRY_MASKED         (UINT64_C(1) << 16)
#define ENTRY_READ_ONLY      (ENTRY_STATUS | ENTRY_REMOTE_IRR)
#define ENTRY_WRITABLE       (UINT64_C(0xff0000000001ffff) & ~ENTRY_READ_ONLY)

void ioapic_init(struct ioapic *ioapic, void (*send)(void *owner, uint64_t address, uint32_t data), void *owner)
{
    *ioapic = (struct ioapic){.send = send, .owner = owner};
    for (unsigned pin = 0; pin < IOAPIC_PINS; pin++)
        ioapic->redirection[pin] = ENTRY_MASKED;
}

/* The message's format is that of an MSI (SDM volume 3, 11.11.1 and 11.11.2). */
static void message_of(uint64_t entry, uint64_t *address, uint32_t *data)
{
    enum { DATA_ASSERT = 1 << 14, DATA_LEVEL = 1 << 15 };
    *address = BOARD_LAPIC_GPA | ENTRY_DESTINATION(entry) << 12 | ENTRY_LOGICAL(entry) << 2;
    *data = ENTRY_VECTOR(entry) | ENTRY_DELIVERY(entry) << 8 | DATA_ASSERT | (entry & ENTRY_LEVEL ? DATA_LEVEL : 0);
}

static void pin_deliver(struct ioapic *ioapic, unsigned pin)
{
    uint64_t *entry = &ioapic->redirection[pin], address;
    uint32_t bit = UINT32_C(1) << pin, data;
    if (*entry & (ENTRY_MASKED | ENTRY_REMOTE_IRR)) {
        ioapic->pending |= bit;
        return;
    }
    ioapic->pending &= ~bit;
    if (*entry & ENTRY_LEVEL)
        *entry |= ENTRY_REMOTE_IRR;
    message_of(*entry, &address, &data);
    ioapic->send(ioapic->owner, address, data);
}

static void pin_deliver_pending(struct ioapic *ioapic, unsigned pin)
{
    if (ioapic->pending >> pin & 1)
        pin_deliver(ioapic, pin);
}

void ioapic_raise(struct ioapic *ioapic, unsigned pin)
{
    if (pin < IOAPIC_PINS)
        pin_deliver(ioapic, pin);
}

void ioapic_eoi(struct ioapic *ioapic, uint8_t vector)
{
    for (unsigned pin = 0; pin < IOAPIC_PINS; pin++) {
        uint64_t *entry = &ioapic->redirection[pin];
        if (!(*entry & ENTRY_REMOTE_IRR) || ENTRY_VECTOR(*entry) != vector)
            continue;
        *entry &= ~ENTRY_REMOTE_IRR;
        pin_deliver_pending(ioapic, pin);
    }
}

static uint32_t register_read(const struct ioapic *ioapic)
{
    uint32_t reg = ioapic->select;
    if (reg == REG_ID || reg == REG_ARBITRATION)
        return ioapic->id;
    if (reg == REG_VERSION)
        return VERSION | (IOAPIC_PINS - 1) << 16;
    if (reg < REG_REDIRECTION || reg >= REG_REDIRECTION + 2 * IOAPIC_PINS)
        return 0;
    uint64_t entry = ioapic->redirection[(reg - REG_REDIRECTION) / 2];
    return (uint32_t)(reg & 1 ? entry >> 32 : entry);
}

static void register_write(struct ioapic *ioapic, uint32_t value)
{
    uint32_t reg = ioapic->select;
    if (reg == REG_ID)
        ioapic->id = value & 0x0f000000;
    if (reg < REG_REDIRECTION || reg >= REG_REDIRECTION + 2 * IOAPIC_PINS)
        return;
    unsigned pin = (reg - REG_REDIRECTION) / 2, shift = reg & 1 ? 32 : 0;
    uint64_t *entry = &ioapic->redirection[pin], changed = (UINT64_C(0xffffffff) << shift) & ENTRY_WRITABLE;
    *entry = (*entry & ~changed) | ((uint64_t)value << shift & changed);
    if (!(*entry & ENTRY_LEVEL))
        *entry &= ~ENTRY_REMOTE_IRR; /* how software ends an interrupt of an IOAPIC without an EOI register */
    pin_deliver_pending(ioapic, pin);
}

void ioapic_mmio_read(struct ioapic *ioapic, uint32_t at, void *into, uint32_t len)
{
    memset(into, 0, len);
    if (len != sizeof(uint32_t))
        return;
    uint32_t value = at == WINDOW_SELECT ? ioapic->select : at == WINDOW_DATA ? register_read(ioapic) : 0;
    memcpy(into, &value, sizeof value);
}

void ioapic_mmio_write(struct ioapic *ioapic, uint32_t at, const void *from, uint32_t len)
{
    uint32_t value;
    if (len != sizeof value)
        return;
    memcpy(&value, from, sizeof value);
    if (at == WINDOW_SELECT)
        ioapic->select = value & 0xff;
    else if (at == WINDOW_DATA)
        register_write(ioapic, value);
}

void ioapic_save(const struct ioapic *ioapic, struct pack *p)
{
    pack_u32(p, ioapic->select);
    pack_u32(p, ioapic->id);
    pack_u32(p, ioapic->pending);
    pack_u8(p, IOAPIC_PINS);
    for (unsigned pin = 0; pin < IOAPIC_PINS; pin++)
        pack_u64(p, ioapic->redirection[pin]);
}

int ioapic_load(struct ioapic *ioapic, struct unpack *u, struct err *err)
{
    uint32_t select = unpack_u32(u), id = unpack_u32(u), pending = unpack_u32(u);
    uint8_t pins = unpack_u8(u);
    uint64_t redirection[IOAPIC_PINS];
    for (unsigned pin = 0; pin < IOAPIC_PINS; pin++) {
        redirection[pin] = unpack_u64(u);
        bool level = redirection[pin] & ENTRY_LEVEL, irr = redirection[pin] & ENTRY_REMOTE_IRR;
        bool held = irr || (redirection[pin] & ENTRY_MASKED);
        if ((redirection[pin] & ~(ENTRY_WRITABLE | ENTRY_REMOTE_IRR)) || (irr && !level) ||
            ((pending >> pin & 1) && !held))
            u->bad = true;
    }
    if (u->bad || pins != IOAPIC_PINS || select > 0xff || id & ~UINT32_C(0x0f000000) || pending >> IOAPIC_PINS)
        return err_say(err, EINVAL, "the state of the IOAPIC is cut short or malformed");
    ioapic->select = select;
    ioapic->id = id;
    ioapic->pending = pending;
    memcpy(ioapic->redirection, redirection, sizeof redirection);
    return 0;
}
