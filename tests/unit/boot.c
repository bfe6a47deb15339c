/* boot.c: claims about src/arch/boot.c: what a kernel finds in memory, and that files that lie are refused in words. */
#include "arch/boot.h"
#include "base/io.h"
#include "base/own.h"
#include "skip.h"

#include <asm/bootparam.h>
#include <elf.h>
#include <string.h>
#include <sys/mman.h>

enum { MIB = 1 << 20, HEADER_AT = 0x1f1, SETUP_SECTORS = 3, KERNEL_SIZE = 64 << 10 };

struct fixture {
    struct gmem gmem;
    void *base;
    struct board board;
    struct boot_config config;
    struct boot_entry entry;
    struct err err;
};

static void set_up(struct fixture *f, uint64_t ram)
{
    memset(f, 0, sizeof *f);
    f->base = mmap(NULL, ram, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    assert_ptr_not_equal(f->base, MAP_FAILED);
    assert_int_equal(gmem_init(&f->gmem, f->base, ram, &f->err), 0);
    f->board = (struct board){.vcpus = 1, .serial = true};
    f->config = (struct boot_config){.kernel_fd = -1,
                                     .kernel_path = "vmlinuz",
                                     .initrd_fd = -1,
                                     .initrd_path = "initrd.img",
                                     .cmdline = "quiet",
                                     .board = &f->board};
}

static void tear_down(struct fixture *f)
{
    munmap(f->base, f->gmem.size);
    gmem_destroy(&f->gmem);
    fd_close(&f->config.kernel_fd);
    fd_close(&f->config.initrd_fd);
}

static int file_of(const void *bytes, size_t len)
{
    struct err err = {0};
    int fd = memfd_create("file", MFD_CLOEXEC);
    assert_true(fd >= 0);
    assert_int_equal(io_pwrite_all(fd, bytes, len, 0, &err), 0);
    return fd;
}

static int load(struct fixture *f, const void *bytes, size_t len)
{
    fd_close(&f->config.kernel_fd);
    f->config.kernel_fd = file_of(bytes, len);
    return boot_load(&f->gmem, &f->config, &f->entry, &f->err);
}

/* --- a bzImage --- */

struct image {
    uint8_t bytes[(SETUP_SECTORS + 1) * 512 + KERNEL_SIZE];
};

static struct setup_header header_of(const struct image *image)
{
    struct setup_header h;
    memcpy(&h, image->bytes + HEADER_AT, sizeof h);
    return h;
}

static void header_put(struct image *image, struct setup_header h)
{
    memcpy(image->bytes + HEADER_AT, &h, sizeof h);
}

static struct image bzimage(void)
{
    struct image image;
    for (size_t i = 0; i < sizeof image.bytes; i++)
        image.bytes[i] = (uint8_t)(i * 7);
    header_put(&image, (struct setup_header){.setup_sects = SETUP_SECTORS,
                                             .syssize = KERNEL_SIZE / 16,
                                             .boot_flag = 0xaa55,
                                             .header = 0x53726448,
                                             .version = 0x20f,
                                             .xloadflags = XLF_KERNEL_64,
                                             .initrd_addr_max = 0x7fffffff,
                                             .cmdline_size = 2047,
                                             .pref_address = 16 * MIB,
                                             .relocatable_kernel = 1,
                                             .init_size = 4 * MIB});
    return image;
}

static void a_bzimage_lies_at_its_address_and_is_entered_at_its_64_bit_entry(void **state)
{
    struct fixture f;
    struct image image = bzimage();
    set_up(&f, 64 * MIB);
    assert_int_equal(load(&f, &image, sizeof image), 0);
    assert_int_equal(f.entry.rip, 16 * MIB + 0x200);
    assert_memory_equal(gmem_at(&f.gmem, 16 * MIB, KERNEL_SIZE), image.bytes + 4 * 512, KERNEL_SIZE);
    tear_down(&f);
}

static void boot_params_say_where_all_is(void **state)
{
    struct fixture f;
    struct image image = bzimage();
    uint8_t initrd[5000];
    memset(initrd, 0x5a, sizeof initrd);
    set_up(&f, 64 * MIB);
    f.config.initrd_fd = file_of(initrd, sizeof initrd);
    assert_int_equal(load(&f, &image, sizeof image), 0);
    const struct boot_params *bp = gmem_at(&f.gmem, f.entry.boot_params, sizeof *bp);
    assert_int_equal(bp->hdr.header, 0x53726448);
    assert_int_equal(bp->hdr.type_of_loader, 0xff);
    assert_int_equal(bp->hdr.ramdisk_size, sizeof initrd);
    assert_int_equal(bp->hdr.ramdisk_image, 64 * MIB - 8192);
    assert_memory_equal(gmem_at(&f.gmem, bp->hdr.ramdisk_image, sizeof initrd), initrd, sizeof initrd);
    assert_string_equal(gmem_at(&f.gmem, bp->hdr.cmd_line_ptr, 6), "quiet");
    assert_memory_equal(gmem_at(&f.gmem, bp->acpi_rsdp_addr, 8), "RSD PTR ", 8);
    tear_down(&f);
}

static const struct boot_e820_entry *e820_find(const struct boot_params *bp, uint64_t gpa)
{
    for (int i = 0; i < bp->e820_entries; i++) {
        const struct boot_e820_entry *e = &bp->e820_table[i];
        if (gpa >= e->addr && gpa - e->addr < e->size)
            return e;
    }
    return NULL;
}

static void the_memory_map_has_the_hole_and_keeps_the_tables(void **state)
{
    struct fixture f;
    struct image image = bzimage();
    set_up(&f, UINT64_C(5) << 30);
    assert_int_equal(load(&f, &image, sizeof image), 0);
    const struct boot_params *bp = gmem_at(&f.gmem, f.entry.boot_params, sizeof *bp);
    uint64_t ram = 0, last = 0;
    for (int i = 0; i < bp->e820_entries; i++) {
        assert_true(bp->e820_table[i].addr >= last); /* in order, none over another */
        last = bp->e820_table[i].addr + bp->e820_table[i].size;
        if (bp->e820_table[i].type == 1)
            ram += bp->e820_table[i].size;
    }
    assert_true(ram == (UINT64_C(5) << 30) - MIB + 0x9fc00);
    assert_null(e820_find(bp, GMEM_LOW_END));
    assert_null(e820_find(bp, GMEM_HIGH_BASE - 1));
    assert_int_equal(e820_find(bp, GMEM_HIGH_BASE)->size, UINT64_C(2) << 30);
    assert_int_not_equal(e820_find(bp, bp->acpi_rsdp_addr)->type, 1);
    assert_int_not_equal(e820_find(bp, BOARD_VMGENID_GPA)->type, 1);
    tear_down(&f);
}

static void the_boot_maps_the_first_4_gib_to_themselves(void **state)
{
    struct fixture f;
    struct image image = bzimage();
    set_up(&f, 64 * MIB);
    assert_int_equal(load(&f, &image, sizeof image), 0);
    for (uint64_t va = 0; va < UINT64_C(4) << 30; va += 2 * MIB) {
        uint64_t pml4e, pdpte, pde;
        assert_true(gmem_read(&f.gmem, BOARD_PAGE_TABLES_GPA, &pml4e, 8));
        assert_true(gmem_read(&f.gmem, (pml4e & ~0xfffull) + (va >> 30) * 8, &pdpte, 8));
        assert_true(gmem_read(&f.gmem, (pdpte & ~0xfffull) + (va >> 21 & 511) * 8, &pde, 8));
        assert_int_equal(pde, va | 0x83);
    }
    tear_down(&f);
}

static void all_that_is_written_is_marked(void **state)
{
    struct fixture f;
    struct image image = bzimage();
    uint8_t initrd[5000] = {1};
    uint64_t marks[64 * MIB / 4096 / 64] = {0};
    static const uint8_t zero[4096];
    set_up(&f, 64 * MIB);
    f.config.initrd_fd = file_of(initrd, sizeof initrd);
    assert_int_equal(load(&f, &image, sizeof image), 0);
    gmem_fetch_marks(&f.gmem, marks);
    for (uint64_t page = 0; page < gmem_pages(&f.gmem); page++) {
        bool marked = marks[page / 64] >> page % 64 & 1;
        if (!marked && memcmp(f.gmem.base + page * 4096, zero, 4096) != 0)
            fail_msg("page %llu was written and not marked", (unsigned long long)page);
    }
    tear_down(&f);
}

static void assert_refused(struct fixture *f, const struct image *image, const char *words)
{
    assert_true(load(f, image, sizeof *image) < 0);
    if (!strstr(f->err.text, words))
        fail_msg("expected '%s' in: %s", words, f->err.text);
}

static void a_bzimage_that_lies_is_refused_by_name(void **state)
{
    struct fixture f;
    struct image good = bzimage(), image = good;
    struct setup_header h;
    set_up(&f, 64 * MIB);
#define BAD(field, value, words)                                                                                       \
    do {                                                                                                               \
        image = good;                                                                                                  \
        h = header_of(&good);                                                                                          \
        h.field = (value);                                                                                             \
        header_put(&image, h);                                                                                         \
        assert_refused(&f, &image, words);                                                                             \
    } while (0)
    BAD(header, 0, "vmlinuz is neither a bzImage nor");
    BAD(boot_flag, 0, "vmlinuz is neither a bzImage nor");
    BAD(version, 0x20b, "vmlinuz is a Linux kernel without a 64-bit entry (boot protocol 2.11)");
    BAD(xloadflags, 0, "vmlinuz is a Linux kernel without a 64-bit entry");
    BAD(syssize, UINT32_MAX, "vmlinuz needs guest memory up to");
    BAD(syssize, 2 * KERNEL_SIZE / 16, "vmlinuz is cut short");
    BAD(syssize, 0, "vmlinuz holds no kernel behind its setup");
    BAD(setup_sects, 255, "vmlinuz is cut short");
    BAD(pref_address, 0, "vmlinuz wants to lie at 0x0, where a kernel cannot");
    BAD(pref_address, UINT64_MAX, "vmlinuz wants to lie at");
    BAD(pref_address, UINT64_MAX - 4 * MIB, "vmlinuz needs guest memory up to");
    BAD(init_size, UINT32_MAX, "vmlinuz needs guest memory up to");
    BAD(cmdline_size, 4, "command line has 5 characters: at most 4");
#undef BAD
    tear_down(&f);
}

static void a_kernel_cut_anywhere_is_refused(void **state)
{
    struct fixture f;
    struct image image = bzimage();
    set_up(&f, 64 * MIB);
    /* The last paragraph may be short: the size is counted in 16 bytes. */
    for (size_t len = 0; len + 16 <= sizeof image; len += len < 1024 ? 1 : 777)
        assert_true(load(&f, &image, len) < 0);
    tear_down(&f);
}

static void an_initrd_that_does_not_fit_is_refused_with_the_room_there_is(void **state)
{
    struct fixture f;
    struct image image = bzimage();
    set_up(&f, 32 * MIB);
    f.config.initrd_fd = memfd_create("initrd", MFD_CLOEXEC);
    assert_int_equal(ftruncate(f.config.initrd_fd, 13 * MIB), 0);
    assert_int_equal(load(&f, &image, sizeof image), -EINVAL);
    assert_string_equal(f.err.text,
                        "initrd.img of 13 MiB does not fit into guest memory: beside the kernel there are 12");
    assert_int_equal(ftruncate(f.config.initrd_fd, INT64_C(1) << 40), 0);
    assert_int_equal(load(&f, &image, sizeof image), -EINVAL);
    assert_int_equal(ftruncate(f.config.initrd_fd, 0), 0);
    assert_int_equal(load(&f, &image, sizeof image), -EINVAL);
    assert_string_equal(f.err.text, "initrd.img is empty");
    assert_int_equal(ftruncate(f.config.initrd_fd, 12 * MIB), 0);
    assert_int_equal(load(&f, &image, sizeof image), 0);
    tear_down(&f);
}

static void an_initrd_stays_below_what_the_kernel_reaches(void **state)
{
    struct fixture f;
    struct image image = bzimage();
    struct setup_header h = header_of(&image);
    h.initrd_addr_max = 48 * MIB - 1;
    header_put(&image, h);
    set_up(&f, 64 * MIB);
    f.config.initrd_fd = file_of("initrd", 6);
    assert_int_equal(load(&f, &image, sizeof image), 0);
    const struct boot_params *bp = gmem_at(&f.gmem, f.entry.boot_params, sizeof *bp);
    assert_int_equal(bp->hdr.ramdisk_image, 48 * MIB - 4096);
    tear_down(&f);
}

static void a_command_line_that_is_too_long_is_refused(void **state)
{
    struct fixture f;
    struct image image = bzimage();
    char line[BOOT_CMDLINE_MAX + 2];
    memset(line, 'x', sizeof line);
    line[BOOT_CMDLINE_MAX] = 0;
    set_up(&f, 64 * MIB);
    f.config.cmdline = line;
    assert_int_equal(load(&f, &image, sizeof image), 0);
    line[BOOT_CMDLINE_MAX] = 'x';
    line[BOOT_CMDLINE_MAX + 1] = 0;
    assert_int_equal(load(&f, &image, sizeof image), -E2BIG);
    assert_string_equal(f.err.text, "the kernel's command line has 2048 characters: at most 2047");
    tear_down(&f);
}

static void what_is_no_file_is_refused(void **state)
{
    struct fixture f;
    set_up(&f, 64 * MIB);
    assert_int_equal(load(&f, "", 0), -EINVAL);
    assert_string_equal(f.err.text, "vmlinuz is empty");
    assert_int_equal(load(&f, "#!/bin/sh\n", 10), -EINVAL);
    assert_string_equal(f.err.text, "vmlinuz is neither a bzImage nor a 64-bit ELF executable");
    fd_close(&f.config.kernel_fd);
    int pipes[2];
    assert_int_equal(pipe(pipes), 0);
    f.config.kernel_fd = pipes[0];
    assert_int_equal(boot_load(&f.gmem, &f.config, &f.entry, &f.err), -EINVAL);
    assert_string_equal(f.err.text, "vmlinuz is not a regular file");
    close(pipes[1]);
    tear_down(&f);
}

/* --- an ELF executable --- */

struct elf {
    Elf64_Ehdr eh;
    Elf64_Phdr ph[2];
    uint8_t text[256];
};

static struct elf elf_program(void)
{
    struct elf e = {
        .eh = {.e_ident = {0x7f, 'E', 'L', 'F', ELFCLASS64, ELFDATA2LSB, EV_CURRENT},
               .e_type = ET_EXEC,
               .e_machine = EM_X86_64,
               .e_version = EV_CURRENT,
               .e_entry = 2 * MIB + 16,
               .e_phoff = offsetof(struct elf, ph),
               .e_ehsize = sizeof(Elf64_Ehdr),
               .e_phentsize = sizeof(Elf64_Phdr),
               .e_phnum = 2},
        .ph = {{.p_type = PT_LOAD,
                .p_offset = offsetof(struct elf, text),
                .p_vaddr = 2 * MIB,
                .p_paddr = 2 * MIB,
                .p_filesz = sizeof e.text,
                .p_memsz = MIB},
               {.p_type = PT_NOTE, .p_offset = UINT64_MAX, .p_filesz = UINT64_MAX}},
    };
    memset(e.text, 0x90, sizeof e.text);
    return e;
}

static void an_elf_program_is_loaded_where_it_says(void **state)
{
    struct fixture f;
    struct elf e = elf_program();
    set_up(&f, 64 * MIB);
    assert_int_equal(load(&f, &e, sizeof e), 0);
    assert_int_equal(f.entry.rip, 2 * MIB + 16);
    assert_memory_equal(gmem_at(&f.gmem, 2 * MIB, sizeof e.text), e.text, sizeof e.text);
    const struct boot_params *bp = gmem_at(&f.gmem, f.entry.boot_params, sizeof *bp);
    assert_int_equal(bp->hdr.header, 0x53726448); /* Linux's vmlinux looks for it */
    tear_down(&f);
}

static void an_elf_program_that_lies_is_refused_by_name(void **state)
{
    struct fixture f;
    struct elf good = elf_program(), e;
    set_up(&f, 64 * MIB);
#define BAD(field, value, words)                                                                                       \
    do {                                                                                                               \
        e = good;                                                                                                      \
        e.field = (value);                                                                                             \
        assert_true(load(&f, &e, sizeof e) < 0);                                                                       \
        if (!strstr(f.err.text, words))                                                                                \
            fail_msg("expected '%s' in: %s", words, f.err.text);                                                       \
    } while (0)
    BAD(eh.e_machine, EM_AARCH64, "vmlinuz is an ELF file, but not one for x86-64");
    BAD(eh.e_ident[EI_CLASS], ELFCLASS32, "vmlinuz is an ELF file, but not one for x86-64");
    BAD(eh.e_type, ET_DYN, "not an executable at a fixed address");
    BAD(eh.e_phnum, 0, "no program headers");
    BAD(eh.e_phnum, UINT16_MAX, "no program headers");
    BAD(eh.e_phentsize, 1, "no program headers");
    BAD(eh.e_phoff, UINT64_MAX, "vmlinuz is cut short");
    BAD(eh.e_entry, 0, "vmlinuz begins at 0x0, outside of what it loads");
    BAD(eh.e_entry, UINT64_MAX, "outside of what it loads");
    BAD(ph[0].p_offset, UINT64_MAX, "vmlinuz is cut short");
    BAD(ph[0].p_filesz, MIB, "vmlinuz is cut short");
    BAD(ph[0].p_filesz, UINT64_MAX, "more bytes in the file than in memory");
    BAD(ph[0].p_memsz, UINT64_MAX, "vmlinuz wants to lie at");
    BAD(ph[0].p_memsz, 256 * MIB, "vmlinuz needs guest memory up to 258 MiB, there are 64");
    BAD(ph[0].p_paddr, 0x7000, "vmlinuz wants to lie at 0x7000, where a kernel cannot");
    BAD(ph[0].p_paddr, GMEM_HIGH_BASE, "vmlinuz needs guest memory up to");
#undef BAD
    tear_down(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_bzimage_lies_at_its_address_and_is_entered_at_its_64_bit_entry),
        cmocka_unit_test(boot_params_say_where_all_is),
        cmocka_unit_test(the_memory_map_has_the_hole_and_keeps_the_tables),
        cmocka_unit_test(the_boot_maps_the_first_4_gib_to_themselves),
        cmocka_unit_test(all_that_is_written_is_marked),
        cmocka_unit_test(a_bzimage_that_lies_is_refused_by_name),
        cmocka_unit_test(a_kernel_cut_anywhere_is_refused),
        cmocka_unit_test(an_initrd_that_does_not_fit_is_refused_with_the_room_there_is),
        cmocka_unit_test(an_initrd_stays_below_what_the_kernel_reaches),
        cmocka_unit_test(a_command_line_that_is_too_long_is_refused),
        cmocka_unit_test(what_is_no_file_is_refused),
        cmocka_unit_test(an_elf_program_is_loaded_where_it_says),
        cmocka_unit_test(an_elf_program_that_lies_is_refused_by_name),
    };
    return cmocka_run_group_tests_name("boot", tests, NULL, NULL);
}
