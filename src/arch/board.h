/* board.h: what the guest finds soldered to its board, and where.
 *
 * The map is fixed, so that addresses survive in snapshots whatever a board carries:
 *
 *   0x00000500  GDT of the boot           0x000df000  VM generation id (reserved page)
 *   0x00007000  boot_params               0x000e0000  ACPI tables up to 1 MiB
 *   0x00009000  page tables of the boot   0x00100000  kernel and all other RAM, up to 3 GiB
 *   0x00020000  command line              0xd0000000  virtio-mmio windows, one page each
 *   0xfec00000  IOAPIC                    0xfee00000  LAPICs
 *   0xfffbd000  KVM's own TSS pages       0x100000000 RAM beyond 3 GiB
 */
#ifndef FORKD_ARCH_BOARD_H
#define FORKD_ARCH_BOARD_H

#include <stdbool.h>
#include <stdint.h>

enum { BOARD_VCPUS_MAX = 16, BOARD_DEVICES_MAX = 16 };

#define BOARD_GDT_GPA         UINT64_C(0x500)
#define BOARD_BOOT_PARAMS_GPA UINT64_C(0x7000)
#define BOARD_PAGE_TABLES_GPA UINT64_C(0x9000)
#define BOARD_CMDLINE_GPA     UINT64_C(0x20000)
#define BOARD_LOW_RAM_END     UINT64_C(0x9fc00)
#define BOARD_VMGENID_GPA     UINT64_C(0xdf000)
#define BOARD_ACPI_GPA        UINT64_C(0xe0000)
#define BOARD_ACPI_END        UINT64_C(0x100000)
#define BOARD_KERNEL_MIN      UINT64_C(0x100000)
#define BOARD_VIRTIO_GPA      UINT64_C(0xd0000000)
#define BOARD_VIRTIO_SIZE     UINT64_C(0x1000)
#define BOARD_IOAPIC_GPA      UINT64_C(0xfec00000)
#define BOARD_IOAPIC_SIZE     UINT64_C(0x1000)
#define BOARD_LAPIC_GPA       UINT64_C(0xfee00000)
#define BOARD_TSS_GPA         UINT64_C(0xfffbd000)

/* Interrupt lines, which are the pins of the IOAPIC: all edge-triggered, active high. */
enum {
    BOARD_SERIAL_GSI = 4,
    BOARD_GED_GSI = 5,    /* tells the guest that its VM generation id changed */
    BOARD_VIRTIO_GSI = 6, /* and one for each further device */
};

/* I/O ports. */
enum {
    BOARD_SERIAL_PORT = 0x3f8,
    BOARD_SERIAL_PORTS = 8,
    BOARD_RESET_PORT = 0x64, /* the FADT's reset register, and what `reboot=k` writes */
    BOARD_RESET_VALUE = 0xfe,
    BOARD_SLEEP_CONTROL_PORT = 0x606, /* ACPI 6.4, 4.8.3.7: poweroff writes SLP_EN and the type of S5 */
    BOARD_SLEEP_STATUS_PORT = 0x607,
    BOARD_SLEEP_S5 = 5,
    BOARD_SLEEP_ENABLE = 1 << 5,
};

struct board_device {
    uint64_t gpa;
    uint32_t size; /* bytes */
    uint32_t gsi;
};

struct board {
    unsigned vcpus; /* 1 to BOARD_VCPUS_MAX, APIC IDs from 0 */
    bool serial;    /* COM1 */
    bool vmgenid;   /* VM generation id, and the event device that announces its change */
    unsigned ndevices;
    struct board_device devices[BOARD_DEVICES_MAX]; /* virtio-mmio */
};

/* Where the virtio device in slot `n` sits. */
static inline struct board_device board_virtio(unsigned n)
{
    return (struct board_device){
        .gpa = BOARD_VIRTIO_GPA + n * BOARD_VIRTIO_SIZE, .size = BOARD_VIRTIO_SIZE, .gsi = BOARD_VIRTIO_GSI + n};
}

/* The guest asked to be switched off: a write of `value` to the sleep control register. */
static inline bool board_is_poweroff(uint8_t value)
{
    return (value & BOARD_SLEEP_ENABLE) && ((value >> 2) & 7) == BOARD_SLEEP_S5;
}

#endif
