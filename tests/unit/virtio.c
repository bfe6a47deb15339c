/* virtio.c: claims about the transport in src/dev/virtio.c, shown with a device that does nothing. */
#include "driver.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

enum { REG_FEATURES_SEL = 0x24, REG_FEATURES = 0x20, REG_QUEUE_SEL = 0x30, REG_QUEUE_SIZE = 0x38 };
enum { REG_READY = 0x44, REG_NOTIFY = 0x50, REG_IRQ = 0x60, REG_ACK = 0x64, REG_STATUS = 0x70, REG_DESC = 0x80 };

struct plain {
    struct virtio_dev virtio;
    unsigned notified[2], resets, resumed;
};

static void plain_config(struct virtio_dev *dev, uint32_t at, void *into, uint32_t len)
{
    for (uint32_t i = 0; i < len; i++)
        ((uint8_t *)into)[i] = (uint8_t)(at + i);
}

static void plain_notify(struct virtio_dev *dev, unsigned queue)
{
    ((struct plain *)dev)->notified[queue]++;
}

static void plain_reset(struct virtio_dev *dev)
{
    ((struct plain *)dev)->resets++;
}

static void plain_save(struct virtio_dev *dev, struct pack *p)
{
    pack_u8(p, 42);
}

static int plain_load(struct virtio_dev *dev, struct unpack *u, struct err *err)
{
    return unpack_u8(u) == 42 ? 0 : err_say(err, EINVAL, "not 42");
}

static void plain_resume(struct virtio_dev *dev)
{
    ((struct plain *)dev)->resumed++;
}

static const struct virtio_kind plain_kind = {"plain",     99,         2,          plain_config, plain_notify,
                                              plain_reset, plain_save, plain_load, plain_resume};

static struct driver d;
static struct plain dev;

static void plain_init(struct plain *plain)
{
    virtio_init(&plain->virtio, &plain_kind, &d.gmem);
    plain->virtio.features = 0x11;
}

static int set_up(void **state)
{
    driver_init(&d, DRIVER_RAM);
    memset(&dev, 0, sizeof dev);
    plain_init(&dev);
    driver_connect(&d, &dev.virtio);
    return 0;
}

static int tear_down(void **state)
{
    driver_destroy(&d);
    return 0;
}

static void a_driver_finds_version_2(void **state)
{
    assert_int_equal(driver_read32(&d, 0), 0x74726976);
    assert_int_equal(driver_read32(&d, 4), 2);
    assert_int_equal(driver_read32(&d, 8), 99);
    assert_int_equal(driver_read32(&d, 0x34), VIRTQ_SIZE_MAX);
    driver_write32(&d, REG_QUEUE_SEL, 2);
    assert_int_equal(driver_read32(&d, 0x34), 0);
    assert_int_equal(driver_read32(&d, 0x104), 0x07060504);
    assert_int_equal(driver_read32(&d, 0xb0), UINT32_MAX);
}

static void other_widths_read_as_zero_and_write_nothing(void **state)
{
    uint8_t bytes[8];
    for (uint32_t len = 1; len <= 8; len++) {
        memset(bytes, 0xff, sizeof bytes);
        if (len == 4)
            continue;
        virtio_mmio_read(&dev.virtio, 0, bytes, len);
        for (uint32_t i = 0; i < len; i++)
            assert_int_equal(bytes[i], 0);
        bytes[0] = 1;
        virtio_mmio_write(&dev.virtio, REG_STATUS, bytes, len);
    }
    virtio_mmio_read(&dev.virtio, 2, bytes, 4);
    assert_int_equal(bytes[0], 0);
    driver_write32(&d, REG_STATUS + 1, 1);
    driver_write32(&d, 0x104, 1);
    assert_int_equal(driver_read32(&d, REG_STATUS), 0);
}

static uint32_t negotiate(uint32_t low, uint32_t high)
{
    driver_write32(&d, REG_STATUS, 0);
    driver_write32(&d, REG_STATUS, 3);
    driver_write32(&d, REG_FEATURES_SEL, 0);
    driver_write32(&d, REG_FEATURES, low);
    driver_write32(&d, REG_FEATURES_SEL, 1);
    driver_write32(&d, REG_FEATURES, high);
    driver_write32(&d, REG_STATUS, 11);
    return driver_read32(&d, REG_STATUS);
}

static void features_ok_is_given_to_what_was_offered_alone(void **state)
{
    assert_int_equal(negotiate(0x11, 1), 11);
    assert_int_equal(negotiate(0x01, 1), 11);
    assert_int_equal(negotiate(0x11, 0), 3); /* not version 1 */
    assert_int_equal(negotiate(0x13, 1), 3); /* one that was not offered */
    driver_write32(&d, REG_STATUS, 15);
    assert_int_equal(driver_read32(&d, REG_STATUS), 3); /* so it cannot go on */
}

static void queues_are_served_when_the_driver_is_up(void **state)
{
    driver_kick(&d, 0);
    assert_int_equal(dev.notified[0], 0);
    driver_probe(&d, &dev.virtio);
    driver_kick(&d, 0);
    driver_kick(&d, 1);
    driver_kick(&d, 1);
    driver_kick(&d, 2);
    driver_kick(&d, UINT32_MAX);
    assert_int_equal(dev.notified[0], 1);
    assert_int_equal(dev.notified[1], 2);
}

static void a_queue_in_use_cannot_be_moved(void **state)
{
    driver_probe(&d, &dev.virtio);
    uint64_t desc = dev.virtio.queue[0].desc;
    driver_write32(&d, REG_QUEUE_SEL, 0);
    driver_write32(&d, REG_DESC, 0xdead0000);
    driver_write32(&d, REG_QUEUE_SIZE, 1);
    assert_true(dev.virtio.queue[0].desc == desc);
    assert_int_equal(dev.virtio.queue[0].size, DRIVER_QUEUE_SIZE);
    driver_write32(&d, REG_READY, 0);
    driver_write32(&d, REG_DESC, 0);
    driver_write32(&d, REG_READY, 1); /* not after DRIVER_OK */
    assert_int_equal(driver_read32(&d, REG_READY), 0);
    driver_kick(&d, 0);
    assert_int_equal(dev.notified[0], 0);
}

static void a_queue_outside_memory_breaks_the_device_until_reset(void **state)
{
    negotiate(0x11, 1);
    driver_write32(&d, REG_QUEUE_SEL, 0);
    driver_write32(&d, REG_QUEUE_SIZE, 8);
    driver_write32(&d, REG_DESC, 0xd0000000);
    driver_write32(&d, REG_READY, 1);
    assert_true(driver_read32(&d, REG_STATUS) & 64);
    assert_int_equal(d.raised, 0); /* DRIVER_OK is not set, so nobody listens */
    driver_probe(&d, &dev.virtio);
    driver_kick(&d, 0);
    assert_int_equal(dev.notified[0], 1);
}

static void a_broken_device_tells_the_driver_and_serves_nothing(void **state)
{
    driver_probe(&d, &dev.virtio);
    virtio_break(&dev.virtio, "a test");
    virtio_break(&dev.virtio, "a test");
    assert_int_equal(d.raised, 1);
    assert_int_equal(driver_read32(&d, REG_IRQ), 2);
    driver_write32(&d, REG_STATUS, 15);
    assert_int_equal(driver_read32(&d, REG_STATUS), 15 | 64);
    driver_kick(&d, 0);
    assert_int_equal(dev.notified[0], 0);
    driver_write32(&d, REG_STATUS, 0);
    assert_int_equal(driver_read32(&d, REG_STATUS), 0);
    assert_int_equal(driver_read32(&d, REG_IRQ), 0);
    assert_false(dev.virtio.queue[0].ready);
}

static void interrupts_are_acknowledged_bit_by_bit(void **state)
{
    driver_probe(&d, &dev.virtio);
    virtio_interrupt(&dev.virtio, 0);
    assert_int_equal(d.raised, 1);
    assert_int_equal(driver_read32(&d, REG_IRQ), 1);
    driver_write32(&d, REG_ACK, 2);
    assert_int_equal(driver_read32(&d, REG_IRQ), 1);
    driver_write32(&d, REG_ACK, 1);
    assert_int_equal(driver_read32(&d, REG_IRQ), 0);
    *(uint16_t *)driver_at(&d, d.queue[0].avail, 2) = 1;
    virtio_interrupt(&dev.virtio, 0);
    assert_int_equal(d.raised, 1);
}

static size_t save(uint8_t *buf, size_t cap)
{
    struct pack p = pack_into(buf, cap);
    virtio_save(&dev.virtio, &p);
    assert_false(p.full);
    return p.len;
}

static void a_restored_device_raises_again_and_serves_every_queue(void **state)
{
    uint8_t buf[512];
    driver_probe(&d, &dev.virtio);
    *(uint16_t *)driver_at(&d, d.queue[0].avail, 2) = 1; /* suppressed, and yet */
    size_t len = save(buf, sizeof buf);
    struct plain child = {0};
    plain_init(&child);
    driver_connect(&d, &child.virtio);
    struct unpack u = unpack_from(buf, len);
    assert_int_equal(virtio_load(&child.virtio, &u, NULL), 0);
    assert_true(unpack_done(&u));
    assert_true(virtio_is_running(&child.virtio));
    virtio_resume(&child.virtio);
    assert_int_equal(d.raised, 1);
    assert_int_equal(driver_read32(&d, REG_IRQ), 1);
    assert_int_equal(child.resumed, 1);
    assert_int_equal(child.notified[0], 1);
    assert_int_equal(child.notified[1], 1);
}

static void a_device_restored_before_its_driver_came_stays_silent(void **state)
{
    uint8_t buf[512];
    size_t len = save(buf, sizeof buf);
    struct unpack u = unpack_from(buf, len);
    assert_int_equal(virtio_load(&dev.virtio, &u, NULL), 0);
    virtio_resume(&dev.virtio);
    assert_int_equal(d.raised, 0);
    assert_int_equal(dev.resumed, 0);
}

static void malformed_state_is_refused(void **state)
{
    uint8_t buf[512], bad[512];
    driver_probe(&d, &dev.virtio);
    size_t len = save(buf, sizeof buf);
    struct plain child = {0};
    plain_init(&child);
    for (size_t i = 0; i < len; i++) {
        struct unpack u = unpack_from(buf, i);
        assert_true(virtio_load(&child.virtio, &u, NULL) < 0);
    }
    const struct {
        size_t at;
        uint8_t v;
    } lies[] = {
        {0, 7},        /* DRIVER_OK without FEATURES_OK */
        {1, 1},        /* a status bit that is none */
        {24, 0x13},    /* a feature that was not offered */
        {28, 0},       /* version 1 missing */
        {len - 1, 41}, /* the device's own */
    };
    for (size_t i = 0; i < sizeof lies / sizeof *lies; i++) {
        memcpy(bad, buf, len);
        bad[lies[i].at] = lies[i].v;
        struct unpack u = unpack_from(bad, len);
        struct err err = {0};
        assert_true(virtio_load(&child.virtio, &u, &err) < 0);
        assert_non_null(strstr(err.text, "virtio-plain"));
    }
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(a_driver_finds_version_2),
        TEST(other_widths_read_as_zero_and_write_nothing),
        TEST(features_ok_is_given_to_what_was_offered_alone),
        TEST(queues_are_served_when_the_driver_is_up),
        TEST(a_queue_in_use_cannot_be_moved),
        TEST(a_queue_outside_memory_breaks_the_device_until_reset),
        TEST(a_broken_device_tells_the_driver_and_serves_nothing),
        TEST(interrupts_are_acknowledged_bit_by_bit),
        TEST(a_restored_device_raises_again_and_serves_every_queue),
        TEST(a_device_restored_before_its_driver_came_stays_silent),
        TEST(malformed_state_is_refused),
    };
    return cmocka_run_group_tests_name("virtio", tests, NULL, NULL);
}
