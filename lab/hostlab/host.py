"""An emulated host that runs: the conversation with its pid 1.

Theory of operation
    A host is booted or restored, greeted (HELLO: clock, random seed, what to
    mount), given one command, and ended. One thread reads channel and console
    in turn; the console is kept only as a bounded tail, for failures.

States
    starting   QEMU runs; nothing may be asked yet.
    held       hold() returned: the host may be saved; hello() makes it idle.
    idle       READY came: a command may be run, a directory fetched,
               the host held. Nothing is in flight on the channel.
    running    a command runs; only KILL and DMESG may be sent.
    lost       QEMU or the emulated kernel ended; only close() is left.
"""

import json
import os
import re
import selectors
import subprocess
import sys
import time

from .frames import CHUNK, BadFrame, Decoder, Frame, frame_pack
from .say import LabError, say

CONSOLE_TAIL = 32 << 10
SEED_BYTES = 64
NUDGE_SECONDS = 1.0
# What an oops of the emulated kernel looks like. Running out of memory, or the
# end of pid 1, is the command's doing and not one.
OOPS = re.compile(
    rb"Oops:|BUG: unable to handle|general protection fault|invalid opcode"
    rb"|kernel BUG at|double fault|int3:|Fatal exception"
)
# The line with which an account of a kernel's end begins: of an oops, else of
# the panic. "Fatal exception" is a panic's; the oops that led to it comes before.
OOPS_HEAD = re.compile(
    r"BUG: unable to handle|kernel BUG at|general protection fault|double fault|Oops:|int3:|invalid opcode"
)
PANIC = "Kernel panic"
LINES_SHOWN = 40
ACCOUNT_SHOWN = 80


class HostLost(LabError):
    """The host ended under a command, or does not answer."""

    def __init__(self, text, oopsed):
        super().__init__(text)
        self.oopsed = oopsed


class MountFailed(LabError):
    """The host is well, but cannot show what was delivered."""


class TimedOut(Exception):
    """The time limit passed before the answer came."""


class Host:
    def __init__(self, qemu):
        """Takes qemu over: close() ends it."""
        self._qemu = qemu
        self._decoder = Decoder()
        self._console = b""
        self._queue = []
        self._events = selectors.DefaultSelector()
        self._events.register(qemu.channel, selectors.EVENT_READ, self._channel_read)
        self._events.register(qemu.console, selectors.EVENT_READ, self._console_read)
        self.monitor = qemu.monitor

    def close(self):
        self._events.close()
        self._qemu.close()

    # ---- reading ----

    def _channel_read(self):
        data = self._qemu.channel.recv(CHUNK)
        if not data:
            self._lost("The emulated host ended by itself.")
        try:
            self._queue += self._decoder.feed(data)
        except BadFrame as bad:
            self._lost(f"The emulated host sent {bad}.")

    def _console_read(self):
        data = self._qemu.console.recv(CHUNK)
        if not data:
            self._events.unregister(self._qemu.console)
        self._console = (self._console + data)[-CONSOLE_TAIL:]

    def _console_drain(self):
        """QEMU is gone: take what its UART still said."""
        self._qemu.console.settimeout(1)
        try:
            while data := self._qemu.console.recv(CHUNK):
                self._console += data
        except OSError:
            pass

    def _lost(self, text):
        self._console_drain()
        raise HostLost(text, bool(OOPS.search(self._console)))

    def _frame(self, end):
        """Next frame; TimedOut once time.monotonic() is past end (None: never)."""
        while not self._queue:
            left = None if end is None else end - time.monotonic()
            if left is not None and left <= 0:
                raise TimedOut
            for key, _ in self._events.select(left):
                key.data()
        return self._queue.pop(0)

    def _frame_nudged(self, end):
        """As _frame(), from a host that runs a command and may have lost an interrupt."""
        while True:
            nudge = time.monotonic() + NUDGE_SECONDS
            try:
                return self._frame(nudge if end is None else min(nudge, end))
            except TimedOut:
                if end is not None and time.monotonic() >= end:
                    raise
                self._send(Frame.NUDGE)

    def _send(self, kind, **fields):
        try:
            self._qemu.channel.sendall(frame_pack(kind, json.dumps(fields).encode()))
        except OSError:
            self._lost("The emulated host ended by itself.")

    # ---- requests ----

    def hello(self, mounts, seconds):
        """Wait until the host is up, set its clock, reseed it, mount."""
        self._send(
            Frame.HELLO, clock_ns=time.time_ns(), seed=os.urandom(SEED_BYTES).hex(), mounts=mounts
        )
        if error := self._ready_wait(seconds):
            raise MountFailed(f"The emulated host could not mount: {error}.")

    def hold(self, seconds):
        """Bring the host to where it can be saved; only hello() ends that."""
        self._send(Frame.HOLD)
        self._ready_wait(seconds)

    def _ready_wait(self, seconds):
        try:
            kind, payload = self._frame(time.monotonic() + seconds)
        except TimedOut:
            raise HostLost(f"The emulated host did not answer in {seconds} s.", False) from None
        if kind != Frame.READY:
            raise HostLost(f"The emulated host sent {kind.name} instead of READY.", False)
        return json.loads(payload)["error"]

    def run(self, argv, cwd, env, out, end, stdout=None):
        """Run a command, its output passed on live; returns its exit status."""
        self._send(Frame.RUN, argv=argv, cwd=cwd, env=env, out=out)
        return self._until_exit(end, stdout or sys.stdout.buffer)

    def _until_exit(self, end, stdout):
        while True:
            kind, payload = self._frame_nudged(end)
            if kind == Frame.OUT:
                output_write(stdout, payload)
            elif kind == Frame.ERR:
                output_write(sys.stderr.buffer, payload)
            elif kind == Frame.EXIT:
                return json.loads(payload)["status"]

    def kill(self, seconds):
        """End a command that took too long; True when the host could do it."""
        try:
            self._send(Frame.KILL)
            self._until_exit(time.monotonic() + seconds, sys.stdout.buffer)
        except (TimedOut, HostLost):
            return False
        return True

    def fetch(self, directory, seconds):
        """Copy a directory of the host to the same path outside."""
        os.makedirs(directory, exist_ok=True)
        self._send(Frame.FETCH, dir=directory)
        end = time.monotonic() + seconds
        unpack = subprocess.Popen(
            ["tar", "-xf", "-", "--no-same-owner", "-C", directory], stdin=subprocess.PIPE
        )
        try:
            with unpack.stdin as archive:
                while payload := self._tar_chunk(end):
                    archive.write(payload)
        except TimedOut:
            unpack.kill()
            raise LabError(f"{directory} could not be copied out in {seconds} s.") from None
        finally:
            status = unpack.wait()
        if status:
            raise LabError(f"{directory} could not be unpacked outside the lab.")

    def _tar_chunk(self, end):
        while True:
            kind, payload = self._frame(end)
            if kind == Frame.TAR:
                return payload

    def report(self, ask):
        """Show what may explain a failure: the host's log, console and QEMU's words."""
        if ask:
            try:
                self._send(Frame.DMESG)
                end = time.monotonic() + 5
                while (frame := self._frame(end))[0] != Frame.NOTE:
                    pass
                lines_show("last lines of the host's kernel log", frame[1])
            except (TimedOut, HostLost):
                pass
        lines_show("last lines of the host's console", self._console, account_begin)
        lines_show("QEMU said", "\n".join(self._qemu.log_tail()).encode())


def output_write(stream, data):
    stream.write(data)
    stream.flush()


def account_begin(lines):
    """Index of the line that says why the kernel ended; None when none does.

    A trace of any length follows that line, so the last lines may not have it.
    """
    panics = [i for i, line in enumerate(lines) if PANIC in line]
    heads = [i for i, line in enumerate(lines) if OOPS_HEAD.search(line) and PANIC not in line]
    if panics and "Fatal exception" not in lines[panics[-1]]:
        return panics[-1]
    # An oops has several such lines, close together: the first of the last group.
    while len(heads) > 1 and heads[-1] - heads[-2] <= 3:
        heads.pop()
    return (heads or panics or [None])[-1]


def lines_show(title, data, begin=None):
    """Show the last lines, or those from begin(lines) on; bounded either way."""
    lines = [line.rstrip() for line in data.decode(errors="replace").splitlines() if line.strip()]
    first = begin(lines) if begin else None
    shown = lines[-LINES_SHOWN:] if first is None else lines[first : first + ACCOUNT_SHOWN]
    if shown:
        say(f"{title}:")
        for line in shown:
            print(f"  | {line}", file=sys.stderr)
