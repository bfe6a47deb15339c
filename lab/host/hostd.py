"""Pid 1 of the emulated host: runs the command lab/run asks for.

Theory of operation
    One command at a time. Its stdout and stderr are pipes; whatever comes out
    of them goes out as OUT and ERR frames at once, and when it ends, EXIT. As
    pid 1 this process also reaps whatever loses its parent.

Invariants
    1. Between two requests nothing is in flight on the channel: the host may
       be saved then, and a restored one goes on as if nothing had happened.
    2. EXIT follows every byte the command itself wrote. What its background
       children write later is not waited for.
    3. While the host is saved, its only CPU is in this process: saved inside a
       nested guest, QEMU would never bring it back.
    4. HELLO comes first after a boot and after each restore: all restored
       hosts share one random state and one clock until it is served.
"""

import array
import ctypes
import fcntl
import json
import os
import selectors
import signal
import struct
import subprocess
import termios
import time

from frames import CHUNK, Decoder, Frame, frame_pack

PORT_NAME = "forkd.lab"
MOUNT_ROOT = "/run/lab"
RNDADDENTROPY = 0x40085203
RNDRESEEDCRNG = 0x5207
BLKFLSBUF = 0x1261
MS_RDONLY = 1
MS_BIND = 0x1000
LIBC = ctypes.CDLL(None, use_errno=True)


def port_open():
    """Open the virtio-serial port by the name QEMU gave it."""
    base = "/sys/class/virtio-ports"
    for port in os.listdir(base):
        with open(f"{base}/{port}/name", encoding="ascii") as name:
            if name.read().strip() == PORT_NAME:
                return os.open(f"/dev/{port}", os.O_RDWR | os.O_CLOEXEC)
    raise FileNotFoundError(f"no virtio-serial port {PORT_NAME}")


def clock_and_random_set(clock_ns, seed):
    """Monotonic time stood still while the host was saved; wall time did not."""
    time.clock_settime_ns(time.CLOCK_REALTIME, clock_ns)
    entropy = struct.pack("ii", len(seed) * 8, len(seed)) + seed
    with open("/dev/urandom", "wb", buffering=0) as random:
        fcntl.ioctl(random, RNDADDENTROPY, entropy)
        fcntl.ioctl(random, RNDRESEEDCRNG)


def disk_find(serial):
    for disk in os.listdir("/sys/block"):
        try:
            with open(f"/sys/block/{disk}/serial", encoding="ascii") as text:
                if text.read().strip() == serial:
                    return f"/dev/{disk}"
        except FileNotFoundError:
            continue
    raise FileNotFoundError(f"no disk {serial}")


def mount(source, target, kind, flags, options=""):
    """mount(2); starting mount(8) takes longer here than what it does."""
    words = (source.encode(), target.encode(), kind.encode(), flags, options.encode())
    if LIBC.mount(*words):
        error = ctypes.get_errno()
        raise OSError(error, f"mount {target}: {os.strerror(error)}")


def delivery_mount(serial, paths, writable):
    """Make the paths of one delivered disk appear where they are outside."""
    disk = disk_find(serial)
    with open(disk, "rb") as device:
        fcntl.ioctl(device, BLKFLSBUF)  # the saved host saw another content
    base = f"{MOUNT_ROOT}/{serial}"
    os.makedirs(f"{base}/ro")
    mount(disk, f"{base}/ro", "squashfs", MS_RDONLY)
    for number, path in enumerate(paths):
        source = f"{base}/ro{path}"
        if not os.path.isdir(source):
            os.makedirs(os.path.dirname(path), exist_ok=True)
            if not os.path.exists(path):
                with open(path, "xb"):
                    pass
            mount(source, path, "", MS_BIND)
            continue
        os.makedirs(path, exist_ok=True)
        if not writable:
            mount(source, path, "", MS_BIND)
            continue
        # Under a plain name: overlay's options give a meaning to colon and comma.
        lower, upper, work = (f"{base}/{name}{number}" for name in ("lower", "upper", "work"))
        for directory in (lower, upper, work):
            os.makedirs(directory)
        mount(source, lower, "", MS_BIND)
        options = f"lowerdir={lower},upperdir={upper},workdir={work}"
        mount("tree", path, "overlay", 0, options)


class Hostd:
    """The channel, and the command that runs, if any."""

    def __init__(self):
        self.port = port_open()
        self.decoder = Decoder()
        self.command = None
        self.events = selectors.DefaultSelector()
        self.events.register(self.port, selectors.EVENT_READ, self.port_readable)
        reader, writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        self.events.register(reader, selectors.EVENT_READ, self.children_reap)

    def send(self, kind, payload=b""):
        data = frame_pack(kind, payload)
        while data:
            data = data[os.write(self.port, data) :]

    def send_json(self, kind, **fields):
        self.send(kind, json.dumps(fields).encode())

    def loop(self):
        while True:
            for key, _ in self.events.select():
                key.data(key.fd)

    def port_readable(self, fd):
        data = os.read(fd, CHUNK)
        if not data:  # nobody is connected; QEMU is about to go
            time.sleep(0.1)
        self.data_serve(data)

    def data_serve(self, data):
        for kind, payload in self.decoder.feed(data):
            self.request_serve(kind, payload)

    def request_serve(self, kind, payload):
        if kind == Frame.HELLO:
            self.hello(json.loads(payload))
        elif kind == Frame.RUN:
            self.command_start(json.loads(payload))
        elif kind == Frame.KILL and self.command:
            os.killpg(self.command.pid, signal.SIGKILL)
        elif kind == Frame.FETCH:
            self.directory_send(json.loads(payload)["dir"])
        elif kind == Frame.DMESG:
            log = subprocess.run(["dmesg"], stdout=subprocess.PIPE, check=False)
            self.send(Frame.NOTE, log.stdout[-16384:])
        elif kind == Frame.HOLD:
            self.cpu_hold()

    def cpu_hold(self):
        """Let nothing else run, sandboxes included, until a request comes."""
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(99))
        os.set_blocking(self.port, False)
        self.send_json(Frame.READY, error="")
        data = None
        while not data:
            try:
                data = os.read(self.port, CHUNK)
            except BlockingIOError:
                pass
        os.set_blocking(self.port, True)
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
        self.data_serve(data)

    def hello(self, request):
        clock_and_random_set(request["clock_ns"], bytes.fromhex(request["seed"]))
        error = ""
        try:
            for entry in request["mounts"]:
                delivery_mount(entry["serial"], entry["paths"], entry["writable"])
        except OSError as failure:
            error = str(failure)
        self.send_json(Frame.READY, error=error)

    def command_start(self, request):
        try:
            for directory in request["out"]:
                os.makedirs(directory, exist_ok=True)
            self.command = subprocess.Popen(
                request["argv"],
                cwd=request["cwd"],
                env=request["env"],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,
            )
        except OSError as failure:
            text = f"lab: {request['argv'][0]}: {failure.strerror}\n"
            self.send(Frame.ERR, text.encode())
            missing = isinstance(failure, (FileNotFoundError, NotADirectoryError))
            self.send_json(Frame.EXIT, status=127 if missing else 126)
            return
        for stream, kind in ((self.command.stdout, Frame.OUT), (self.command.stderr, Frame.ERR)):
            os.set_blocking(stream.fileno(), False)
            self.events.register(
                stream, selectors.EVENT_READ, lambda fd, kind=kind: self.output_pass(fd, kind)
            )

    def output_pass(self, fd, kind, limit=CHUNK):
        """Pass one chunk on, or note that there will never be more."""
        try:
            data = os.read(fd, limit)
        except BlockingIOError:
            return
        if data:
            self.send(kind, data)
        else:
            self.events.unregister(fd)

    def output_discard(self, fd):
        """A background child of an ended command must neither block nor break."""
        if not os.read(fd, CHUNK):
            self.events.unregister(fd)
            os.close(fd)

    def children_reap(self, wakeup):
        os.read(wakeup, 4096)
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if self.command and pid == self.command.pid:
                self.command_end(status)

    def command_end(self, status):
        command, self.command = self.command, None
        code = os.waitstatus_to_exitcode(status)
        command.returncode = code
        for stream, kind in ((command.stdout, Frame.OUT), (command.stderr, Frame.ERR)):
            self.output_finish(stream, kind)
        self.send_json(Frame.EXIT, status=code if code >= 0 else 128 - code)

    def output_finish(self, stream, kind):
        """Pass on what the command wrote before it ended, and no more than that."""
        if stream.fileno() in self.events.get_map():
            waiting = array.array("i", [0])
            fcntl.ioctl(stream, termios.FIONREAD, waiting)
            while waiting[0] > 0 and stream.fileno() in self.events.get_map():
                self.output_pass(stream.fileno(), kind, min(waiting[0], CHUNK))
                waiting[0] -= CHUNK
        if stream.fileno() in self.events.get_map():
            self.events.unregister(stream)
            kept = os.dup(stream.fileno())
            os.set_blocking(kept, False)
            self.events.register(kept, selectors.EVENT_READ, self.output_discard)
        stream.close()

    def directory_send(self, directory):
        archive = subprocess.Popen(
            ["tar", "-C", directory, "-cf", "-", "."],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        while data := os.read(archive.stdout.fileno(), CHUNK):
            self.send(Frame.TAR, data)
        archive.stdout.close()
        self.send(Frame.TAR)


if __name__ == "__main__":
    os.environ.pop("PYTHONSTARTUP", None)
    Hostd().loop()
