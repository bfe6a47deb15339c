/* serial.c: see serial.h.
 *
 * SECCOMP: ftruncate - the console's file begins again when it is full
 * SECCOMP: pwrite64 - the guest's console goes to a file */
#include "dev/serial.h"

#include "base/io.h"

#include <errno.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { FILE_CHUNK = 512 }; /* of a line without end, so much is written at once */

enum {
    REG_DATA = 0, /* RBR, THR; with DLAB the divisor's low byte */
    REG_IER = 1,  /* with DLAB the divisor's high byte */
    REG_IIR_FCR = 2,
    REG_LCR = 3,
    REG_MCR = 4,
    REG_LSR = 5,
    REG_MSR = 6,
    REG_SCR = 7,
};

enum { IER_RDI = 1, IER_THRI = 2, IER_MASK = 15 };
enum { IIR_NONE = 1, IIR_THRE = 2, IIR_RDI = 4, IIR_FIFO = 0xc0 };
enum { FCR_ENABLE = 1, FCR_CLEAR_RX = 2 };
enum { LCR_DLAB = 0x80 };
enum { MCR_DTR = 1, MCR_RTS = 2, MCR_OUT1 = 4, MCR_OUT2 = 8, MCR_LOOP = 0x10, MCR_MASK = 0x1f };
enum { LSR_DR = 1, LSR_OE = 2, LSR_THRE = 0x20, LSR_TEMT = 0x40 };
enum { MSR_CTS = 0x10, MSR_DSR = 0x20, MSR_RI = 0x40, MSR_DCD = 0x80 };

void serial_init(struct serial *serial)
{
    /* Field by field: clearing the whole would touch every page of the ring, which is zero in fresh memory
     * and, whatever it holds, unread beyond `printed`. */
    serial->raise = NULL;
    serial->owner = NULL;
    serial->ier = serial->fcr = serial->lcr = serial->mcr = serial->scr = 0;
    serial->dll = 12; /* 9600 baud */
    serial->dlm = 0;
    serial->thre_pending = serial->overrun = false;
    memset(serial->rx, 0, sizeof serial->rx);
    serial->rx_len = 0;
    serial->fd = -1;
    serial->fd_is_file = false;
    serial->fd_len = serial->printed = serial->to_file = 0;
}

/* The cause of the interrupt with the highest priority, as IIR names it. */
static uint8_t pending(const struct serial *serial)
{
    if (serial->ier & IER_RDI && serial->rx_len)
        return IIR_RDI;
    if (serial->ier & IER_THRI && serial->thre_pending)
        return IIR_THRE;
    return IIR_NONE;
}

/* Called with what pending() was before a register changed. */
static void edge_after(struct serial *serial, uint8_t before)
{
    uint8_t now = pending(serial);
    if (now != IIR_NONE && now != before && serial->raise)
        serial->raise(serial);
}

/* The log */

/* The newest `len` bytes printed, at most SERIAL_RING, as two runs. */
struct ring_runs {
    const uint8_t *first, *second;
    size_t first_len, second_len;
};

static struct ring_runs ring_newest(const struct serial *serial, size_t len)
{
    size_t at = (size_t)((serial->printed - len) % SERIAL_RING), head = SERIAL_RING - at;
    struct ring_runs runs = {serial->ring + at, serial->ring, len < head ? len : head, 0};
    runs.second_len = len - runs.first_len;
    return runs;
}

static size_t ring_len(const struct serial *serial)
{
    return serial->printed < SERIAL_RING ? (size_t)serial->printed : SERIAL_RING;
}

static int file_put(struct serial *serial, const uint8_t *bytes, size_t len)
{
    if (!len)
        return 0;
    int rc = serial->fd_is_file ? io_pwrite_all(serial->fd, bytes, len, serial->fd_len, NULL)
                                : io_write_all(serial->fd, bytes, len, NULL);
    if (rc == 0)
        serial->fd_len += len;
    return rc;
}

/* Brings the file up to date. A file that cannot be written is given up: a guest does not stop for its log. */
static void file_flush(struct serial *serial)
{
    size_t len = (size_t)(serial->printed - serial->to_file);
    if (serial->fd < 0 || !len)
        return;
    if (serial->fd_is_file && serial->fd_len + len > SERIAL_FILE_MAX) {
        len = ring_len(serial);
        serial->fd_len = 0;
        if (ftruncate(serial->fd, 0) < 0) {
            serial->fd = -1;
            return;
        }
    }
    struct ring_runs runs = ring_newest(serial, len);
    if (file_put(serial, runs.first, runs.first_len) < 0 || file_put(serial, runs.second, runs.second_len) < 0)
        serial->fd = -1;
    serial->to_file = serial->printed;
}

static void log_put(struct serial *serial, uint8_t byte)
{
    serial->ring[serial->printed++ % SERIAL_RING] = byte;
    if (byte == '\n' || serial->printed - serial->to_file >= FILE_CHUNK)
        file_flush(serial);
}

void serial_attach(struct serial *serial, int fd)
{
    struct stat st;
    serial->fd = fd;
    serial->fd_is_file = fd >= 0 && fstat(fd, &st) == 0 && S_ISREG(st.st_mode);
    serial->fd_len = 0;
    serial->to_file = serial->printed;
    if (serial->fd_is_file && ftruncate(fd, 0) < 0)
        serial->fd = -1;
}

void serial_detach(struct serial *serial)
{
    file_flush(serial);
    serial->fd = -1;
}

/* Registers */

static void rx_put(struct serial *serial, uint8_t byte)
{
    unsigned room = serial->fcr & FCR_ENABLE ? SERIAL_RX_FIFO : 1;
    if (serial->rx_len >= room)
        serial->overrun = true;
    else
        serial->rx[serial->rx_len++] = byte;
}

static uint8_t rx_take(struct serial *serial)
{
    if (!serial->rx_len)
        return 0;
    uint8_t byte = serial->rx[0];
    memmove(serial->rx, serial->rx + 1, --serial->rx_len);
    return byte;
}

static uint8_t lsr_read(struct serial *serial)
{
    uint8_t v = LSR_THRE | LSR_TEMT;
    if (serial->rx_len)
        v |= LSR_DR;
    if (serial->overrun)
        v |= LSR_OE;
    serial->overrun = false;
    return v;
}

static uint8_t msr_read(const struct serial *serial)
{
    if (!(serial->mcr & MCR_LOOP))
        return MSR_DCD | MSR_DSR | MSR_CTS;
    uint8_t v = 0; /* in loopback the outputs are the inputs */
    v |= serial->mcr & MCR_RTS ? MSR_CTS : 0;
    v |= serial->mcr & MCR_DTR ? MSR_DSR : 0;
    v |= serial->mcr & MCR_OUT1 ? MSR_RI : 0;
    v |= serial->mcr & MCR_OUT2 ? MSR_DCD : 0;
    return v;
}

static uint8_t iir_read(struct serial *serial)
{
    uint8_t cause = pending(serial);
    if (cause == IIR_THRE)
        serial->thre_pending = false;
    return cause | (serial->fcr & FCR_ENABLE ? IIR_FIFO : 0);
}

uint8_t serial_read(struct serial *serial, unsigned reg)
{
    bool dlab = serial->lcr & LCR_DLAB;
    switch (reg) {
    case REG_DATA:
        return dlab ? serial->dll : rx_take(serial);
    case REG_IER:
        return dlab ? serial->dlm : serial->ier;
    case REG_IIR_FCR:
        return iir_read(serial);
    case REG_LCR:
        return serial->lcr;
    case REG_MCR:
        return serial->mcr;
    case REG_LSR:
        return lsr_read(serial);
    case REG_MSR:
        return msr_read(serial);
    case REG_SCR:
        return serial->scr;
    default:
        return 0xff;
    }
}

static void data_write(struct serial *serial, uint8_t v)
{
    if (serial->mcr & MCR_LOOP)
        rx_put(serial, v);
    else
        log_put(serial, v);
    serial->thre_pending = true;
}

static void ier_write(struct serial *serial, uint8_t v)
{
    /* The transmitter is empty, so enabling its interrupt is a cause at once; Linux's probe relies on it. */
    if (v & IER_THRI && !(serial->ier & IER_THRI))
        serial->thre_pending = true;
    serial->ier = v & IER_MASK;
}

static void fcr_write(struct serial *serial, uint8_t v)
{
    /* Turning the FIFOs on or off empties them. */
    if (v & FCR_CLEAR_RX || (v ^ serial->fcr) & FCR_ENABLE)
        serial->rx_len = 0;
    serial->fcr = v & FCR_ENABLE;
}

void serial_write(struct serial *serial, unsigned reg, uint8_t v)
{
    bool dlab = serial->lcr & LCR_DLAB;
    uint8_t before = pending(serial);
    switch (reg) {
    case REG_DATA:
        if (dlab)
            serial->dll = v;
        else
            data_write(serial, v);
        break;
    case REG_IER:
        if (dlab)
            serial->dlm = v;
        else
            ier_write(serial, v);
        break;
    case REG_IIR_FCR:
        fcr_write(serial, v);
        break;
    case REG_LCR:
        serial->lcr = v;
        break;
    case REG_MCR:
        serial->mcr = v & MCR_MASK;
        break;
    case REG_SCR:
        serial->scr = v;
        break;
    }
    edge_after(serial, before);
}

void serial_save(const struct serial *serial, struct pack *p)
{
    const uint8_t regs[] = {serial->ier, serial->fcr, serial->lcr, serial->mcr, serial->scr, serial->dll, serial->dlm};
    pack_bytes(p, regs, sizeof regs);
    pack_u8(p, serial->thre_pending);
    pack_u8(p, serial->overrun);
    pack_u8(p, serial->rx_len);
    pack_bytes(p, serial->rx, sizeof serial->rx);
}

int serial_load(struct serial *serial, struct unpack *u, struct err *err)
{
    serial->ier = unpack_u8(u) & IER_MASK;
    serial->fcr = unpack_u8(u) & FCR_ENABLE;
    serial->lcr = unpack_u8(u);
    serial->mcr = unpack_u8(u) & MCR_MASK;
    serial->scr = unpack_u8(u);
    serial->dll = unpack_u8(u);
    serial->dlm = unpack_u8(u);
    serial->thre_pending = unpack_u8(u);
    serial->overrun = unpack_u8(u);
    uint8_t rx_len = unpack_u8(u);
    unpack_bytes(u, serial->rx, sizeof serial->rx);
    if (u->bad || rx_len > SERIAL_RX_FIFO)
        return err_say(err, EINVAL, "the state of the serial port is malformed");
    serial->rx_len = rx_len;
    return 0;
}

void serial_resume(struct serial *serial)
{
    if (pending(serial) != IIR_NONE && serial->raise)
        serial->raise(serial);
}
