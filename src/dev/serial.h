/* serial.h: a 16550A UART (National Semiconductor PC16550D), the guest's console, into a bounded log.
 *
 * Theory of operation. The transmitter is always ready: a byte written is in the log at once, and its interrupt
 * (THRE), where the driver enabled it, follows at once. The log has two parts, both bounded whatever the guest
 * prints: a ring of the last SERIAL_RING bytes in memory, and a file that gets whole lines; when the file
 * reaches SERIAL_FILE_MAX it is rewritten with what the ring holds. The receiver is the FIFO of 16 bytes that
 * the loopback test of drivers uses.
 *
 * The interrupt line is edge-triggered: raise() is called when the cause of an interrupt appears, and once more
 * after a restore. What was printed is not state: a fork inherits the ring as memory and writes a file of its own.
 *
 * Threads: the caller holds the machine's device lock. The file should be on a filesystem that does not keep
 * its writer waiting (tmpfs): lines are written on the vCPU's thread. */
#ifndef FORKD_DEV_SERIAL_H
#define FORKD_DEV_SERIAL_H

#include "base/err.h"
#include "base/pack.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { SERIAL_PORTS = 8, SERIAL_RX_FIFO = 16, SERIAL_RING = 64 << 10, SERIAL_FILE_MAX = 1 << 20 };

struct serial {
    void (*raise)(struct serial *serial); /* makes an edge on the line */
    void *owner;                          /* the machine's, for raise */

    uint8_t ier, fcr, lcr, mcr, scr, dll, dlm;
    bool thre_pending; /* the transmitter became empty and IIR has not been read since */
    bool overrun;      /* a byte was received while the FIFO was full */
    uint8_t rx[SERIAL_RX_FIFO];
    uint8_t rx_len;

    int fd;                    /* the log file, or -1; not owned */
    bool fd_is_file;           /* it is a regular file, so its size is bounded here */
    uint64_t fd_len;           /* bytes in it */
    uint64_t printed;          /* bytes printed in all: the ring's write position */
    uint64_t to_file;          /* of them, written to the file */
    uint8_t ring[SERIAL_RING]; /* last: pages of it are touched as the guest prints */
};

/* raise and owner are set by the machine after. */
void serial_init(struct serial *serial);
/* `fd` is written to until serial_detach(); it stays the caller's, and stays open until then. A regular file
 * must be opened for writing without O_APPEND; what it holds is overwritten. */
void serial_attach(struct serial *serial, int fd);
void serial_detach(struct serial *serial);

/* Accesses of the guest, one byte wide; `reg` is 0 to 7. */
uint8_t serial_read(struct serial *serial, unsigned reg);
void serial_write(struct serial *serial, unsigned reg, uint8_t v);

void serial_save(const struct serial *serial, struct pack *p);
int serial_load(struct serial *serial, struct unpack *u, struct err *err);
/* After a restore: an interrupt that was pending is raised again. */
void serial_resume(struct serial *serial);

#endif
