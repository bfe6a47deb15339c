"""One run of the lab: from what was asked to an exit status."""

import dataclasses
import os
import time

from . import delivery, image, qemu, slot
from .host import Host, HostLost, TimedOut
from .say import LabError, progress, say

STATUS_TIMED_OUT = 124
STATUS_LAB_FAILED = 125
BOOT_SECONDS = 90
KILL_SECONDS = 5
FETCH_SECONDS = 120
RETRIES = 2
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclasses.dataclass
class Request:
    """What lab/run was asked for; see its --help."""

    command: list
    cwd: str
    top: str
    build: str | None
    seconds: float | None = None
    payloads: tuple = ()
    out: tuple = ()
    env: dict = dataclasses.field(default_factory=dict)
    mem_mib: int = 2048
    fresh: bool = False
    warm: str | None = None


def environment(extra):
    """The command's environment: the lab's own, and what is meant for forkd."""
    env = {"PATH": PATH, "HOME": "/root", "LANG": "C.UTF-8", "USER": "root", "FORKD_IN_LAB": "1"}
    for name, value in os.environ.items():
        if name in ("N", "TERM") or name.startswith("FORKD_") and not name.startswith("FORKD_LAB"):
            env[name] = value
    return env | extra


def argv_of(command):
    """A single word goes to the shell; more are a program and its arguments."""
    return ["bash", "-c", command[0]] if len(command) == 1 else command


class Session:
    """A request, what is delivered for it, and the attempts to serve it."""

    def __init__(self, request):
        self._request = request
        self._image = image.image_ensure()
        self._deliveries = {"tree": delivery.tree_deliver(request.top, request.build)}
        for number, path in enumerate(request.payloads):
            self._deliveries[f"payload{number}"] = delivery.payload_deliver(path)

    def run(self):
        """Serve the request; returns the exit status lab/run ends with."""
        with slot.slot_hold() as folder:
            attempt = 0
            while True:
                try:
                    return self._attempt(folder)
                except HostLost as lost:
                    say(str(lost))
                    if not lost.oopsed or attempt == RETRIES:
                        return STATUS_LAB_FAILED
                    attempt += 1
                    say(f"host oopsed, retry {attempt} of {RETRIES}")

    def _attempt(self, folder):
        host = self._host_boot(folder)
        try:
            return self._command_run(host)
        except HostLost:
            host.report(ask=False)
            raise
        finally:
            host.close()

    def _host_boot(self, folder):
        progress("booting the emulated host")
        disks = {}
        for name in ("scratch", "spare"):
            disks[name] = folder / f"{name}.qcow2"
            disks[name].unlink(missing_ok=True)
            qemu.overlay_create(disks[name], self._image / f"{name}.raw")
        files = {serial: item.file for serial, item in self._deliveries.items()}
        args = [
            *qemu.machine_args(self._image, self._request.mem_mib),
            *qemu.ram_args(folder / "ram", self._request.mem_mib, True),
            *qemu.disk_args(self._image, disks, files),
        ]
        host = Host(qemu.Qemu(args, folder / "qemu.log"))
        try:
            host.hello(self._mounts(), BOOT_SECONDS)
        except BaseException:
            host.close()
            raise
        return host

    def _mounts(self):
        return [
            {"serial": serial, "paths": item.paths, "writable": item.writable}
            for serial, item in self._deliveries.items()
        ]

    def _command_run(self, host):
        request = self._request
        limit = request.seconds
        end = None if limit is None else time.monotonic() + limit
        argv, env = argv_of(request.command), environment(request.env)
        try:
            status = host.run(argv, request.cwd, env, request.out, end)
        except TimedOut:
            say(f"the command took longer than {limit:g} s and was killed")
            host.report(ask=True)
            if host.kill(KILL_SECONDS):
                self._out_fetch(host)
            return STATUS_TIMED_OUT
        self._out_fetch(host)
        return status

    def _out_fetch(self, host):
        for directory in self._request.out:
            host.fetch(directory, FETCH_SECONDS)
