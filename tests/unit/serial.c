/* serial.c: claims about src/dev/serial.c: what Linux's 8250 probe expects, and that the log is bounded. */
#include "dev/serial.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

enum { DATA, IER, IIR, LCR, MCR, LSR, MSR, SCR, FCR = IIR };

static struct serial port;
static unsigned edges;

static void on_raise(struct serial *serial)
{
    edges++;
}

static int set_up(void **state)
{
    serial_init(&port);
    port.raise = on_raise;
    edges = 0;
    return 0;
}

static void print(const char *text)
{
    for (; *text; text++)
        serial_write(&port, DATA, (uint8_t)*text);
}

static void linux_finds_a_16550a(void **state)
{
    serial_write(&port, IER, 0);
    assert_int_equal(serial_read(&port, IER), 0);
    serial_write(&port, IER, 0x0f);
    assert_int_equal(serial_read(&port, IER), 0x0f);
    serial_write(&port, IER, 0);
    serial_write(&port, MCR, 0x1a); /* loopback, OUT2, RTS */
    assert_int_equal(serial_read(&port, MSR) & 0xf0, 0x90);
    serial_write(&port, MCR, 0);
    serial_write(&port, FCR, 1);
    assert_int_equal(serial_read(&port, IIR) >> 6, 3);
    serial_write(&port, SCR, 0xa5);
    assert_int_equal(serial_read(&port, SCR), 0xa5);
    serial_write(&port, LCR, 0x80);
    serial_write(&port, DATA, 1);
    serial_write(&port, IER, 2);
    assert_int_equal(serial_read(&port, DATA), 1);
    assert_int_equal(serial_read(&port, IER), 2);
    serial_write(&port, LCR, 3);
    assert_int_equal(serial_read(&port, IER), 0);
    assert_int_equal(serial_read(&port, LSR) & 0x60, 0x60);
}

static void loopback_returns_what_was_sent_and_prints_nothing(void **state)
{
    serial_write(&port, FCR, 1);
    serial_write(&port, MCR, 0x10);
    for (int i = 0; i < 20; i++)
        serial_write(&port, DATA, (uint8_t)i);
    assert_int_equal(serial_read(&port, LSR) & 3, 3); /* data, and an overrun */
    for (int i = 0; i < SERIAL_RX_FIFO; i++)
        assert_int_equal(serial_read(&port, DATA), i);
    assert_int_equal(serial_read(&port, LSR) & 3, 0);
    assert_int_equal(port.printed, 0);
}

static void the_transmitter_interrupts_when_it_is_empty(void **state)
{
    serial_write(&port, DATA, 'x');
    assert_int_equal(edges, 0); /* not enabled */
    serial_write(&port, IER, 2);
    assert_int_equal(edges, 1);
    assert_int_equal(serial_read(&port, IIR) & 15, 2);
    assert_int_equal(serial_read(&port, IIR) & 15, 1); /* reading it took it away */
    serial_write(&port, DATA, 'y');
    assert_int_equal(edges, 2);
    serial_write(&port, DATA, 'z');
    assert_int_equal(edges, 2); /* still the same cause */
    serial_read(&port, IIR);
    serial_write(&port, IER, 0);
    serial_write(&port, IER, 2);
    assert_int_equal(edges, 3);
}

static void a_pending_interrupt_survives_save_and_load(void **state)
{
    serial_write(&port, IER, 2);
    serial_write(&port, SCR, 7);
    uint8_t buf[64];
    struct pack p = pack_into(buf, sizeof buf);
    serial_save(&port, &p);
    assert_false(p.full);
    static struct serial child;
    serial_init(&child);
    child.raise = on_raise;
    struct unpack u = unpack_from(buf, p.len);
    assert_int_equal(serial_load(&child, &u, NULL), 0);
    assert_true(unpack_done(&u));
    edges = 0;
    serial_resume(&child);
    assert_int_equal(edges, 1);
    assert_int_equal(serial_read(&child, IIR) & 15, 2);
    assert_int_equal(serial_read(&child, SCR), 7);

    buf[9] = SERIAL_RX_FIFO + 1;
    u = unpack_from(buf, p.len);
    assert_true(serial_load(&child, &u, NULL) < 0);
    u = unpack_from(buf, p.len - 1);
    assert_true(serial_load(&child, &u, NULL) < 0);
}

static void the_file_gets_lines_and_stays_bounded(void **state)
{
    FILE *file = tmpfile();
    assert_non_null(file);
    serial_attach(&port, fileno(file));
    print("a line\nand a part");
    struct stat st;
    char got[64] = {0};
    assert_int_equal(pread(fileno(file), got, sizeof got - 1, 0), 7);
    assert_string_equal(got, "a line\n");

    for (int i = 0; i < 100000; i++) {
        char line[64];
        snprintf(line, sizeof line, "line number %d of very many\n", i);
        print(line);
        if (i % 1000)
            continue;
        assert_int_equal(fstat(fileno(file), &st), 0);
        assert_true(st.st_size <= SERIAL_FILE_MAX);
    }
    print("the end");
    serial_detach(&port);
    assert_int_equal(fstat(fileno(file), &st), 0);
    assert_true(st.st_size >= SERIAL_RING / 2 && st.st_size <= SERIAL_FILE_MAX);
    memset(got, 0, sizeof got);
    const char *last = "line number 99999 of very many\nthe end";
    assert_int_equal(pread(fileno(file), got, strlen(last), st.st_size - (off_t)strlen(last)), strlen(last));
    assert_string_equal(got, last);
    print("after\n"); /* into the ring alone */
    struct stat after;
    assert_int_equal(fstat(fileno(file), &after), 0);
    assert_int_equal(after.st_size, st.st_size);
    fclose(file);
}

static void a_file_that_cannot_be_written_is_given_up(void **state)
{
    int fds[2];
    assert_int_equal(pipe(fds), 0);
    close(fds[1]);
    serial_attach(&port, fds[0]);
    print("lost\nkept\n");
    assert_int_equal(port.fd, -1);
    assert_memory_equal(port.ring, "lost\nkept\n", port.printed);
    assert_int_equal(port.printed, 10);
    close(fds[0]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(linux_finds_a_16550a, set_up),
        cmocka_unit_test_setup(loopback_returns_what_was_sent_and_prints_nothing, set_up),
        cmocka_unit_test_setup(the_transmitter_interrupts_when_it_is_empty, set_up),
        cmocka_unit_test_setup(a_pending_interrupt_survives_save_and_load, set_up),
        cmocka_unit_test_setup(the_file_gets_lines_and_stays_bounded, set_up),
        cmocka_unit_test_setup(a_file_that_cannot_be_written_is_given_up, set_up),
    };
    return cmocka_run_group_tests_name("serial", tests, NULL, NULL);
}
