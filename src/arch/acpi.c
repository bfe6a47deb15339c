/* acpi.c: see acpi.h. Section numbers are those of ACPI 6.4. */
#include "arch/acpi.h"

#include "arch/aml.h"
#include "base/pack.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

enum {
    TABLES_MAX = 16 << 10,
    HEADER_LEN = 36,
    CHECKSUM_AT = 9,
    RSDP_LEN = 36,
    RSDP_FIRST_LEN = 20, /* the part of ACPI 1.0, with a checksum of its own */
    FADT_LEN = 276,
};

static_assert(BOARD_ACPI_GPA + TABLES_MAX <= BOARD_ACPI_END, "the tables stay below 1 MiB");

static uint8_t checksum(const uint8_t *bytes, size_t len)
{
    uint8_t sum = 0;
    for (size_t i = 0; i < len; i++)
        sum = (uint8_t)(sum + bytes[i]);
    return (uint8_t)-sum;
}

static void zeros(struct pack *p, size_t len)
{
    while (len--)
        pack_u8(p, 0);
}

static uint64_t gpa_here(const struct pack *p)
{
    return BOARD_ACPI_GPA + p->len;
}

/* Tables begin on 16 bytes; returns where this one does. */
static size_t table_open(struct pack *p, const char *signature, uint8_t revision)
{
    zeros(p, -p->len & 15);
    size_t at = p->len;
    pack_bytes(p, signature, 4);
    pack_u32(p, 0); /* length, when closed */
    pack_u8(p, revision);
    pack_u8(p, 0); /* checksum, when closed */
    pack_bytes(p, "FORKD ", 6);
    pack_bytes(p, "FORKDVM ", 8);
    pack_u32(p, 1);
    pack_bytes(p, "FRKD", 4);
    pack_u32(p, 1);
    return at;
}

static void table_close(struct pack *p, size_t at)
{
    if (p->full)
        return;
    uint32_t len = (uint32_t)(p->len - at);
    struct pack length = pack_into(p->buf + at + 4, 4);
    pack_u32(&length, len);
    p->buf[at + CHECKSUM_AT] = checksum(p->buf + at, len);
}

/* 5.2.3.2: a register of one byte in I/O space. */
static void register_write(struct pack *p, uint16_t port)
{
    enum { SPACE_IO = 1, ACCESS_BYTE = 1 };
    pack_u8(p, SPACE_IO);
    pack_u8(p, 8);
    pack_u8(p, 0);
    pack_u8(p, ACCESS_BYTE);
    pack_u64(p, port);
}

/* Table 5.9. Fields not named here are those of hardware that a reduced board has not. */
static void fadt_write(struct pack *p, uint64_t dsdt)
{
    enum {
        BOOT_NO_VGA = 1 << 2,
        BOOT_NO_RTC = 1 << 5,
        FLAG_WBINVD = 1 << 0,
        FLAG_NO_POWER_BUTTON = 1 << 4,
        FLAG_NO_SLEEP_BUTTON = 1 << 5,
        FLAG_RESET_REGISTER = 1 << 10,
        FLAG_HW_REDUCED = 1 << 20,
        REVISION = 6,
        MINOR_REVISION = 4,
    };
    size_t at = table_open(p, "FACP", REVISION);
    zeros(p, 109 - HEADER_LEN);
    pack_u16(p, BOOT_NO_VGA | BOOT_NO_RTC);
    pack_u8(p, 0);
    pack_u32(p, FLAG_WBINVD | FLAG_NO_POWER_BUTTON | FLAG_NO_SLEEP_BUTTON | FLAG_RESET_REGISTER | FLAG_HW_REDUCED);
    register_write(p, BOARD_RESET_PORT);
    pack_u8(p, BOARD_RESET_VALUE);
    pack_u16(p, 0); /* ARM boot flags */
    pack_u8(p, MINOR_REVISION);
    pack_u64(p, 0); /* no FACS */
    pack_u64(p, dsdt);
    zeros(p, 244 - 148);
    register_write(p, BOARD_SLEEP_CONTROL_PORT);
    register_write(p, BOARD_SLEEP_STATUS_PORT);
    pack_bytes(p, "FORKD\0\0", 8);
    table_close(p, at);
}

/* 5.2.12: no 8259s; a LAPIC for each vCPU, and the IOAPIC. */
static void madt_write(struct pack *p, unsigned vcpus)
{
    enum { REVISION = 5, LOCAL_APIC = 0, IO_APIC = 1, ENABLED = 1 };
    size_t at = table_open(p, "APIC", REVISION);
    pack_u32(p, (uint32_t)BOARD_LAPIC_GPA);
    pack_u32(p, 0);
    for (unsigned i = 0; i < vcpus; i++) {
        const uint8_t head[] = {LOCAL_APIC, 8, (uint8_t)i, (uint8_t)i};
        pack_bytes(p, head, sizeof head);
        pack_u32(p, ENABLED);
    }
    const uint8_t head[] = {IO_APIC, 12, 0, 0};
    pack_bytes(p, head, sizeof head);
    pack_u32(p, (uint32_t)BOARD_IOAPIC_GPA);
    pack_u32(p, 0); /* its first GSI */
    table_close(p, at);
}

static aml_mark device_open(struct pack *p, char letter, unsigned n, const char *hid)
{
    char name[16];
    snprintf(name, sizeof name, "%c%03u", letter, n);
    aml_mark mark = aml_device_open(p, name);
    aml_name(p, "_HID");
    aml_string(p, hid);
    aml_name(p, "_UID");
    aml_integer(p, n);
    return mark;
}

static void processors_write(struct pack *p, unsigned vcpus)
{
    for (unsigned i = 0; i < vcpus; i++)
        aml_close(p, device_open(p, 'C', i, "ACPI0007"));
}

static void serial_write(struct pack *p)
{
    aml_mark device = aml_device_open(p, "COM1");
    aml_name(p, "_HID");
    aml_eisa_id(p, "PNP0501");
    aml_name(p, "_UID");
    aml_integer(p, 0);
    struct aml_resources crs = aml_resources_open(p);
    aml_resource_io(p, BOARD_SERIAL_PORT, BOARD_SERIAL_PORTS);
    aml_resource_interrupt(p, BOARD_SERIAL_GSI);
    aml_resources_close(p, crs);
    aml_close(p, device);
}

static void virtio_write(struct pack *p, unsigned n, const struct board_device *dev)
{
    aml_mark device = device_open(p, 'V', n, "LNRO0005");
    aml_name(p, "_CCA");
    aml_integer(p, 1);
    struct aml_resources crs = aml_resources_open(p);
    aml_resource_memory(p, (uint32_t)dev->gpa, dev->size);
    aml_resource_interrupt(p, dev->gsi);
    aml_resources_close(p, crs);
    aml_close(p, device);
}

/* The generation id (Microsoft's "Virtual Machine Generation ID", 2012; Linux's driver binds to VMGENCTR),
 * and the generic event device (5.6.9) that announces its change: there is no SCI on a reduced board. */
static void vmgenid_write(struct pack *p)
{
    enum { CHANGED = 0x80 };
    aml_mark device = aml_device_open(p, "VGEN");
    aml_name(p, "_HID");
    aml_string(p, "FRKD0001");
    aml_name(p, "_CID");
    aml_string(p, "VMGENCTR");
    aml_name(p, "_DDN");
    aml_string(p, "VM_Gen_Counter");
    aml_name(p, "ADDR");
    aml_mark address = aml_package_open(p, 2);
    aml_integer(p, BOARD_VMGENID_GPA & UINT32_MAX);
    aml_integer(p, BOARD_VMGENID_GPA >> 32);
    aml_close(p, address);
    aml_close(p, device);

    aml_mark ged = aml_device_open(p, "GED_");
    aml_name(p, "_HID");
    aml_string(p, "ACPI0013");
    aml_name(p, "_UID");
    aml_integer(p, 0);
    struct aml_resources crs = aml_resources_open(p);
    aml_resource_interrupt(p, BOARD_GED_GSI);
    aml_resources_close(p, crs);
    aml_mark method = aml_method_open(p, "_EVT", 1);
    aml_mark same = aml_if_arg0_equals_open(p, BOARD_GED_GSI);
    aml_notify(p, "VGEN", CHANGED);
    aml_close(p, same);
    aml_close(p, method);
    aml_close(p, ged);
}

static void dsdt_write(struct pack *p, const struct board *board)
{
    enum { REVISION = 2 }; /* integers of 64 bits */
    size_t at = table_open(p, "DSDT", REVISION);
    aml_name(p, "_S5_");
    aml_mark s5 = aml_package_open(p, 4);
    aml_integer(p, BOARD_SLEEP_S5);
    for (int i = 0; i < 3; i++)
        aml_integer(p, 0);
    aml_close(p, s5);
    aml_mark system = aml_scope_open(p, "_SB_");
    processors_write(p, board->vcpus);
    if (board->serial)
        serial_write(p);
    if (board->vmgenid)
        vmgenid_write(p);
    for (unsigned i = 0; i < board->ndevices; i++)
        virtio_write(p, i, &board->devices[i]);
    aml_close(p, system);
    table_close(p, at);
}

/* 5.2.5.3 */
static void rsdp_write(uint8_t *at, uint64_t xsdt)
{
    struct pack p = pack_into(at, RSDP_LEN);
    pack_bytes(&p, "RSD PTR ", 8);
    pack_u8(&p, 0);
    pack_bytes(&p, "FORKD ", 6);
    pack_u8(&p, 2);
    pack_u32(&p, 0); /* no RSDT */
    pack_u32(&p, RSDP_LEN);
    pack_u64(&p, xsdt);
    pack_u32(&p, 0);
    at[8] = checksum(at, RSDP_FIRST_LEN);
    at[32] = checksum(at, RSDP_LEN);
}

static int board_check(const struct board *board, struct err *err)
{
    if (board->vcpus < 1 || board->vcpus > BOARD_VCPUS_MAX)
        return err_say(err, EINVAL, "%u vCPUs: between 1 and %d", board->vcpus, BOARD_VCPUS_MAX);
    if (board->ndevices > BOARD_DEVICES_MAX)
        return err_say(err, EINVAL, "%u devices: at most %d", board->ndevices, BOARD_DEVICES_MAX);
    return 0;
}

int acpi_build(struct gmem *gmem, const struct board *board, uint64_t *rsdp, struct err *err)
{
    int rc = board_check(board, err);
    if (rc < 0)
        return rc;
    uint8_t tables[TABLES_MAX];
    struct pack p = pack_into(tables, sizeof tables);
    zeros(&p, (RSDP_LEN + 15) & ~15);
    uint64_t dsdt = gpa_here(&p);
    dsdt_write(&p, board);
    zeros(&p, -p.len & 15);
    uint64_t fadt = gpa_here(&p);
    fadt_write(&p, dsdt);
    zeros(&p, -p.len & 15);
    uint64_t madt = gpa_here(&p);
    madt_write(&p, board->vcpus);
    zeros(&p, -p.len & 15);
    uint64_t xsdt = gpa_here(&p);
    size_t at = table_open(&p, "XSDT", 1);
    pack_u64(&p, fadt);
    pack_u64(&p, madt);
    table_close(&p, at);
    rsdp_write(tables, xsdt);
    if (p.full)
        return err_say(err, E2BIG, "the ACPI tables of the board are too long");
    if (!gmem_write(gmem, BOARD_ACPI_GPA, tables, p.len))
        return err_say(err, EINVAL, "guest memory ends below the ACPI tables");
    *rsdp = BOARD_ACPI_GPA;
    return 0;
}
