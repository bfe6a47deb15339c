/* acpi.c: claims about src/arch/acpi.c and aml.c: tables that check out, and a DSDT that says what the board has. */
#include "arch/acpi.h"
#include "arch/aml.h"
#include "base/io.h"
#include "base/own.h"
#include "skip.h"

#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>

enum { RAM = 2 << 20 };

struct fixture {
    struct gmem gmem;
    void *base;
    struct board board;
    uint64_t rsdp;
};

static void set_up(struct fixture *f, unsigned vcpus, unsigned devices)
{
    struct err err = {0};
    memset(f, 0, sizeof *f);
    f->base = mmap(NULL, RAM, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert_ptr_not_equal(f->base, MAP_FAILED);
    assert_int_equal(gmem_init(&f->gmem, f->base, RAM, &err), 0);
    f->board = (struct board){.vcpus = vcpus, .serial = true, .vmgenid = true, .ndevices = devices};
    for (unsigned i = 0; i < devices && i < BOARD_DEVICES_MAX; i++)
        f->board.devices[i] = board_virtio(i);
}

static void build(struct fixture *f)
{
    struct err err = {0};
    assert_int_equal(acpi_build(&f->gmem, &f->board, &f->rsdp, &err), 0);
}

static void tear_down(struct fixture *f)
{
    gmem_destroy(&f->gmem);
    munmap(f->base, RAM);
}

static const uint8_t *at(const struct fixture *f, uint64_t gpa, uint64_t len)
{
    assert_true(gpa >= BOARD_ACPI_GPA && gpa + len <= BOARD_ACPI_END);
    return gmem_at(&f->gmem, gpa, len);
}

static uint32_t u32(const uint8_t *p)
{
    uint32_t v;
    memcpy(&v, p, sizeof v);
    return v;
}

static uint64_t u64(const uint8_t *p)
{
    uint64_t v;
    memcpy(&v, p, sizeof v);
    return v;
}

static uint8_t sum(const uint8_t *p, size_t len)
{
    uint8_t s = 0;
    while (len--)
        s = (uint8_t)(s + *p++);
    return s;
}

/* A table, with what every table must have checked. */
static const uint8_t *table(const struct fixture *f, uint64_t gpa, const char *signature)
{
    const uint8_t *t = at(f, gpa, 36);
    assert_memory_equal(t, signature, 4);
    uint32_t len = u32(t + 4);
    assert_true(len >= 36);
    assert_int_equal(sum(at(f, gpa, len), len), 0);
    return t;
}

struct tables {
    const uint8_t *fadt, *madt, *dsdt;
};

static struct tables walk(const struct fixture *f)
{
    const uint8_t *rsdp = at(f, f->rsdp, 36);
    assert_memory_equal(rsdp, "RSD PTR ", 8);
    assert_int_equal(sum(rsdp, 20), 0);
    assert_int_equal(sum(rsdp, 36), 0);
    assert_int_equal(f->rsdp % 16, 0);
    const uint8_t *xsdt = table(f, u64(rsdp + 24), "XSDT");
    assert_int_equal(u32(xsdt + 4), 36 + 2 * 8);
    struct tables t = {.fadt = table(f, u64(xsdt + 36), "FACP"), .madt = table(f, u64(xsdt + 44), "APIC")};
    t.dsdt = table(f, u64(t.fadt + 140), "DSDT");
    return t;
}

/* A piece of bytecode somewhere in the DSDT. */
static bool has(const struct tables *t, const void *bytes, size_t len)
{
    return memmem(t->dsdt, u32(t->dsdt + 4), bytes, len) != NULL;
}

static void the_tables_lead_from_one_to_the_other_and_add_up(void **state)
{
    struct fixture f;
    for (unsigned n = 1; n <= 16; n += 5) {
        set_up(&f, n, n);
        build(&f);
        walk(&f);
        tear_down(&f);
    }
}

static void the_board_is_hardware_reduced_and_can_be_switched_off(void **state)
{
    struct fixture f;
    set_up(&f, 1, 0);
    build(&f);
    const uint8_t *fadt = walk(&f).fadt;
    assert_int_equal(u32(fadt + 4), 276);
    assert_int_equal(fadt[8], 6);
    assert_true(u32(fadt + 112) & 1 << 20); /* HW_REDUCED_ACPI */
    assert_true(u32(fadt + 112) & 1 << 10); /* RESET_REG_SUP */
    assert_int_equal(fadt[116], 1);         /* in I/O space */
    assert_true(u64(fadt + 120) == BOARD_RESET_PORT);
    assert_int_equal(fadt[128], BOARD_RESET_VALUE);
    assert_true(u64(fadt + 248) == BOARD_SLEEP_CONTROL_PORT);
    assert_true(u64(fadt + 260) == BOARD_SLEEP_STATUS_PORT);
    assert_true(board_is_poweroff(BOARD_SLEEP_S5 << 2 | BOARD_SLEEP_ENABLE));
    assert_false(board_is_poweroff(BOARD_SLEEP_S5 << 2));
    assert_false(board_is_poweroff(BOARD_SLEEP_ENABLE));
    tear_down(&f);
}

static void the_madt_has_every_cpu_and_the_ioapic(void **state)
{
    struct fixture f;
    set_up(&f, 16, 0);
    build(&f);
    const uint8_t *madt = walk(&f).madt, *e = madt + 44, *end = madt + u32(madt + 4);
    assert_int_equal(u32(madt + 36), 0xfee00000);
    assert_int_equal(u32(madt + 40), 0); /* no 8259s */
    unsigned cpus = 0, ioapics = 0;
    for (; e < end; e += e[1]) {
        assert_true(e[1] >= 8);
        if (e[0] == 0) {
            assert_int_equal(e[2], cpus);
            assert_int_equal(e[3], cpus);
            assert_int_equal(u32(e + 4), 1);
            cpus++;
        } else {
            assert_int_equal(e[0], 1);
            assert_int_equal(u32(e + 4), 0xfec00000);
            assert_int_equal(u32(e + 8), 0);
            ioapics++;
        }
    }
    assert_ptr_equal(e, end);
    assert_int_equal(cpus, 16);
    assert_int_equal(ioapics, 1);
    tear_down(&f);
}

static void the_dsdt_has_the_devices_of_the_board_and_no_others(void **state)
{
    struct fixture f;
    set_up(&f, 2, 3);
    build(&f);
    struct tables t = walk(&f);
    for (unsigned i = 0; i < BOARD_DEVICES_MAX; i++) {
        uint8_t memory[12] = {0x86, 9, 0, 1}, line[9] = {0x89, 6, 0, 3, 1, (uint8_t)(BOARD_VIRTIO_GSI + i)};
        uint32_t base = 0xd0000000 + i * 0x1000, size = 0x1000;
        memcpy(memory + 4, &base, 4);
        memcpy(memory + 8, &size, 4);
        assert_int_equal(has(&t, memory, sizeof memory), i < 3);
        assert_int_equal(has(&t, line, sizeof line), i < 3);
    }
    assert_true(has(&t, "C001", 4));
    assert_false(has(&t, "C002", 4));
    assert_true(has(&t, "VMGENCTR", 8));
    assert_true(has(&t, "ACPI0013", 8));
    static const uint8_t com1[] = {0x0c, 0x41, 0xd0, 0x05, 0x01}; /* EisaId ("PNP0501") */
    assert_true(has(&t, com1, sizeof com1));
    f.board.serial = f.board.vmgenid = false;
    build(&f);
    t = walk(&f);
    assert_false(has(&t, com1, sizeof com1));
    assert_false(has(&t, "VMGENCTR", 8));
    tear_down(&f);
}

static void a_board_that_cannot_be_is_refused(void **state)
{
    struct fixture f;
    struct err err = {0};
    set_up(&f, 17, 0);
    assert_int_equal(acpi_build(&f.gmem, &f.board, &f.rsdp, &err), -EINVAL);
    assert_string_equal(err.text, "17 vCPUs: between 1 and 16");
    f.board.vcpus = 0;
    assert_int_equal(acpi_build(&f.gmem, &f.board, &f.rsdp, &err), -EINVAL);
    f.board.vcpus = 1;
    f.board.ndevices = BOARD_DEVICES_MAX + 1;
    assert_int_equal(acpi_build(&f.gmem, &f.board, &f.rsdp, &err), -EINVAL);
    tear_down(&f);
}

static void integers_are_as_short_as_they_can_be(void **state)
{
    static const struct {
        uint64_t value;
        size_t len;
        uint8_t op;
    } cases[] = {{0, 1, 0x00},       {1, 1, 0x01},          {2, 2, 0x0a},
                 {0xff, 2, 0x0a},    {0x100, 3, 0x0b},      {0xffff, 3, 0x0b},
                 {0x10000, 5, 0x0c}, {UINT32_MAX, 5, 0x0c}, {UINT64_C(1) << 32, 9, 0x0e}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        uint8_t buf[16];
        struct pack p = pack_into(buf, sizeof buf);
        aml_integer(&p, cases[i].value);
        assert_int_equal(p.len, cases[i].len);
        assert_int_equal(buf[0], cases[i].op);
    }
}

static void bytecode_that_does_not_fit_is_never_patched_beyond_its_buffer(void **state)
{
    for (size_t cap = 0; cap < 64; cap++) {
        uint8_t buf[64];
        memset(buf, 0xa5, sizeof buf);
        struct pack p = pack_into(buf, cap);
        aml_mark scope = aml_scope_open(&p, "_SB_");
        aml_mark device = aml_device_open(&p, "COM1");
        struct aml_resources crs = aml_resources_open(&p);
        aml_resource_io(&p, 0x3f8, 8);
        aml_resource_interrupt(&p, 4);
        aml_resources_close(&p, crs);
        aml_close(&p, device);
        aml_close(&p, scope);
        for (size_t i = cap; i < sizeof buf; i++)
            assert_int_equal(buf[i], 0xa5);
    }
}

/* --- the reference compiler, where it is installed --- */

static int iasl(const char *dir, const char *option, const char *file)
{
    pid_t pid = fork();
    if (pid == 0) {
        int null = open("/dev/null", O_RDWR);
        if (chdir(dir) < 0 || dup2(null, 1) < 0 || dup2(null, 2) < 0)
            _exit(126);
        execlp("iasl", "iasl", "-we", option, file, (char *)NULL);
        _exit(127);
    }
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static void the_reference_compiler_reads_and_recompiles_the_dsdt_without_a_warning(void **state)
{
    struct fixture f;
    struct err err = {0};
    char dir[] = "/tmp/forkd-acpi-XXXXXX", path[64], command[80];
    if (system("command -v iasl >/dev/null") != 0)
        skip_because("iasl is not installed (Debian package acpica-tools)");
    set_up(&f, 16, 16);
    build(&f);
    struct tables t = walk(&f);
    assert_non_null(mkdtemp(dir));
    snprintf(path, sizeof path, "%s/dsdt.dat", dir);
    own_fd int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    assert_true(fd >= 0);
    assert_int_equal(io_write_all(fd, t.dsdt, u32(t.dsdt + 4), &err), 0);
    int read_back = iasl(dir, "-d", "dsdt.dat"), compiled = iasl(dir, "-oa", "dsdt.dsl");
    snprintf(command, sizeof command, "rm -r %s", dir);
    assert_int_equal(system(command), 0);
    assert_int_equal(read_back, 0);
    assert_int_equal(compiled, 0);
    tear_down(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_tables_lead_from_one_to_the_other_and_add_up),
        cmocka_unit_test(the_board_is_hardware_reduced_and_can_be_switched_off),
        cmocka_unit_test(the_madt_has_every_cpu_and_the_ioapic),
        cmocka_unit_test(the_dsdt_has_the_devices_of_the_board_and_no_others),
        cmocka_unit_test(a_board_that_cannot_be_is_refused),
        cmocka_unit_test(integers_are_as_short_as_they_can_be),
        cmocka_unit_test(bytecode_that_does_not_fit_is_never_patched_beyond_its_buffer),
        cmocka_unit_test(the_reference_compiler_reads_and_recompiles_the_dsdt_without_a_warning),
    };
    return cmocka_run_group_tests_name("acpi", tests, NULL, NULL);
}
