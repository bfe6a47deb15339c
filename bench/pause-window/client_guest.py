"""In the guest: answers every byte on one vsock port; ticks, writes pages, and tells the longest gap on another.

    client_guest.py echo PORT | client_guest.py tick PORT PAGES     PAGES are written with each tick of a millisecond
"""

import select
import socket
import sys
import time

PAGE, HOT_BYTES = 4096, 16 << 20


def listen(port):
    listener = socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)
    listener.bind((socket.VMADDR_CID_ANY, port))
    listener.listen(1)
    return listener


def echo(port):
    while True:
        connection, _ = listen(port).accept()
        while data := connection.recv(64):
            connection.sendall(data)


def tick(port, pages):
    """The longest step since it was last asked, in nanoseconds, for each byte received."""
    connection, _ = listen(port).accept()
    hot = bytearray(HOT_BYTES)
    at, longest, last = 0, 0, time.monotonic_ns()
    while True:
        asked, _, _ = select.select([connection], [], [], 0.001)
        for _ in range(pages):
            hot[at] = (hot[at] + 1) % 256
            at = (at + PAGE) % HOT_BYTES
        now = time.monotonic_ns()
        longest, last = max(longest, now - last), now
        if asked:
            connection.recv(1)
            connection.sendall(b"%d\n" % longest)
            longest = 0


if __name__ == "__main__":
    if sys.argv[1] == "echo":
        echo(int(sys.argv[2]))
    tick(int(sys.argv[2]), int(sys.argv[3]))
