"""One run of the lab: from what was asked to an exit status."""

import contextlib
import dataclasses
import os
import sys
import time

from . import cache, delivery, image, slot
from .host import HostLost, MountFailed, TimedOut
from .saved import (
    BOOT_SECONDS, HOLD_SECONDS, HOSTS_KEPT, RESTORE_SECONDS, WARM_KEPT, Machine, host_save,
    ram_copy,
)
from .say import LabError, progress, say

STATUS_TIMED_OUT = 124
STATUS_LAB_FAILED = 125
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
    # What the command writes to its stderr goes through a channel, and comes out at a terminal all the same.
    if sys.stderr.isatty():
        env["FORKD_COLUMNS"] = str(os.get_terminal_size(sys.stderr.fileno()).columns or 80)
    return env | extra


def argv_of(command):
    """A single word goes to the shell; more are a program and its arguments."""
    return ["bash", "-c", command[0]] if len(command) == 1 else command


class SetupFailed(Exception):
    """SETUP of a warm host ended with a status other than 0."""

    def __init__(self, status):
        super().__init__()
        self.status = status


@contextlib.contextmanager
def watched(host):
    """The host for as long as the body runs; its last words if it is lost."""
    try:
        yield host
    except HostLost:
        host.report(ask=False)
        raise
    finally:
        host.close()


class Session:
    """A request, what is delivered for it, and the attempts to serve it."""

    def __init__(self, request):
        self._request = request
        self._image = image.image_ensure()
        self._machine = Machine(self._image, request.mem_mib)
        self._deliveries = {"tree": delivery.tree_deliver(request.top, request.build)}
        for number, path in enumerate(request.payloads):
            self._deliveries[f"payload{number}"] = delivery.payload_deliver(path)
        self._files = {serial: item.file for serial, item in self._deliveries.items()}
        self._mounts = [
            {"serial": serial, "paths": item.paths, "writable": item.writable}
            for serial, item in self._deliveries.items()
        ]

    def run(self):
        """Serve the request; returns the exit status lab/run ends with."""
        with slot.slot_hold() as folder:
            attempt = 0
            while True:
                try:
                    with watched(self._host_ready(folder)) as host:
                        return self._command_run(host)
                except SetupFailed as failed:
                    say(f"SETUP ended with status {failed.status}; nothing was saved")
                    return failed.status
                except TimedOut:
                    return STATUS_TIMED_OUT
                except HostLost as lost:
                    say(str(lost))
                    if not lost.oopsed or attempt == RETRIES:
                        return STATUS_LAB_FAILED
                    attempt += 1
                    say(f"host oopsed, retry {attempt} of {RETRIES}")

    # ---- getting a host that is up, with everything mounted ----

    def _host_ready(self, folder):
        if self._request.warm is not None:
            return self._warm_host(folder)
        if not self._request.fresh:
            if host := self._restore(self._base_ensure, folder, self._mounts):
                return host
        return self._boot(folder, self._files, self._mounts)

    def _boot(self, folder, files, mounts):
        progress("booting the emulated host")
        return self._greeted(self._machine.boot(folder, files), mounts, BOOT_SECONDS)

    def _greeted(self, host, mounts, seconds):
        try:
            host.hello(mounts, seconds)
        except BaseException:
            host.close()
            raise
        return host

    def _restore(self, ensure, folder, mounts, keep_ram=False):
        """Restore what ensure() finds or makes; None if that cannot be done."""
        for _ in range(2):
            try:
                saved = ensure()
            except HostLost:
                raise
            except LabError as failure:
                say(f"no host could be saved: {failure}")
                return None
            try:
                if keep_ram:
                    ram_copy(saved, folder)
                host = self._machine.restore(saved, folder, self._files, keep_ram)
                return self._greeted(host, mounts, RESTORE_SECONDS)
            except MountFailed:
                raise
            except LabError as failure:
                say(f"a saved host could not be restored and is made anew: {failure}")
                cache.entry_remove(saved)
        return None

    def _base_ensure(self):
        return cache.entry_ensure(
            "hosts", self._machine.key, HOSTS_KEPT, self._base_make,
            lambda: progress("waiting for another lab that boots the host"),
        )

    def _base_make(self, folder):
        with watched(self._boot(folder, {}, [])) as host:
            host.hold(HOLD_SECONDS)
            host_save(host, folder)

    # ---- warm hosts ----

    def _warm_host(self, folder):
        if not self._request.fresh:
            if host := self._restore(self._warm_ensure, folder, []):
                return host
        host = self._boot(folder, self._files, self._mounts)
        try:
            self._setup_run(host)
        except BaseException:
            host.close()
            raise
        return host

    def _warm_ensure(self):
        key = cache.key_of(
            cache.entry_identity(self._base_ensure()), self._request.warm, self._request.cwd,
            [(serial, item.identity) for serial, item in self._deliveries.items()],
            {name: value for name, value in self._setup_environment().items() if name != "FORKD_COLUMNS"},
        )
        return cache.entry_ensure(
            "warm", key, WARM_KEPT, self._warm_make,
            lambda: progress("waiting for another lab that warms this host up"),
        )

    def _warm_make(self, folder):
        host = self._restore(self._base_ensure, folder, self._mounts, keep_ram=True)
        if not host:
            raise LabError("No warm host without a saved one to begin with.")
        with watched(host):
            self._setup_run(host)
            progress("saving the warm host")
            host.hold(HOLD_SECONDS)
            host_save(host, folder)

    def _setup_environment(self):
        """N and TERM are COMMAND's business: SETUP is the same for all of them."""
        env = environment(self._request.env)
        return {name: value for name, value in env.items() if name not in ("N", "TERM")}

    def _setup_run(self, host):
        progress("warming up the emulated host (once: it is saved for the next run)")
        argv = ["bash", "-c", self._request.warm]
        status = self._limited(host, argv, self._setup_environment(), sys.stderr.buffer)
        if status:
            raise SetupFailed(status)

    # ---- the command ----

    def _command_run(self, host):
        request = self._request
        argv = argv_of(request.command)
        try:
            status = self._limited(host, argv, environment(request.env), sys.stdout.buffer)
        except TimedOut:
            if host.kill(KILL_SECONDS):
                self._out_fetch(host)
            raise
        self._out_fetch(host)
        return status

    def _limited(self, host, argv, env, stdout):
        limit = self._request.seconds
        end = None if limit is None else time.monotonic() + limit
        try:
            return host.run(argv, self._request.cwd, env, self._request.out, end, stdout)
        except TimedOut:
            say(f"the command took longer than {limit:g} s and was killed")
            host.report(ask=True)
            raise

    def _out_fetch(self, host):
        for directory in self._request.out:
            host.fetch(directory, FETCH_SECONDS)
