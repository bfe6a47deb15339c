"""One QEMU process: its command line, its monitor, its end.

Theory of operation
    QEMU is joined to this process by three socket pairs it inherits: the
    channel (a virtio-serial port), the console (the UART) and the monitor
    (QMP). No path on disk names them, so nothing is left behind and nobody
    else can connect.

Invariants
    1. QEMU dies with this process, kill -9 included: the kernel sends it
       SIGKILL (PR_SET_PDEATHSIG). It must be started by the main thread.
    2. One emulated CPU: with two, nested SVM under TCG corrupts memory.
    3. The devices do not depend on what a run brings along: the disks of a
       delivery are always there, with nothing in them until a run has
       something to deliver. A saved host fits every run for that reason.
"""

import ctypes
import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import time

from .say import LabError

QEMU = "qemu-system-x86_64"
KERNEL_OPTIONS = (
    "console=ttyS0 quiet loglevel=3 reboot=t panic=-1 oops=panic mitigations=off tsc=reliable"
    " no_timer_check nokaslr nowatchdog random.trust_cpu=on audit=0 cryptomgr.notests"
    " kvm.nx_huge_pages=never"
)
# A delivered disk is as large as the host first saw it, whatever is in it.
DELIVERY_SIZE = 1 << 40
DELIVERIES = ["tree", "payload0", "payload1", "payload2", "payload3"]
PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)


def qemu_identity():
    """What a saved host needs to be the same: QEMU, and the CPU's clock rate."""
    path = shutil.which(QEMU)
    if not path:
        raise LabError(f"{QEMU} is not installed: run lab/setup.")
    status = os.stat(path)
    with open("/proc/cpuinfo", encoding="ascii", errors="replace") as info:
        cpu = next((line for line in info if line.startswith("model name")), "")
    return [path, status.st_size, status.st_mtime_ns, cpu]


def blockdev(**fields):
    return ["-blockdev", json.dumps(fields)]


def overlay_create(path, backing):
    """A qcow2 file that takes all writes; what it lies on is never written."""
    kind = "qcow2" if backing.suffix == ".qcow2" else "raw"
    subprocess.run(
        ["qemu-img", "create", "-q", "-f", "qcow2", "-b", backing, "-F", kind, path], check=True
    )


def disk_args(image, disks, deliveries):
    """disks: serial to qcow2 path; deliveries: serial to squashfs path."""
    root = {"driver": "file", "filename": str(image / "root.sqfs")}
    args = blockdev(**{"driver": "raw", "node-name": "root", "read-only": True, "file": root})
    for serial, path in disks.items():
        args += blockdev(**{
            "driver": "qcow2", "node-name": serial, "discard": "unmap",
            "cache": {"no-flush": True},
            "file": {"driver": "file", "filename": str(path)},
        })
    for serial in DELIVERIES:
        if serial in deliveries:
            content = {"driver": "file", "filename": str(deliveries[serial])}
            fields = {"driver": "raw", "file": content}
        else:
            fields = {"driver": "null-co", "size": DELIVERY_SIZE, "read-zeroes": True}
        args += blockdev(**{"node-name": serial, "read-only": True, **fields})
    for serial in ["root", *disks, *DELIVERIES]:
        args += ["-device", f"virtio-blk-pci,drive={serial},serial={serial}"]
    return args


def machine_args(image, mem_mib):
    """What the emulated machine is, without anything of one run.

    The CPU lacks what the emulation gets wrong: cmpxchg16b, and XSAVE, since a nested guest's XSETBV is not
    intercepted: KVM never learns of it and runs the guest on with another XCR0, in which XSAVE saves less.
    """
    return [
        "-machine", "q35,memory-backend=ram0", "-accel", "tcg,thread=multi",
        "-cpu", "EPYC,-cx16,-xsave", "-smp", "1", "-m", str(mem_mib),
        "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
        "-kernel", str(image / "vmlinux"), "-initrd", str(image / "initrd.cpio"),
        "-append", KERNEL_OPTIONS,
        "-chardev", "socket,id=console,fd={console}", "-serial", "chardev:console",
        "-chardev", "socket,id=channel,fd={channel}", "-device", "virtio-serial-pci",
        "-device", "virtserialport,chardev=channel,name=forkd.lab",
        "-chardev", "socket,id=monitor,fd={monitor}", "-mon", "chardev=monitor,mode=control",
    ]


def ram_args(path, mem_mib, shared):
    share = "on" if shared else "off"
    backend = f"memory-backend-file,id=ram0,size={mem_mib}M,mem-path={path},share={share}"
    return ["-object", backend]


class Monitor:
    """QMP, one command at a time. Events are kept until somebody waits for one."""

    def __init__(self, sock):
        self._sock = sock
        self._buffer = b""
        self._events = []
        self._greeted = False

    def command(self, name, seconds=10.0, files=(), **arguments):
        """Run a command; returns its result, raises LabError if it fails.

        QEMU gets a duplicate of each of the open files along with it.
        """
        end = time.monotonic() + seconds
        if not self._greeted:
            self._message(end)
            self._greeted = True
            self.command("qmp_capabilities", seconds)
        request = {"execute": name, "arguments": arguments}
        numbers = [file.fileno() for file in files]
        socket.send_fds(self._sock, [json.dumps(request).encode() + b"\n"], numbers)
        while True:
            answer = self._message(end)
            if "return" in answer:
                return answer["return"]
            if "error" in answer:
                raise LabError(f"QEMU refused {name}: {answer['error']['desc']}.")
            self._events.append(answer)

    def migration_run(self, name, file, seconds):
        """Run a migration command from or to an open file, until it is done."""
        wanted = [{"capability": it, "state": True} for it in ("x-ignore-shared", "events")]
        self.command("migrate-set-capabilities", capabilities=wanted)
        self.command("getfd", files=[file], fdname="state")
        self.command(name, uri="fd:state")
        self._migration_wait(seconds)

    def _migration_wait(self, seconds):
        """Wait until a migration ended; LabError unless it went well."""
        end = time.monotonic() + seconds
        while True:
            event = self._events.pop(0) if self._events else self._message(end)
            if event.get("event") == "MIGRATION":
                status = event["data"]["status"]
                if status == "completed":
                    return
                if status == "failed":
                    raise LabError("QEMU could not read or write the host's state.")

    def _message(self, end):
        while b"\n" not in self._buffer:
            self._sock.settimeout(max(end - time.monotonic(), 0.001))
            try:
                data = self._sock.recv(65536)
            except TimeoutError:
                raise LabError("QEMU's monitor does not answer.") from None
            except ConnectionError:
                data = b""
            if not data:
                raise LabError("QEMU ended.")
            self._buffer += data
        line, self._buffer = self._buffer.split(b"\n", 1)
        return json.loads(line)


class Qemu:
    """A running QEMU. close() ends it and everything of it."""

    def __init__(self, args, log_path):
        pairs = {name: socket.socketpair() for name in ("console", "channel", "monitor")}
        numbers = {name: theirs.fileno() for name, (_, theirs) in pairs.items()}
        argv = [QEMU, *(fd_fill(arg, numbers) for arg in args)]
        starter = os.getpid()
        with open(log_path, "wb") as log:
            self._process = subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                pass_fds=list(numbers.values()), start_new_session=True,
                preexec_fn=lambda: die_with(starter),
            )
        for _, theirs in pairs.values():
            theirs.close()
        self.console, self.channel, monitor = (ours for ours, _ in pairs.values())
        self.monitor = Monitor(monitor)
        self._monitor_socket = monitor
        self._log_path = pathlib.Path(log_path)

    def close(self):
        self._process.kill()
        self._process.wait()
        for sock in (self.console, self.channel, self._monitor_socket):
            sock.close()

    def log_tail(self):
        """Last lines of what QEMU itself said, without TCG's usual warnings."""
        lines = self._log_path.read_text(errors="replace").splitlines()
        return [line for line in lines if "TCG doesn't support" not in line][-10:]


def fd_fill(arg, numbers):
    for name, number in numbers.items():
        arg = arg.replace(f"fd={{{name}}}", f"fd={number}")
    return arg


def die_with(starter):
    """In the child, before exec: no end of the starter is survived."""
    _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != starter:
        os.kill(os.getpid(), signal.SIGKILL)
