/* loop.c: claims about the event loop. */
#include "sys/loop.h"
#include "base/clock.h"
#include "base/own.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

static struct loop loop;

struct ear {
    struct loop_source source;
    int pipe[2];
    int heard;
    struct ear *kills; /* removes that one when it hears something */
};

static void hear(struct loop_source *source, uint32_t events)
{
    struct ear *ear = list_entry(source, struct ear, source);
    char c;
    assert_int_equal(read(source->fd, &c, 1), 1);
    ear->heard++;
    if (ear->kills)
        loop_remove(&loop, &ear->kills->source);
    loop_stop(&loop);
}

static void ear_open(struct ear *ear)
{
    memset(ear, 0, sizeof *ear);
    assert_int_equal(pipe(ear->pipe), 0);
    ear->source = (struct loop_source){.fd = -1, .fn = hear};
    assert_int_equal(loop_add(&loop, &ear->source, ear->pipe[0], EPOLLIN, NULL), 0);
}

static void ear_close(struct ear *ear)
{
    loop_remove(&loop, &ear->source);
    close(ear->pipe[0]);
    close(ear->pipe[1]);
}

static int setup(void **state)
{
    return loop_init(&loop, NULL);
}

static int teardown(void **state)
{
    loop_destroy(&loop);
    return 0;
}

static void a_source_hears_what_comes(void **state)
{
    struct ear a;
    ear_open(&a);
    assert_int_equal(write(a.pipe[1], "x", 1), 1);
    assert_int_equal(loop_run(&loop, NULL), 0);
    assert_int_equal(a.heard, 1);
    ear_close(&a);
}

/* Both are ready in one batch; whichever is called first removes the other. */
static void a_source_removed_in_a_batch_is_not_called(void **state)
{
    struct ear a, b;
    ear_open(&a);
    ear_open(&b);
    a.kills = &b;
    b.kills = &a;
    assert_int_equal(write(a.pipe[1], "x", 1), 1);
    assert_int_equal(write(b.pipe[1], "x", 1), 1);
    assert_int_equal(loop_run(&loop, NULL), 0);
    assert_int_equal(a.heard + b.heard, 1);
    assert_true((a.source.fd < 0) != (b.source.fd < 0));
    ear_close(&a);
    ear_close(&b);
}

static char fired[8];

struct bell {
    struct loop_timer timer;
    char name;
};

static void ring(struct loop_timer *timer)
{
    struct bell *bell = list_entry(timer, struct bell, timer);
    strncat(fired, &bell->name, 1);
    if (bell->name == 'c')
        loop_stop(&loop);
}

static void timers_fire_in_order_once_and_not_before_their_time(void **state)
{
    uint64_t now = clock_monotonic_ns();
    struct bell a = {{.fn = ring}, 'a'}, b = {{.fn = ring}, 'b'}, c = {{.fn = ring}, 'c'}, d = {{.fn = ring}, 'd'};
    fired[0] = 0;
    loop_timer_set(&loop, &c.timer, now + 3 * NS_PER_MS);
    loop_timer_set(&loop, &a.timer, now);
    loop_timer_set(&loop, &d.timer, now);
    loop_timer_set(&loop, &b.timer, now + 50 * NS_PER_MS);
    loop_timer_set(&loop, &b.timer, now + 1 * NS_PER_MS); /* set again: the later word counts */
    loop_timer_clear(&d.timer);
    assert_int_equal(loop_run(&loop, NULL), 0);
    assert_string_equal(fired, "abc");
    assert_true(clock_monotonic_ns() >= now + 3 * NS_PER_MS);
}

static int woken;

static void woke(struct loop *l)
{
    woken++;
    loop_stop(l);
}

static void *waker(void *arg)
{
    loop_wake(&loop);
    return NULL;
}

static void another_thread_wakes_the_loop(void **state)
{
    pthread_t thread;
    woken = 0;
    loop.on_wake = woke;
    assert_int_equal(pthread_create(&thread, NULL, waker, NULL), 0);
    assert_int_equal(loop_run(&loop, NULL), 0);
    pthread_join(thread, NULL);
    assert_int_equal(woken, 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_source_hears_what_comes, setup, teardown),
        cmocka_unit_test_setup_teardown(a_source_removed_in_a_batch_is_not_called, setup, teardown),
        cmocka_unit_test_setup_teardown(timers_fire_in_order_once_and_not_before_their_time, setup, teardown),
        cmocka_unit_test_setup_teardown(another_thread_wakes_the_loop, setup, teardown),
    };
    return cmocka_run_group_tests_name("loop", tests, NULL, NULL);
}
