/* virtq.c: claims about src/mem/virtq.c: what a ring that tells the truth gives, and that one that lies is refused. */
#include "driver.h"

#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

enum { NEXT = 1, WRITE = 2, INDIRECT = 4 };

struct fixture {
    struct driver d;
    struct virtq vq;
    struct virtq_chain chain;
    bool stop;
};

static void set_up(struct fixture *f, uint64_t ram)
{
    driver_init(&f->d, ram);
    driver_make_ring(&f->d, 0, 8);
    f->vq = driver_virtq(&f->d, 0);
}

/* The ring as it stands is refused once and for ever, and nothing was taken. */
static void assert_broken(struct fixture *f)
{
    uint16_t before = f->vq.next_avail;
    assert_int_equal(virtq_pop(&f->vq, &f->d.gmem, &f->chain), -EINVAL);
    assert_true(f->vq.broken);
    assert_int_equal(f->vq.next_avail, before);
    driver_set_desc(&f->d, 0, 0, GMEM_PAGE, 1, 0, 0);
    assert_int_equal(virtq_pop(&f->vq, &f->d.gmem, &f->chain), -EINVAL);
    driver_destroy(&f->d);
}

static void a_chain_comes_out_as_it_was_put_in(void **state)
{
    struct fixture f;
    set_up(&f, DRIVER_RAM);
    assert_int_equal(virtq_pop(&f.vq, &f.d.gmem, &f.chain), 0);
    assert_int_equal(virtq_waiting(&f.vq, &f.d.gmem), 0);
    driver_set_desc(&f.d, 0, 3, 0x10000, 16, NEXT, 5);
    driver_set_desc(&f.d, 0, 5, 0x20000, 512, NEXT | WRITE, 1);
    driver_set_desc(&f.d, 0, 1, 0x30000, 1, WRITE, 77);
    driver_offer(&f.d, 0, 3);
    assert_int_equal(virtq_waiting(&f.vq, &f.d.gmem), 1);
    assert_int_equal(virtq_pop(&f.vq, &f.d.gmem, &f.chain), 1);
    assert_int_equal(f.chain.head, 3);
    assert_int_equal(f.chain.readable, 1);
    assert_int_equal(f.chain.readable_len, 16);
    assert_int_equal(f.chain.writable, 2);
    assert_int_equal(f.chain.writable_len, 513);
    assert_int_equal(f.chain.segment[2].gpa, 0x30000);
    assert_int_equal(virtq_pop(&f.vq, &f.d.gmem, &f.chain), 0);

    virtq_push(&f.vq, &f.d.gmem, 3, 513);
    uint16_t head;
    uint32_t len;
    assert_true(driver_take(&f.d, 0, &head, &len));
    assert_int_equal(head, 3);
    assert_int_equal(len, 513);
    assert_false(driver_take(&f.d, 0, &head, &len));
    driver_destroy(&f.d);
}

static void indices_wrap_at_65536(void **state)
{
    struct fixture f;
    set_up(&f, DRIVER_RAM);
    driver_set_desc(&f.d, 0, 0, 0x10000, 4, 0, 0);
    for (unsigned i = 0; i < 70000; i++) {
        uint16_t head;
        uint32_t len;
        driver_offer(&f.d, 0, 0);
        assert_int_equal(virtq_pop(&f.vq, &f.d.gmem, &f.chain), 1);
        virtq_push(&f.vq, &f.d.gmem, 0, i);
        assert_true(driver_take(&f.d, 0, &head, &len));
        assert_int_equal(len, i);
    }
    driver_destroy(&f.d);
}

static void copies_cross_segments_and_stop_at_the_end(void **state)
{
    struct fixture f;
    set_up(&f, DRIVER_RAM);
    driver_set_desc(&f.d, 0, 0, 0x10000, 3, NEXT, 1);
    driver_set_desc(&f.d, 0, 1, 0x20000, 5, NEXT, 2);
    driver_set_desc(&f.d, 0, 2, 0x30000, 2, NEXT | WRITE, 3);
    driver_set_desc(&f.d, 0, 3, 0x40000, 4, WRITE, 0);
    driver_offer(&f.d, 0, 0);
    memcpy(driver_at(&f.d, 0x10000, 3), "abc", 3);
    memcpy(driver_at(&f.d, 0x20000, 5), "defgh", 5);
    assert_int_equal(virtq_pop(&f.vq, &f.d.gmem, &f.chain), 1);
    char got[16] = {0};
    assert_int_equal(virtq_chain_read(&f.chain, &f.d.gmem, 0, got, sizeof got), 8);
    assert_string_equal(got, "abcdefgh");
    assert_int_equal(virtq_chain_read(&f.chain, &f.d.gmem, 2, got, 3), 3);
    assert_memory_equal(got, "cde", 3);
    assert_int_equal(virtq_chain_read(&f.chain, &f.d.gmem, 8, got, 1), 0);
    assert_int_equal(virtq_chain_write(&f.chain, &f.d.gmem, 1, "12345678", 8), 5);
    assert_memory_equal(driver_at(&f.d, 0x30001, 1), "1", 1);
    assert_memory_equal(driver_at(&f.d, 0x40000, 4), "2345", 4);
    driver_destroy(&f.d);
}

static void what_a_device_writes_is_marked(void **state)
{
    struct fixture f;
    set_up(&f, DRIVER_RAM);
    uint64_t bitmap[DRIVER_RAM / GMEM_PAGE / 64] = {0};
    driver_set_desc(&f.d, 0, 0, 0x10ffe, 4, WRITE, 0);
    driver_offer(&f.d, 0, 0);
    assert_int_equal(virtq_pop(&f.vq, &f.d.gmem, &f.chain), 1);
    virtq_chain_write(&f.chain, &f.d.gmem, 0, "wxyz", 4);
    gmem_fetch_marks(&f.d.gmem, bitmap);
    assert_true(bitmap[0] == (UINT64_C(3) << 16));
    bitmap[0] = 0;
    virtq_push(&f.vq, &f.d.gmem, 0, 4);
    gmem_fetch_marks(&f.d.gmem, bitmap);
    assert_true(bitmap[0] == UINT64_C(1) << (f.vq.used / GMEM_PAGE));
    driver_destroy(&f.d);
}

static void a_head_beyond_the_ring_is_refused(void **state)
{
    struct fixture f;
    set_up(&f, DRIVER_RAM);
    driver_offer(&f.d, 0, 8);
    assert_broken(&f);
}

static void a_next_beyond_the_ring_is_refused(void **state)
{
    struct fixture f;
    set_up(&f, DRIVER_RAM);
    driver_set_desc(&f.d, 0, 0, 0x10000, 4, NEXT, 8);
    driver_offer(&f.d, 0, 0);
    assert_broken(&f);
}

static void a_loop_is_refused(void **state)
{
    struct fixture f;
    set_up(&f, DRIVER_RAM);
    driver_set_desc(&f.d, 0, 0, 0x10000, 4, NEXT, 1);
    driver_set_desc(&f.d, 0, 1, 0x10000, 4, NEXT, 0);
    driver_offer(&f.d, 0, 0);
    assert_broken(&f);
}

static void a_chain_that_points_to_itself_is_refused(void **state)
{
    struct fixture f;
    set_up(&f, DRIVER_RAM);
    driver_set_desc(&f.d, 0, 2, 0x10000, 4, NEXT, 2);
    driver_offer(&f.d, 0, 2);
    assert_broken(&f);
}

static void more_segments_than_a_chain_may_have_are_refused(void **state)
{
    struct fixture f;
    driver_init(&f.d, DRIVER_RAM);
    driver_make_ring(&f.d, 0, VIRTQ_SIZE_MAX);
    f.vq = driver_virtq(&f.d, 0);
    for (uint16_t i = 0; i < VIRTQ_CHAIN_MAX; i++)
        driver_set_desc(&f.d, 0, i, 0x10000, 4, i + 1 < VIRTQ_CHAIN_MAX ? NEXT : 0, (uint16_t)(i + 1));
    driver_offer(&f.d, 0, 0);
    assert_int_equal(virtq_pop(&f.vq, &f.d.gmem, &f.chain), 1);
    assert_int_equal(f.chain.readable, VIRTQ_CHAIN_MAX);
    driver_set_desc(&f.d, 0, VIRTQ_CHAIN_MAX - 1, 0x10000, 4, NEXT, VIRTQ_CHAIN_MAX);
    driver_set_desc(&f.d, 0, VIRTQ_CHAIN_MAX, 0x10000, 4, 0, 0);
    driver_offer(&f.d, 0, 0);
    assert_broken(&f);
}

static void an_avail_index_that_jumps_is_refused(void **state)
{
    struct fixture f;
    set_up(&f, DRIVER_RAM);
    driver_set_desc(&f.d, 0, 0, 0x10000, 4, 0, 0);
    driver_set_avail_idx(&f.d, 0, 9);
    assert_broken(&f);
}

static void an_avail_index_that_goes_back_is_refused(void **state)
{
    struct fixture f;
    set_up(&f, DRIVER_RAM);
    driver_set_desc(&f.d, 0, 0, 0x10000, 4, 0, 0);
    driver_offer(&f.d, 0, 0);
    assert_int_equal(virtq_pop(&f.vq, &f.d.gmem, &f.chain), 1);
    driver_set_avail_idx(&f.d, 0, 0);
    assert_broken(&f);
}

static void readable_after_writable_is_refused(void **state)
{
    struct fixture f;
    set_up(&f, DRIVER_RAM);
    driver_set_desc(&f.d, 0, 0, 0x10000, 4, NEXT | WRITE, 1);
    driver_set_desc(&f.d, 0, 1, 0x10000, 4, 0, 0);
    driver_offer(&f.d, 0, 0);
    assert_broken(&f);
}

static void an_empty_segment_is_refused(void **state)
{
    struct fixture f;
    set_up(&f, DRIVER_RAM);
    driver_set_desc(&f.d, 0, 0, 0x10000, 0, 0, 0);
    driver_offer(&f.d, 0, 0);
    assert_broken(&f);
}

static void an_indirect_descriptor_is_refused(void **state)
{
    struct fixture f;
    set_up(&f, DRIVER_RAM);
    driver_set_desc(&f.d, 0, 0, 0x10000, 16, INDIRECT, 0);
    driver_offer(&f.d, 0, 0);
    assert_broken(&f);
}

static void lengths_that_overflow_together_are_refused(void **state)
{
    struct fixture f;
    set_up(&f, UINT64_C(5) << 30);
    driver_set_desc(&f.d, 0, 0, 0, 0x80000000, NEXT, 1);
    driver_set_desc(&f.d, 0, 1, 0, 0x80000000, WRITE, 0);
    driver_offer(&f.d, 0, 0);
    assert_broken(&f);
}

/* Segments around the edges of a guest of 5 GiB: 0-3 GiB and 4-6 GiB are RAM. */
static void addresses_outside_memory_are_refused(void **state)
{
    const struct {
        uint64_t gpa;
        uint32_t len;
        int rc;
    } cases[] = {
        {GMEM_LOW_END - 4096, 4096, 1},
        {GMEM_LOW_END - 4096, 4097, -EINVAL},
        {GMEM_LOW_END, 1, -EINVAL},
        {0xd0000000, 4096, -EINVAL},
        {GMEM_HIGH_BASE - 1, 2, -EINVAL},
        {GMEM_HIGH_BASE - 1, 1, -EINVAL},
        {GMEM_HIGH_BASE, 4096, 1},
        {GMEM_LOW_END - 1, 0x40000002, -EINVAL},
        {UINT64_C(0x180000000) - 1, 1, 1},
        {UINT64_C(0x180000000) - 1, 2, -EINVAL},
        {UINT64_C(0x180000000), 1, -EINVAL},
        {UINT64_MAX, 1, -EINVAL},
        {UINT64_MAX - 4095, 4096, -EINVAL},
        {UINT64_MAX - 4095, 4097, -EINVAL},
        {UINT64_C(1) << 63, UINT32_MAX, -EINVAL},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct fixture f;
        set_up(&f, UINT64_C(5) << 30);
        driver_set_desc(&f.d, 0, 0, cases[i].gpa, cases[i].len, WRITE, 0);
        driver_offer(&f.d, 0, 0);
        assert_int_equal(virtq_pop(&f.vq, &f.d.gmem, &f.chain), cases[i].rc);
        driver_destroy(&f.d);
    }
}

static void rings_that_are_not_memory_cannot_be_enabled(void **state)
{
    struct fixture f;
    set_up(&f, UINT64_C(5) << 30);
    const struct virtq good = f.vq;
    const struct virtq bad[] = {
        {.size = 0, .desc = good.desc, .avail = good.avail, .used = good.used},
        {.size = 7, .desc = good.desc, .avail = good.avail, .used = good.used},
        {.size = 512, .desc = good.desc, .avail = good.avail, .used = good.used},
        {.size = 8, .desc = good.desc + 8, .avail = good.avail, .used = good.used},
        {.size = 8, .desc = good.desc, .avail = good.avail + 1, .used = good.used},
        {.size = 8, .desc = good.desc, .avail = good.avail, .used = good.used + 2},
        {.size = 8, .desc = GMEM_LOW_END - 16, .avail = good.avail, .used = good.used},
        {.size = 8, .desc = good.desc, .avail = GMEM_LOW_END - 18, .used = good.used},
        {.size = 8, .desc = good.desc, .avail = good.avail, .used = UINT64_C(0x180000000) - 64},
        {.size = 8, .desc = good.desc, .avail = good.avail, .used = UINT64_MAX - 3},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct virtq vq = bad[i];
        assert_int_equal(virtq_enable(&vq, &f.d.gmem), -EINVAL);
        assert_false(vq.ready);
    }
    driver_destroy(&f.d);
}

/* Another CPU of the guest turns good descriptors into bad ones and back, as fast as it can. */
static void *rewrite_for_ever(void *arg)
{
    struct fixture *f = arg;
    for (unsigned n = 0; !__atomic_load_n(&f->stop, __ATOMIC_RELAXED); n++) {
        driver_set_desc(&f->d, 0, 0, n % 3 ? 0x10000 : UINT64_MAX - 8, n % 5 ? 4096 : UINT32_MAX, NEXT, n % 7 ? 1 : 0);
        driver_set_desc(&f->d, 0, 1, n % 11 ? 0x20000 : DRIVER_RAM - 1, n % 2 ? 512 : 2, n % 13 ? WRITE : NEXT, 0xffff);
    }
    return NULL;
}

static void a_chain_that_changes_while_it_is_read_is_good_or_refused(void **state)
{
    static struct fixture f;
    pthread_t guest;
    unsigned good = 0, bad = 0;
    set_up(&f, DRIVER_RAM);
    assert_int_equal(pthread_create(&guest, NULL, rewrite_for_ever, &f), 0);
    while (good < 1000 || bad < 1000) { /* both were met */
        if (virtq_walk(&f.vq, &f.d.gmem, 0, &f.chain) < 0) {
            bad++;
            continue;
        }
        good++;
        uint64_t total = 0, offset;
        unsigned n = f.chain.readable + f.chain.writable;
        assert_true(n > 0 && n <= VIRTQ_CHAIN_MAX);
        for (unsigned s = 0; s < n; s++) {
            assert_true(gmem_offset(&f.d.gmem, f.chain.segment[s].gpa, f.chain.segment[s].len, &offset));
            total += f.chain.segment[s].len;
        }
        assert_true(total == (uint64_t)f.chain.readable_len + f.chain.writable_len);
    }
    __atomic_store_n(&f.stop, true, __ATOMIC_RELAXED);
    pthread_join(guest, NULL);
    driver_destroy(&f.d);
}

static void state_round_trips_and_hostile_state_is_refused(void **state)
{
    struct fixture f;
    set_up(&f, DRIVER_RAM);
    driver_set_desc(&f.d, 0, 0, 0x10000, 4, WRITE, 0);
    driver_offer(&f.d, 0, 0);
    driver_offer(&f.d, 0, 0);
    assert_int_equal(virtq_pop(&f.vq, &f.d.gmem, &f.chain), 1);
    uint8_t buf[64];
    struct pack p = pack_into(buf, sizeof buf);
    virtq_save(&f.vq, &p);
    assert_false(p.full);

    struct virtq child;
    struct unpack u = unpack_from(buf, p.len);
    assert_int_equal(virtq_load(&child, &f.d.gmem, &u, NULL), 0);
    assert_true(unpack_done(&u));
    assert_int_equal(virtq_walk(&child, &f.d.gmem, 0, &f.chain), 0); /* the one in flight, again */
    assert_int_equal(virtq_pop(&child, &f.d.gmem, &f.chain), 1);     /* and the one that waits */
    assert_int_equal(virtq_pop(&child, &f.d.gmem, &f.chain), 0);

    for (size_t i = 0; i < p.len; i++) {
        u = unpack_from(buf, i);
        assert_true(virtq_load(&child, &f.d.gmem, &u, NULL) < 0);
    }
    buf[11] = 0xff; /* desc above all memory */
    u = unpack_from(buf, p.len);
    assert_true(virtq_load(&child, &f.d.gmem, &u, NULL) < 0);
    driver_destroy(&f.d);
}

static void the_driver_says_whether_it_wants_interrupts(void **state)
{
    struct fixture f;
    set_up(&f, DRIVER_RAM);
    assert_true(virtq_wants_interrupt(&f.vq, &f.d.gmem));
    *(uint16_t *)driver_at(&f.d, f.vq.avail, 2) = 1;
    assert_false(virtq_wants_interrupt(&f.vq, &f.d.gmem));
    driver_destroy(&f.d);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_chain_comes_out_as_it_was_put_in),
        cmocka_unit_test(indices_wrap_at_65536),
        cmocka_unit_test(copies_cross_segments_and_stop_at_the_end),
        cmocka_unit_test(what_a_device_writes_is_marked),
        cmocka_unit_test(a_head_beyond_the_ring_is_refused),
        cmocka_unit_test(a_next_beyond_the_ring_is_refused),
        cmocka_unit_test(a_loop_is_refused),
        cmocka_unit_test(a_chain_that_points_to_itself_is_refused),
        cmocka_unit_test(more_segments_than_a_chain_may_have_are_refused),
        cmocka_unit_test(an_avail_index_that_jumps_is_refused),
        cmocka_unit_test(an_avail_index_that_goes_back_is_refused),
        cmocka_unit_test(readable_after_writable_is_refused),
        cmocka_unit_test(an_empty_segment_is_refused),
        cmocka_unit_test(an_indirect_descriptor_is_refused),
        cmocka_unit_test(lengths_that_overflow_together_are_refused),
        cmocka_unit_test(addresses_outside_memory_are_refused),
        cmocka_unit_test(rings_that_are_not_memory_cannot_be_enabled),
        cmocka_unit_test(a_chain_that_changes_while_it_is_read_is_good_or_refused),
        cmocka_unit_test(state_round_trips_and_hostile_state_is_refused),
        cmocka_unit_test(the_driver_says_whether_it_wants_interrupts),
    };
    return cmocka_run_group_tests_name("virtq", tests, NULL, NULL);
}
