"""Frames on the channel between lab/run and the emulated host's pid 1.

Both ends use this file. A frame is a type (1 byte), the length of its payload
(4 bytes, little-endian) and the payload. The channel is reliable and ordered,
so there are no checksums and no acknowledgements; a frame that cannot be right
means that the stream is lost, and so is the host.
"""

import enum
import struct

HEADER = struct.Struct("<BI")
PAYLOAD_MAX = 1 << 20
CHUNK = 64 << 10


class Frame(enum.IntEnum):
    """Direction and payload of each type."""

    # lab/run -> host
    HELLO = 1  # JSON: clock, seed, mounts; answered by READY
    RUN = 2  # JSON: argv, cwd, env, out; answered by OUT and ERR, then EXIT
    KILL = 3  # kill the command's session; EXIT follows
    FETCH = 4  # JSON: dir; answered by TAR frames, the last one empty
    DMESG = 5  # answered by NOTE
    HOLD = 6  # keep the CPU until HELLO comes; answered by READY
    NUDGE = 7  # nothing: its interrupt is what it is for (docs/lab.md, Nudges)
    # host -> lab/run
    READY = 16  # JSON: error, empty when all is well
    OUT = 17  # bytes of the command's stdout
    ERR = 18  # bytes of the command's stderr
    EXIT = 19  # JSON: status, as a shell gives it
    TAR = 20  # bytes of a tar archive
    NOTE = 21  # text for whoever looks for the cause of a failure


class BadFrame(Exception):
    """The other end sent what no frame looks like."""


def frame_pack(kind, payload=b""):
    return HEADER.pack(kind, len(payload)) + payload


class Decoder:
    """Cuts a byte stream into frames; keeps what is not yet whole."""

    def __init__(self):
        self._buffer = bytearray()

    def feed(self, data):
        """Add bytes; return the list of (type, payload) they complete."""
        self._buffer += data
        frames = []
        start = 0
        while len(self._buffer) - start >= HEADER.size:
            kind, length = HEADER.unpack_from(self._buffer, start)
            if length > PAYLOAD_MAX:
                raise BadFrame(f"a frame of {length} bytes")
            end = start + HEADER.size + length
            if len(self._buffer) < end:
                break
            try:
                kind = Frame(kind)
            except ValueError:
                raise BadFrame(f"a frame of type {kind}") from None
            frames.append((kind, bytes(self._buffer[start + HEADER.size : end])))
            start = end
        del self._buffer[:start]
        return frames
