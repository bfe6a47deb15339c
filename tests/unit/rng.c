/* rng.c: claims about src/dev/rng.c and src/dev/vmgenid.c: the guest gets fresh bytes, a bounded amount at a time. */
#include "dev/rng.h"
#include "dev/vmgenid.h"
#include "driver.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

static struct driver d;
static struct rng rng;

static int set_up(void **state)
{
    driver_init(&d, DRIVER_RAM);
    rng_init(&rng, &d.gmem);
    driver_probe(&d, &rng.virtio);
    return 0;
}

static int tear_down(void **state)
{
    driver_destroy(&d);
    return 0;
}

static bool all_zero(const uint8_t *p, size_t len)
{
    for (size_t i = 0; i < len; i++)
        if (p[i])
            return false;
    return true;
}

static void every_buffer_is_filled_afresh(void **state)
{
    uint64_t at = driver_alloc(&d, 128);
    uint16_t head;
    uint32_t len;
    for (int i = 0; i < 2; i++)
        driver_add(&d, 0, (struct driver_buf[]){{at + (uint64_t)i * 64, 64, true}}, 1);
    driver_kick(&d, 0);
    assert_true(driver_take(&d, 0, &head, &len) && len == 64);
    assert_true(driver_take(&d, 0, &head, &len) && len == 64);
    assert_int_equal(d.raised, 1);
    const uint8_t *bytes = driver_at(&d, at, 128);
    assert_false(all_zero(bytes, 64));
    assert_memory_not_equal(bytes, bytes + 64, 64);
}

static void a_huge_buffer_is_filled_in_part(void **state)
{
    uint64_t at = driver_alloc(&d, 1 << 20);
    driver_add(&d, 0, (struct driver_buf[]){{at, 1 << 20, true}}, 1);
    driver_kick(&d, 0);
    uint16_t head;
    uint32_t len;
    assert_true(driver_take(&d, 0, &head, &len));
    assert_true(len > 0 && len < 1 << 20);
    assert_false(all_zero(driver_at(&d, at, len), len));
    assert_true(all_zero(driver_at(&d, at + len, (1 << 20) - len), (1 << 20) - len));
}

static void many_buffers_are_served_in_turns(void **state)
{
    uint64_t at = driver_alloc(&d, 64);
    for (int i = 0; i < DRIVER_QUEUE_SIZE; i++)
        driver_add(&d, 0, (struct driver_buf[]){{at, 64, true}}, 1);
    virtio_notify(&rng.virtio, 0);
    virtio_serve(&rng.virtio);
    assert_true(d.awake); /* it asked for another turn */
    uint16_t head;
    uint32_t len;
    int taken = 0;
    while (driver_take(&d, 0, &head, &len))
        taken++;
    assert_true(taken > 0 && taken < DRIVER_QUEUE_SIZE);
    driver_serve(&d);
    while (driver_take(&d, 0, &head, &len))
        taken++;
    assert_int_equal(taken, DRIVER_QUEUE_SIZE);
}

static void a_ring_that_lies_breaks_the_device_alone(void **state)
{
    driver_offer(&d, 0, 999);
    driver_kick(&d, 0);
    assert_true(driver_read32(&d, 0x70) & 64);
    assert_int_equal(driver_read32(&d, 0x60), 2);
    driver_probe(&d, &rng.virtio);
    d.raised = 0;
    every_buffer_is_filled_afresh(state);
}

static unsigned told;

static void on_genid(struct vmgenid *genid)
{
    told++;
}

static void a_generation_id_is_renewed_and_the_guest_told(void **state)
{
    struct vmgenid genid;
    struct err err = {0};
    uint8_t first[VMGENID_BYTES];
    vmgenid_init(&genid, 0x8000);
    genid.raise = on_genid;
    told = 0;
    assert_int_equal(vmgenid_write(&genid, &d.gmem, &err), 0);
    assert_int_equal(told, 0);
    memcpy(first, driver_at(&d, 0x8000, sizeof first), sizeof first);
    assert_false(all_zero(first, sizeof first));
    uint64_t marks[DRIVER_RAM / GMEM_PAGE / 64] = {0};
    gmem_fetch_marks(&d.gmem, marks);
    assert_true(marks[0] & 1 << 8);
    assert_int_equal(vmgenid_renew(&genid, &d.gmem, &err), 0);
    assert_int_equal(told, 1);
    assert_memory_not_equal(first, driver_at(&d, 0x8000, sizeof first), sizeof first);

    vmgenid_init(&genid, GMEM_LOW_END);
    assert_int_equal(vmgenid_renew(&genid, &d.gmem, &err), -EINVAL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(every_buffer_is_filled_afresh, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_huge_buffer_is_filled_in_part, set_up, tear_down),
        cmocka_unit_test_setup_teardown(many_buffers_are_served_in_turns, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_ring_that_lies_breaks_the_device_alone, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_generation_id_is_renewed_and_the_guest_told, set_up, tear_down),
    };
    return cmocka_run_group_tests_name("rng", tests, NULL, NULL);
}
