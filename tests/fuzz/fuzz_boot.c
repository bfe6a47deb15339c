/* fuzz_boot.c: whatever a kernel file holds, it is refused in words or lies within the memory it may use.
 *
 * Guest memory ends at a page that nobody may touch. A kernel that is accepted leaves the boot's structures and the
 * ACPI tables as they would be without it, and begins inside RAM. The first byte chooses the size of memory, and what
 * the rest is: a kernel file, the initrd of a good kernel, or changes to a good kernel (two bytes say where, the
 * third what). */
#include "arch/boot.h"

#include <asm/bootparam.h>
#include <elf.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { MIB = 1 << 20 };

static int file_of(int *fd, const uint8_t *data, size_t size)
{
    if (*fd < 0)
        *fd = memfd_create("file", MFD_CLOEXEC);
    if (ftruncate(*fd, 0) < 0 || pwrite(*fd, data, size, 0) != (ssize_t)size)
        abort();
    return *fd;
}

static void check_loaded(const struct gmem *gmem, const struct boot_entry *entry, const struct boot_config *config)
{
    struct boot_params bp;
    if (entry->rip < BOARD_KERNEL_MIN || entry->rip >= gmem->low ||
        !gmem_read(gmem, entry->boot_params, &bp, sizeof bp))
        abort();
    uint64_t pml4e;
    if (!gmem_read(gmem, BOARD_PAGE_TABLES_GPA, &pml4e, sizeof pml4e) || pml4e != ((BOARD_PAGE_TABLES_GPA + 4096) | 3))
        abort();
    const char *cmdline = gmem_at(gmem, BOARD_CMDLINE_GPA, sizeof "quiet"), *rsdp = gmem_at(gmem, BOARD_ACPI_GPA, 8);
    if (strcmp(cmdline, config->cmdline) != 0 || memcmp(rsdp, "RSD PTR ", 8) != 0)
        abort();
    if (config->initrd_fd >= 0 &&
        (bp.hdr.ramdisk_image < BOARD_KERNEL_MIN || (uint64_t)bp.hdr.ramdisk_image + bp.hdr.ramdisk_size > gmem->low))
        abort();
}

/* Zeroed, and in front of the fence. */
static uint8_t *memory(uint64_t ram)
{
    enum { MEMORY_MAX = 33 * MIB };
    static uint8_t *map;
    if (!map) {
        map = mmap(NULL, MEMORY_MAX + GMEM_PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (map == MAP_FAILED || mprotect(map + MEMORY_MAX, GMEM_PAGE, PROT_NONE) < 0)
            abort();
    }
    if (madvise(map, MEMORY_MAX, MADV_DONTNEED) < 0)
        abort();
    return map + MEMORY_MAX - ram;
}

enum { GOOD_SIZE = 2048 };

/* The smallest bzImage there is. */
static void good_bzimage(uint8_t bytes[GOOD_SIZE])
{
    const struct setup_header h = {.setup_sects = 1,
                                   .syssize = 64,
                                   .boot_flag = 0xaa55,
                                   .header = 0x53726448,
                                   .version = 0x20f,
                                   .xloadflags = XLF_KERNEL_64,
                                   .initrd_addr_max = 0x7fffffff,
                                   .cmdline_size = 2047,
                                   .pref_address = MIB,
                                   .init_size = MIB};
    memset(bytes, 0, GOOD_SIZE);
    memcpy(bytes + 0x1f1, &h, sizeof h);
}

static void good_elf(uint8_t bytes[GOOD_SIZE])
{
    const Elf64_Ehdr eh = {.e_ident = {0x7f, 'E', 'L', 'F', ELFCLASS64, ELFDATA2LSB, EV_CURRENT},
                           .e_type = ET_EXEC,
                           .e_machine = EM_X86_64,
                           .e_entry = MIB,
                           .e_phoff = sizeof eh,
                           .e_phentsize = sizeof(Elf64_Phdr),
                           .e_phnum = 2};
    const Elf64_Phdr ph[2] = {
        {.p_type = PT_LOAD, .p_offset = 512, .p_paddr = MIB, .p_filesz = 512, .p_memsz = 4096},
        {.p_type = PT_LOAD, .p_offset = 1024, .p_paddr = MIB + 4096, .p_filesz = 1024, .p_memsz = 8192}};
    memset(bytes, 0, GOOD_SIZE);
    memcpy(bytes, &eh, sizeof eh);
    memcpy(bytes + sizeof eh, ph, sizeof ph);
}

enum what { KERNEL, INITRD, CHANGED_BZIMAGE, CHANGED_ELF };

static int kernel_file(int *fd, enum what what, const uint8_t *data, size_t size)
{
    uint8_t good[GOOD_SIZE];
    if (what == KERNEL)
        return file_of(fd, data, size);
    if (what == CHANGED_ELF)
        good_elf(good);
    else
        good_bzimage(good);
    for (; what != INITRD && size >= 3; data += 3, size -= 3)
        good[(data[0] | data[1] << 8) % GOOD_SIZE] = data[2];
    return file_of(fd, good, sizeof good);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static int kernel_fd = -1, initrd_fd = -1;
    if (!size)
        return 0;
    uint64_t ram = (uint64_t)(2 + (data[0] & 31)) * MIB;
    enum what what = data[0] >> 6;
    uint8_t *base = memory(ram);
    struct gmem gmem;
    struct err err = {0};
    struct boot_entry entry;
    const struct board board = {.vcpus = 1, .serial = true};
    if (gmem_init(&gmem, base, ram, &err) < 0)
        abort();
    const struct boot_config config = {.kernel_fd = kernel_file(&kernel_fd, what, data + 1, size - 1),
                                       .kernel_path = "kernel",
                                       .initrd_fd = what == INITRD ? file_of(&initrd_fd, data + 1, size - 1) : -1,
                                       .initrd_path = "initrd",
                                       .cmdline = "quiet",
                                       .board = &board};
    int rc = boot_load(&gmem, &config, &entry, &err);
    if (rc == 0)
        check_loaded(&gmem, &entry, &config);
    else if (!err.text[0])
        abort();
    gmem_destroy(&gmem);
    return 0;
}
