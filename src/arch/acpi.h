/* acpi.h: the tables that tell the guest its board: RSDP, XSDT, FADT, MADT and DSDT.
 *
 * Theory of operation. The board is hardware-reduced (ACPI 6.4, 4.1): no PM timer, no SCI, no legacy devices;
 * poweroff is a write to the sleep control register, reboot one to the reset register, and an interrupt of a
 * generic event device announces a new VM generation id. The DSDT's bytecode is written by aml.h, so that
 * it says what this board carries and the build needs no compiler for it. */
#ifndef FORKD_ARCH_ACPI_H
#define FORKD_ARCH_ACPI_H

#include "arch/board.h"
#include "base/err.h"
#include "mem/gmem.h"

#include <stdint.h>

/* Writes the tables to BOARD_ACPI_GPA; `rsdp` is where they begin. */
int acpi_build(struct gmem *gmem, const struct board *board, uint64_t *rsdp, struct err *err);

#endif
