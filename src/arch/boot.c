/* boot.c: see boot.h. Offsets and fields: Documentation/arch/x86/boot.rst.
 *
 * SECCOMP: pread64 - a parent loads its kernel and initrd */
#include "arch/boot.h"

#include "arch/acpi.h"
#include "arch/msr.h"
#include "base/io.h"

#include <asm/bootparam.h>
#include <elf.h>
#include <errno.h>
#include <linux/kvm.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>

enum {
    HEADER_AT = 0x1f1, /* the setup header in a bzImage and in boot_params */
    SECTOR = 512,
    BOOT_FLAG = 0xaa55,
    HEADER_MAGIC = 0x53726448, /* "HdrS" */
    PROTOCOL_MIN = 0x20c,      /* 2.12: xloadflags */
    ENTRY_64 = 0x200,          /* from the start of the protected mode kernel */
    LOADER_UNDEFINED = 0xff,
    ELF_HEADERS_MAX = 64,
    READ_CHUNK = 8 << 20,

    E820_RAM = 1,
    E820_RESERVED = 2,
    E820_ACPI = 3,

    BOOT_CS = 0x10,
    BOOT_DS = 0x18,
    BOOT_TR = 0x20,
};

/* vmlinux has no header to say how high an initrd may lie; this is what every bzImage says. */
#define INITRD_MAX_DEFAULT UINT64_C(0x7fffffff)

struct file {
    int fd;
    const char *path;
    uint64_t size;
};

/* What loading the kernel found out. */
struct kernel {
    uint64_t entry;
    uint64_t end;        /* the first byte beyond all it needs before it has a memory map of its own */
    uint64_t initrd_max; /* the highest byte an initrd may take */
    uint32_t cmdline_max;
    struct setup_header header;
};

static int file_stat(struct file *file, int fd, const char *path, struct err *err)
{
    struct stat st;
    if (fstat(fd, &st) < 0)
        return err_set(err, errno, "%s", path);
    if (!S_ISREG(st.st_mode))
        return err_say(err, EINVAL, "%s is not a regular file", path);
    if (st.st_size == 0)
        return err_say(err, EINVAL, "%s is empty", path);
    *file = (struct file){.fd = fd, .path = path, .size = (uint64_t)st.st_size};
    return 0;
}

static int file_read(const struct file *file, void *into, size_t len, uint64_t at, const char *what, struct err *err)
{
    if (at > file->size || len > file->size - at)
        return err_say(err, EINVAL, "%s is cut short: it ends at byte %llu, within its %s", file->path,
                       (unsigned long long)file->size, what);
    struct err cause = {0};
    if (io_pread_all(file->fd, into, len, at, &cause) < 0)
        return err_say(err, cause.code, "read %s: %s", file->path, cause.text);
    return 0;
}

/* A piece of a file into guest memory, where the caller found room for it. */
static int file_load(const struct file *file, uint64_t at, uint64_t len, struct gmem *gmem, uint64_t gpa,
                     const char *what, struct err *err)
{
    for (uint64_t done = 0; done < len;) {
        uint64_t part = len - done < READ_CHUNK ? len - done : READ_CHUNK;
        void *into = gmem_dma(gmem, gpa + done, part);
        if (!into)
            return err_say(err, ENOMEM, "the %s of %s does not fit into guest memory at 0x%llx", what, file->path,
                           (unsigned long long)gpa);
        int rc = file_read(file, into, part, at + done, what, err);
        if (rc < 0)
            return rc;
        gmem_mark(gmem, gpa + done, part);
        done += part;
    }
    return 0;
}

/* The kernel's memory: above the boot's structures, below the hole. */
static int range_check(const struct gmem *gmem, const struct file *file, uint64_t gpa, uint64_t len, struct err *err)
{
    uint64_t end;
    if (__builtin_add_overflow(gpa, len, &end) || gpa < BOARD_KERNEL_MIN)
        return err_say(err, EINVAL, "%s wants to lie at 0x%llx, where a kernel cannot", file->path,
                       (unsigned long long)gpa);
    if (end > gmem->low)
        return err_say(err, EINVAL, "%s needs guest memory up to %llu MiB, there are %llu", file->path,
                       (unsigned long long)((end + (1 << 20) - 1) >> 20), (unsigned long long)(gmem->low >> 20));
    return 0;
}

static int segment_load(struct gmem *gmem, const struct file *file, const Elf64_Phdr *ph, struct kernel *kernel,
                        struct err *err)
{
    if (ph->p_type != PT_LOAD || ph->p_memsz == 0)
        return 0;
    if (ph->p_filesz > ph->p_memsz)
        return err_say(err, EINVAL, "%s has a segment of more bytes in the file than in memory", file->path);
    int rc = range_check(gmem, file, ph->p_paddr, ph->p_memsz, err);
    if (rc == 0)
        rc = file_load(file, ph->p_offset, ph->p_filesz, gmem, ph->p_paddr, "segments", err);
    if (ph->p_paddr + ph->p_memsz > kernel->end)
        kernel->end = ph->p_paddr + ph->p_memsz;
    return rc;
}

/* The entry of an ELF executable is a physical address in vmlinux and in our test guests alike. */
static int elf_load(struct gmem *gmem, const struct file *file, struct kernel *kernel, struct err *err)
{
    Elf64_Ehdr eh;
    Elf64_Phdr ph[ELF_HEADERS_MAX];
    int rc = file_read(file, &eh, sizeof eh, 0, "ELF header", err);
    if (rc < 0)
        return rc;
    if (eh.e_ident[EI_CLASS] != ELFCLASS64 || eh.e_ident[EI_DATA] != ELFDATA2LSB || eh.e_machine != EM_X86_64)
        return err_say(err, EINVAL, "%s is an ELF file, but not one for x86-64", file->path);
    if (eh.e_type != ET_EXEC)
        return err_say(err, EINVAL, "%s is an ELF file, but not an executable at a fixed address", file->path);
    if (eh.e_phentsize != sizeof ph[0] || eh.e_phnum == 0 || eh.e_phnum > ELF_HEADERS_MAX)
        return err_say(err, EINVAL, "%s has no program headers that can be used", file->path);
    rc = file_read(file, ph, eh.e_phnum * sizeof ph[0], eh.e_phoff, "program headers", err);
    for (unsigned i = 0; i < eh.e_phnum && rc == 0; i++)
        rc = segment_load(gmem, file, &ph[i], kernel, err);
    if (rc < 0)
        return rc;
    if (eh.e_entry < BOARD_KERNEL_MIN || eh.e_entry >= kernel->end)
        return err_say(err, EINVAL, "%s begins at 0x%llx, outside of what it loads", file->path,
                       (unsigned long long)eh.e_entry);
    kernel->entry = eh.e_entry;
    kernel->initrd_max = INITRD_MAX_DEFAULT;
    kernel->cmdline_max = BOOT_CMDLINE_MAX;
    kernel->header = (struct setup_header){.boot_flag = BOOT_FLAG, .header = HEADER_MAGIC, .kernel_alignment = 1 << 24};
    return 0;
}

static int bzimage_load(struct gmem *gmem, const struct file *file, struct kernel *kernel, struct err *err)
{
    struct setup_header *h = &kernel->header;
    int rc = file_read(file, h, sizeof *h, HEADER_AT, "setup header", err);
    if (rc < 0)
        return rc;
    if (h->version < PROTOCOL_MIN || !(h->xloadflags & XLF_KERNEL_64))
        return err_say(err, ENOTSUP, "%s is a Linux kernel without a 64-bit entry (boot protocol %u.%u)", file->path,
                       h->version >> 8, h->version & 0xff);
    uint64_t sectors = h->setup_sects ? h->setup_sects : 4, start = (sectors + 1) * SECTOR;
    uint64_t size = (uint64_t)h->syssize * 16, need = h->init_size > size ? h->init_size : size;
    if (size <= ENTRY_64)
        return err_say(err, EINVAL, "%s holds no kernel behind its setup", file->path);
    rc = range_check(gmem, file, h->pref_address, need, err);
    /* syssize counts paragraphs: the last one may end beyond the file. */
    if (rc == 0 && start < file->size && file->size - start < size && size - (file->size - start) < 16)
        size = file->size - start;
    if (rc == 0)
        rc = file_load(file, start, size, gmem, h->pref_address, "kernel", err);
    kernel->entry = h->pref_address + ENTRY_64;
    kernel->end = h->pref_address + need;
    kernel->initrd_max = h->initrd_addr_max;
    kernel->cmdline_max = h->cmdline_size < BOOT_CMDLINE_MAX ? h->cmdline_size : BOOT_CMDLINE_MAX;
    return rc;
}

static int kernel_load(struct gmem *gmem, const struct boot_config *config, struct kernel *kernel, struct err *err)
{
    struct file file = {0};
    unsigned char magic[SELFMAG];
    struct setup_header header;
    int rc = file_stat(&file, config->kernel_fd, config->kernel_path, err);
    if (rc < 0)
        return rc;
    *kernel = (struct kernel){0};
    if (file_read(&file, magic, sizeof magic, 0, "header", NULL) == 0 && memcmp(magic, ELFMAG, SELFMAG) == 0)
        return elf_load(gmem, &file, kernel, err);
    if (file_read(&file, &header, sizeof header, HEADER_AT, "header", NULL) == 0 && header.boot_flag == BOOT_FLAG &&
        header.header == HEADER_MAGIC)
        return bzimage_load(gmem, &file, kernel, err);
    return err_say(err, EINVAL, "%s is neither a bzImage nor a 64-bit ELF executable", file.path);
}

/* As high as it may be, out of the way of what the kernel unpacks itself into. */
static int initrd_load(struct gmem *gmem, const struct boot_config *config, const struct kernel *kernel,
                       struct setup_header *header, struct err *err)
{
    struct file file = {0};
    if (config->initrd_fd < 0)
        return 0;
    int rc = file_stat(&file, config->initrd_fd, config->initrd_path, err);
    if (rc < 0)
        return rc;
    uint64_t top = gmem->low;
    if (kernel->initrd_max < top)
        top = kernel->initrd_max + 1;
    top &= ~(uint64_t)(GMEM_PAGE - 1);
    uint64_t room = top > kernel->end ? top - kernel->end : 0;
    uint64_t gpa = (top - (file.size < top ? file.size : top)) & ~(uint64_t)(GMEM_PAGE - 1);
    if (file.size > room || gpa < kernel->end)
        return err_say(err, EINVAL, "%s of %llu MiB does not fit into guest memory: beside the kernel there are %llu",
                       file.path, (unsigned long long)((file.size + (1 << 20) - 1) >> 20),
                       (unsigned long long)(room >> 20));
    header->ramdisk_image = (uint32_t)gpa;
    header->ramdisk_size = (uint32_t)file.size;
    return file_load(&file, 0, file.size, gmem, gpa, "contents", err);
}

static int cmdline_load(struct gmem *gmem, const char *cmdline, const struct kernel *kernel,
                        struct setup_header *header, struct err *err)
{
    size_t len = strlen(cmdline);
    if (len > kernel->cmdline_max)
        return err_say(err, E2BIG, "the kernel's command line has %zu characters: at most %u", len,
                       kernel->cmdline_max);
    if (!gmem_write(gmem, BOARD_CMDLINE_GPA, cmdline, len + 1))
        return err_say(err, EINVAL, "guest memory ends below the command line");
    header->cmd_line_ptr = (uint32_t)BOARD_CMDLINE_GPA;
    header->cmdline_size = (uint32_t)len + 1;
    return 0;
}

static void e820_add(struct boot_params *params, uint64_t from, uint64_t to, uint32_t type)
{
    if (to > from)
        params->e820_table[params->e820_entries++] =
            (struct boot_e820_entry){.addr = from, .size = to - from, .type = type};
}

static void memory_map(const struct gmem *gmem, struct boot_params *params)
{
    e820_add(params, 0, BOARD_LOW_RAM_END, E820_RAM);
    e820_add(params, BOARD_VMGENID_GPA, BOARD_VMGENID_GPA + GMEM_PAGE, E820_RESERVED);
    e820_add(params, BOARD_ACPI_GPA, BOARD_ACPI_END, E820_ACPI);
    e820_add(params, BOARD_KERNEL_MIN, gmem->low, E820_RAM);
    e820_add(params, GMEM_HIGH_BASE, GMEM_HIGH_BASE + (gmem->size - gmem->low), E820_RAM);
}

/* The first 4 GiB mapped to themselves in pages of 2 MiB: PML4, one PDPT, four page directories. */
static bool page_tables_write(struct gmem *gmem)
{
    enum { ENTRIES = 512, DIRECTORIES = 4, TABLE = 3 /* present, writable */, PAGE_2M = 0x80 | TABLE };
    uint64_t table[ENTRIES] = {(BOARD_PAGE_TABLES_GPA + GMEM_PAGE) | TABLE};
    bool ok = gmem_write(gmem, BOARD_PAGE_TABLES_GPA, table, sizeof table);
    for (uint64_t i = 0; i < DIRECTORIES; i++)
        table[i] = (BOARD_PAGE_TABLES_GPA + (2 + i) * GMEM_PAGE) | TABLE;
    ok = ok && gmem_write(gmem, BOARD_PAGE_TABLES_GPA + GMEM_PAGE, table, sizeof table);
    for (uint64_t i = 0; i < DIRECTORIES; i++) {
        for (uint64_t k = 0; k < ENTRIES; k++)
            table[k] = (i * ENTRIES + k) << 21 | PAGE_2M;
        ok = ok && gmem_write(gmem, BOARD_PAGE_TABLES_GPA + (2 + i) * GMEM_PAGE, table, sizeof table);
    }
    return ok;
}

static const uint64_t gdt[] = {
    0,
    0,
    [BOOT_CS / 8] = 0x00af9b000000ffff, /* code, 64 bits */
    [BOOT_DS / 8] = 0x00cf93000000ffff, /* data */
    [BOOT_TR / 8] = 0x008f8b000000ffff, /* a busy TSS, which VMX wants to see */
    0,                                  /* its upper half */
};

int boot_load(struct gmem *gmem, const struct boot_config *config, struct boot_entry *entry, struct err *err)
{
    struct kernel kernel = {0};
    struct boot_params params = {0};
    uint64_t rsdp;
    int rc = acpi_build(gmem, config->board, &rsdp, err);
    if (rc == 0)
        rc = kernel_load(gmem, config, &kernel, err);
    if (rc < 0)
        return rc;
    params.hdr = kernel.header;
    rc = initrd_load(gmem, config, &kernel, &params.hdr, err);
    if (rc == 0)
        rc = cmdline_load(gmem, config->cmdline, &kernel, &params.hdr, err);
    if (rc < 0)
        return rc;
    params.hdr.type_of_loader = LOADER_UNDEFINED;
    params.hdr.loadflags |= LOADED_HIGH;
    params.acpi_rsdp_addr = rsdp;
    memory_map(gmem, &params);
    if (!page_tables_write(gmem) || !gmem_write(gmem, BOARD_GDT_GPA, gdt, sizeof gdt) ||
        !gmem_write(gmem, BOARD_BOOT_PARAMS_GPA, &params, sizeof params))
        return err_say(err, EINVAL, "guest memory ends below the boot's structures");
    *entry = (struct boot_entry){.rip = kernel.entry, .boot_params = BOARD_BOOT_PARAMS_GPA};
    return 0;
}

static void sregs_enter_long_mode(struct kvm_sregs *s)
{
    enum { TYPE_CODE = 11, TYPE_DATA = 3, TYPE_TSS = 11, CR4_PAE = 0x20, EFER_LME_LMA = 0x500 };
    const struct kvm_segment flat = {.limit = 0xffffffff, .present = 1, .s = 1, .g = 1};
    struct kvm_segment code = flat, data = flat, task = flat;
    code.type = TYPE_CODE;
    code.selector = BOOT_CS;
    code.l = 1;
    data.type = TYPE_DATA;
    data.selector = BOOT_DS;
    data.db = 1;
    task.type = TYPE_TSS;
    task.selector = BOOT_TR;
    task.s = 0;
    s->cs = code;
    s->ds = s->es = s->fs = s->gs = s->ss = data;
    s->tr = task;
    s->gdt = (struct kvm_dtable){.base = BOARD_GDT_GPA, .limit = sizeof gdt - 1};
    s->idt = (struct kvm_dtable){0};
    s->cr3 = BOARD_PAGE_TABLES_GPA;
    s->cr4 = CR4_PAE;
    s->cr0 = 0x80050033; /* PG, AM, WP, NE, ET, MP, PE */
    s->efer = EFER_LME_LMA;
}

/* Firmware leaves the MTRRs on and everything write-back; Linux switches PAT off where it finds them off. */
static int mtrr_enable(int vcpu_fd, struct err *err)
{
    enum { ENABLED = 1 << 11, WRITE_BACK = 6 };
    const struct msr_state msrs = {.nmsrs = 1, .entry = {{.index = MSR_MTRR_DEF_TYPE, .data = ENABLED | WRITE_BACK}}};
    return msr_state_set(vcpu_fd, &msrs, err);
}

int boot_vcpu_init(int vcpu_fd, const struct boot_entry *entry, struct err *err)
{
    struct kvm_sregs sregs;
    int rc = mtrr_enable(vcpu_fd, err);
    if (rc < 0 || !entry)
        return rc;
    if (ioctl(vcpu_fd, KVM_GET_SREGS, &sregs) < 0)
        return err_set(err, errno, "KVM_GET_SREGS");
    sregs_enter_long_mode(&sregs);
    if (ioctl(vcpu_fd, KVM_SET_SREGS, &sregs) < 0)
        return err_set(err, errno, "KVM_SET_SREGS");
    struct kvm_regs regs = {
        .rip = entry->rip, .rsi = entry->boot_params, .rsp = BOARD_PAGE_TABLES_GPA - 16, .rflags = 2};
    if (ioctl(vcpu_fd, KVM_SET_REGS, &regs) < 0)
        return err_set(err, errno, "KVM_SET_REGS");
    return 0;
}
