/* boot.h: puts a kernel into a guest that has never run, and points its first CPU at it.
 *
 * Theory of operation. The kernel is a Linux bzImage (boot protocol 2.12 or later, with a 64-bit entry) or a
 * 64-bit ELF executable: Linux's vmlinux, or a small program of our tests. Both are entered as the 64-bit
 * boot protocol has it (Documentation/arch/x86/boot.rst): long mode, flat segments, the first 4 GiB mapped
 * to themselves, interrupts off, RSI pointing to boot_params. The files are hostile: each offset, size and
 * address is checked against the file and against the memory that is left for it.
 *
 * Guest memory is expected to be zero: what a file does not fill (its .bss) is not written. */
#ifndef FORKD_ARCH_BOOT_H
#define FORKD_ARCH_BOOT_H

#include "arch/board.h"
#include "base/err.h"
#include "mem/gmem.h"

#include <stdint.h>

enum { BOOT_CMDLINE_MAX = 2047 }; /* characters, the kernel's own limit */

struct boot_config {
    int kernel_fd;           /* not owned; read with pread */
    const char *kernel_path; /* for sentences */
    int initrd_fd;           /* -1: none */
    const char *initrd_path;
    const char *cmdline;
    const struct board *board;
};

/* Where the first CPU begins. */
struct boot_entry {
    uint64_t rip;
    uint64_t boot_params; /* goes into RSI */
};

/* Writes kernel, initrd, command line, boot_params, page tables, GDT and the board's ACPI tables. */
int boot_load(struct gmem *gmem, const struct boot_config *config, struct boot_entry *entry, struct err *err);

/* A vCPU as it comes out of reset, once its CPUID is set: the first goes to `entry`; the others, with NULL,
 * wait for its SIPI. */
int boot_vcpu_init(int vcpu_fd, const struct boot_entry *entry, struct err *err);

#endif
