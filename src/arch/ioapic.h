/* ioapic.h: the interrupt controller of the board, an 82093AA in user space (split irqchip).
 *
 * Theory of operation. A device raises a pin; the pin's redirection entry says which vector goes to which
 * CPU, and that goes out as the same message an MSI would be (SDM volume 3, 11.11). Our devices make edges:
 * a pin has no level that stays up, so an edge must not be lost:
 *   - raised while its entry is masked, it is remembered and sent when the guest unmasks it (a 82093AA would
 *     forget it; a guest that masks an edge for a moment would then wait for ever);
 *   - raised while a level-triggered entry awaits its EOI (remote IRR), it is remembered and sent at the EOI.
 * The board describes every line as edge-triggered (acpi.c). A guest that programs a level all the same gets
 * its EOI noticed only where KVM has a route for the line; without one the line is stuck until the guest makes
 * it an edge again, which harms that guest alone.
 *
 * Invariants.
 * 1. A pending pin is masked or has remote IRR set.
 * 2. Remote IRR is set only in level-triggered entries.
 *
 * Threads: none of its own; the machine calls with its device lock held. The state is plain and a fork
 * inherits it; `send` and `owner` are set again in the child. */
#ifndef FORKD_ARCH_IOAPIC_H
#define FORKD_ARCH_IOAPIC_H

#include "base/err.h"
#include "base/pack.h"

#include <stdint.h>

enum { IOAPIC_PINS = 24 };

struct ioapic {
    uint32_t select, id;
    uint64_t redirection[IOAPIC_PINS];
    uint32_t pending; /* pins raised and not sent, one bit each */
    /* Sends an interrupt message. */
    void (*send)(void *owner, uint64_t address, uint32_t data);
    void *owner;
};

/* As after a reset: every pin masked. */
void ioapic_init(struct ioapic *ioapic, void (*send)(void *owner, uint64_t address, uint32_t data), void *owner);

/* An edge on a pin. A pin that does not exist is ignored. */
void ioapic_raise(struct ioapic *ioapic, unsigned pin);

/* The guest's accesses to the register window, at offset `at`. Only aligned accesses of 4 bytes are known:
 * others read as zero and write nothing. */
void ioapic_mmio_read(struct ioapic *ioapic, uint32_t at, void *into, uint32_t len);
void ioapic_mmio_write(struct ioapic *ioapic, uint32_t at, const void *from, uint32_t len);

/* A CPU finished a level-triggered interrupt of this vector (KVM_EXIT_IOAPIC_EOI). */
void ioapic_eoi(struct ioapic *ioapic, uint8_t vector);

void ioapic_save(const struct ioapic *ioapic, struct pack *p);
/* Leaves `send` and `owner` alone. What is loaded may be hostile. */
int ioapic_load(struct ioapic *ioapic, struct unpack *u, struct err *err);

#endif
