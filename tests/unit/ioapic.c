/* ioapic.c: claims about src/arch/ioapic.c: an edge is delivered once, as the guest wanted it, and never lost. */
#include "arch/ioapic.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

enum { SELECT = 0x00, DATA = 0x10, MASKED = 1 << 16, LEVEL = 1 << 15, REMOTE_IRR = 1 << 14 };

struct fixture {
    struct ioapic ioapic;
    unsigned sent;
    uint64_t address;
    uint32_t data;
};

static void send(void *owner, uint64_t address, uint32_t data)
{
    struct fixture *f = owner;
    f->sent++;
    f->address = address;
    f->data = data;
}

static void set_up(struct fixture *f)
{
    memset(f, 0, sizeof *f);
    ioapic_init(&f->ioapic, send, f);
}

static void reg_write(struct fixture *f, uint32_t reg, uint32_t value)
{
    ioapic_mmio_write(&f->ioapic, SELECT, &reg, sizeof reg);
    ioapic_mmio_write(&f->ioapic, DATA, &value, sizeof value);
}

static uint32_t reg_read(struct fixture *f, uint32_t reg)
{
    uint32_t value = 0xdead;
    ioapic_mmio_write(&f->ioapic, SELECT, &reg, sizeof reg);
    ioapic_mmio_read(&f->ioapic, DATA, &value, sizeof value);
    return value;
}

static void pin_program(struct fixture *f, unsigned pin, uint32_t low, uint8_t destination)
{
    reg_write(f, 0x11 + 2 * pin, (uint32_t)destination << 24);
    reg_write(f, 0x10 + 2 * pin, low);
}

static void it_says_it_is_an_ioapic_of_24_pins_all_masked(void **state)
{
    struct fixture f;
    set_up(&f);
    assert_int_equal(reg_read(&f, 1), 0x00170011);
    for (unsigned pin = 0; pin < IOAPIC_PINS; pin++) {
        assert_int_equal(reg_read(&f, 0x10 + 2 * pin), MASKED);
        assert_int_equal(reg_read(&f, 0x11 + 2 * pin), 0);
    }
    reg_write(&f, 0, 0xff000000);
    assert_int_equal(reg_read(&f, 0), 0x0f000000);
}

static void an_edge_becomes_the_message_its_entry_describes(void **state)
{
    struct fixture f;
    set_up(&f);
    pin_program(&f, 5, 0x31, 7);
    assert_int_equal(f.sent, 0);
    ioapic_raise(&f.ioapic, 5);
    assert_int_equal(f.sent, 1);
    assert_int_equal(f.address, 0xfee07000);
    assert_int_equal(f.data, 0x4031);
    pin_program(&f, 6, 0x0931, 0xff); /* logical, lowest priority */
    ioapic_raise(&f.ioapic, 6);
    assert_int_equal(f.address, 0xfeeff004);
    assert_int_equal(f.data, 0x4131);
    ioapic_raise(&f.ioapic, 6);
    assert_int_equal(f.sent, 3);
}

static void an_edge_while_masked_is_sent_once_when_unmasked(void **state)
{
    struct fixture f;
    set_up(&f);
    pin_program(&f, 5, 0x31 | MASKED, 0);
    ioapic_raise(&f.ioapic, 5);
    ioapic_raise(&f.ioapic, 5);
    assert_int_equal(f.sent, 0);
    reg_write(&f, 0x11 + 2 * 5, 3u << 24);
    assert_int_equal(f.sent, 0);
    reg_write(&f, 0x10 + 2 * 5, 0x32);
    assert_int_equal(f.sent, 1);
    assert_int_equal(f.data & 0xff, 0x32);
    assert_int_equal(f.address, 0xfee03000);
    reg_write(&f, 0x10 + 2 * 5, 0x32);
    assert_int_equal(f.sent, 1);
}

static void a_level_pin_waits_for_its_eoi(void **state)
{
    struct fixture f;
    set_up(&f);
    pin_program(&f, 9, 0x40 | LEVEL, 0);
    ioapic_raise(&f.ioapic, 9);
    assert_int_equal(f.data, 0xc040);
    assert_int_equal(reg_read(&f, 0x10 + 2 * 9), 0x40 | LEVEL | REMOTE_IRR);
    ioapic_raise(&f.ioapic, 9);
    assert_int_equal(f.sent, 1);
    ioapic_eoi(&f.ioapic, 0x41);
    assert_int_equal(f.sent, 1);
    ioapic_eoi(&f.ioapic, 0x40);
    assert_int_equal(f.sent, 2);
    ioapic_eoi(&f.ioapic, 0x40);
    assert_int_equal(f.sent, 2);
    assert_int_equal(reg_read(&f, 0x10 + 2 * 9), 0x40 | LEVEL);
}

static void switching_to_edge_clears_remote_irr(void **state)
{
    struct fixture f;
    set_up(&f);
    pin_program(&f, 9, 0x40 | LEVEL, 0);
    ioapic_raise(&f.ioapic, 9);
    ioapic_raise(&f.ioapic, 9);
    reg_write(&f, 0x10 + 2 * 9, 0x40 | MASKED);
    assert_int_equal(reg_read(&f, 0x10 + 2 * 9), 0x40 | MASKED);
    reg_write(&f, 0x10 + 2 * 9, 0x40 | LEVEL);
    assert_int_equal(f.sent, 2);
}

static void status_bits_cannot_be_written(void **state)
{
    struct fixture f;
    set_up(&f);
    pin_program(&f, 9, 0xffffffff, 0xff);
    assert_int_equal(reg_read(&f, 0x10 + 2 * 9), 0x1afff);
    assert_int_equal(reg_read(&f, 0x11 + 2 * 9), 0xff000000);
}

static void accesses_that_make_no_sense_do_nothing(void **state)
{
    struct fixture f;
    set_up(&f);
    struct ioapic before = f.ioapic;
    uint64_t wide = UINT64_MAX;
    ioapic_mmio_write(&f.ioapic, DATA, &wide, 8);
    ioapic_mmio_write(&f.ioapic, DATA, &wide, 1);
    ioapic_mmio_write(&f.ioapic, 0x40, &wide, 4);
    assert_memory_equal(&before, &f.ioapic, sizeof before);
    ioapic_mmio_read(&f.ioapic, DATA, &wide, 8);
    assert_true(wide == 0);
    assert_int_equal(reg_read(&f, 0x40), 0); /* beyond the last pin */
    reg_write(&f, 0xff, UINT32_MAX);
    ioapic_raise(&f.ioapic, IOAPIC_PINS);
    ioapic_raise(&f.ioapic, UINT32_MAX);
    assert_int_equal(f.sent, 0);
    for (unsigned pin = 0; pin < IOAPIC_PINS; pin++)
        assert_int_equal(reg_read(&f, 0x10 + 2 * pin), MASKED);
}

static void a_saved_ioapic_goes_on_with_what_was_pending(void **state)
{
    struct fixture f, g;
    set_up(&f);
    set_up(&g);
    pin_program(&f, 3, 0x51, 1);
    pin_program(&f, 5, 0x31 | MASKED, 2);
    pin_program(&f, 9, 0x40 | LEVEL, 0);
    ioapic_raise(&f.ioapic, 5);
    ioapic_raise(&f.ioapic, 9);
    ioapic_raise(&f.ioapic, 9);
    uint8_t buf[512];
    struct pack p = pack_into(buf, sizeof buf);
    ioapic_save(&f.ioapic, &p);
    assert_false(p.full);
    struct unpack u = unpack_from(buf, p.len);
    struct err err = {0};
    assert_int_equal(ioapic_load(&g.ioapic, &u, &err), 0);
    assert_true(unpack_done(&u));
    reg_write(&g, 0x10 + 2 * 5, 0x31);
    assert_int_equal(g.sent, 1);
    assert_int_equal(g.address, 0xfee02000);
    ioapic_eoi(&g.ioapic, 0x40);
    assert_int_equal(g.sent, 2);
    ioapic_raise(&g.ioapic, 3);
    assert_int_equal(g.address, 0xfee01000);
}

static void a_state_that_cannot_be_is_refused(void **state)
{
    struct fixture f, g;
    struct err err = {0};
    uint8_t buf[512];
    for (int bad = 0; bad < 6; bad++) {
        set_up(&f);
        set_up(&g);
        pin_program(&f, 5, 0x31, 2);
        if (bad == 0)
            f.ioapic.pending = 1 << 5; /* neither masked nor awaiting an EOI */
        else if (bad == 1)
            f.ioapic.pending = 1 << 24;
        else if (bad == 2)
            f.ioapic.redirection[5] |= REMOTE_IRR; /* of an edge */
        else if (bad == 3)
            f.ioapic.redirection[5] |= UINT64_C(1) << 40;
        else if (bad == 4)
            f.ioapic.select = 256;
        else
            f.ioapic.id = 1;
        struct pack p = pack_into(buf, sizeof buf);
        ioapic_save(&f.ioapic, &p);
        struct unpack u = unpack_from(buf, p.len);
        assert_int_equal(ioapic_load(&g.ioapic, &u, &err), -EINVAL);
        struct unpack cut = unpack_from(buf, p.len - 1);
        assert_int_equal(ioapic_load(&g.ioapic, &cut, &err), -EINVAL);
    }
    assert_int_equal(reg_read(&g, 0x10 + 2 * 5), MASKED);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(it_says_it_is_an_ioapic_of_24_pins_all_masked),
        cmocka_unit_test(an_edge_becomes_the_message_its_entry_describes),
        cmocka_unit_test(an_edge_while_masked_is_sent_once_when_unmasked),
        cmocka_unit_test(a_level_pin_waits_for_its_eoi),
        cmocka_unit_test(switching_to_edge_clears_remote_irr),
        cmocka_unit_test(status_bits_cannot_be_written),
        cmocka_unit_test(accesses_that_make_no_sense_do_nothing),
        cmocka_unit_test(a_saved_ioapic_goes_on_with_what_was_pending),
        cmocka_unit_test(a_state_that_cannot_be_is_refused),
    };
    return cmocka_run_group_tests_name("ioapic", tests, NULL, NULL);
}
