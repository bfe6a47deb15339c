"""The controller, for programs with threads or none: each method is one request, and blocks until it is answered."""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
import time
from typing import Any, Iterable, Iterator, List, Mapping, Optional, Sequence, TypeVar, Union

from . import address, calls, wire
from .answers import (
    EvalResult,
    ExecResult,
    HealthInfo,
    PingResult,
    SandboxInfo,
    SnapshotInfo,
    SnapshotInfoDetail,
    TextResult,
    VersionInfo,
    WorkspaceInfo,
)
from .calls import Call
from .errors import ForkdError, NotFound

A = TypeVar("A")
PIECE = 1 << 16


class Controller:
    """A client of one controller. It holds no connection; threads may share it.

    base_url     http://HOST:PORT, https://HOST:PORT or unix:/path; else FORKD_URL; else http://127.0.0.1:8889
    token        where the controller asks for one; else FORKD_TOKEN
    timeout      seconds to wait for an answer, beyond what the call itself was given: exec_command with
                 timeout_secs=300 waits 300 s longer than list_sandboxes
    ssl_context  for https with an authority of one's own; otherwise the system's authorities are believed

    Methods raise a ControllerError when the controller refuses, Unreachable when nobody answers (forkd.errors).
    """

    def __init__(
        self,
        base_url: Optional[str] = None,
        token: Optional[str] = None,
        timeout: float = 60.0,
        *,
        ssl_context: Optional[ssl.SSLContext] = None,
    ) -> None:
        self._address = address.parse(base_url or os.environ.get("FORKD_URL") or address.DEFAULT_URL)
        self.base_url = self._address.url
        self.token = wire.check_token(token if token is not None else os.environ.get("FORKD_TOKEN"))
        self.timeout = timeout
        # Reading the system's authorities takes longer than a request.
        self._tls = (ssl_context or ssl.create_default_context()) if self._address.tls else None

    # The controller itself.

    def health(self) -> HealthInfo:
        """{"ok": True}; needs no token."""
        return self._send(calls.health())

    def version(self) -> VersionInfo:
        return self._send(calls.version())

    def metrics(self) -> str:
        """In Prometheus' text format."""
        return self._send(calls.metrics())

    # Snapshots.

    def list_snapshots(self, *, memory: bool = False) -> List[SnapshotInfo]:
        return self._send(calls.list_snapshots(memory))

    def create_snapshot(
        self,
        tag: str,
        kernel: Optional[str] = None,
        rootfs: Optional[str] = None,
        rw: bool = False,
        tap: Optional[str] = None,
        boot_wait_secs: int = 10,
        *,
        image: Optional[str] = None,
        initrd: Optional[str] = None,
        mem_size_mib: Optional[int] = None,
        vcpus: Optional[int] = None,
        ready_cmd: Optional[str] = None,
        warmup: Optional[Union[str, Sequence[str]]] = None,
    ) -> SnapshotInfo:
        """Boots a parent of `image`, or of a kernel and a root file system, warms it up and makes it a template.

        `warmup` is a list of modules to import, or code to run. Paths are the controller's, not this program's.
        """
        return self._send(
            calls.create_snapshot(
                tag,
                kernel,
                rootfs,
                rw,
                tap,
                boot_wait_secs,
                image,
                initrd,
                mem_size_mib,
                vcpus,
                ready_cmd,
                warmup,
            )
        )

    def compact_snapshot(self, tag: str, to: str) -> SnapshotInfo:
        """Writes all that it stands for under another tag, which needs no other snapshot."""
        return self._send(calls.compact_snapshot(tag, to))

    def snapshot_info(self, tag: str) -> SnapshotInfoDetail:
        """What lies on the disk of it, and which others need it there or are needed."""
        return self._send(calls.snapshot_info(tag))

    def delete_snapshot(self, tag: str, *, cascade: bool = False, force: bool = False) -> None:
        """`cascade` deletes what descends from it too; `force` deletes it alone, whoever needs it."""
        self._send(calls.delete_snapshot(tag, cascade, force))

    # Sandboxes.

    def spawn_sandboxes(
        self,
        snapshot_tag: str,
        n: int = 1,
        per_child_netns: bool = False,
        memory_limit_mib: Optional[int] = None,
        prewarm: bool = False,
        live_fork: bool = False,
        hugepages: bool = False,
    ) -> List[SandboxInfo]:
        """Forks n sandboxes, all or none."""
        return self._send(
            calls.spawn_sandboxes(
                snapshot_tag, n, per_child_netns, memory_limit_mib, prewarm, live_fork, hugepages
            )
        )

    def list_sandboxes(self, *, memory: bool = False) -> List[SandboxInfo]:
        return self._send(calls.list_sandboxes(memory))

    def get_sandbox(self, sandbox_id: str, *, memory: bool = False) -> SandboxInfo:
        """With `memory` also memory_own_kib and its kin."""
        return self._send(calls.get_sandbox(sandbox_id, memory))

    def kill_sandbox(self, sandbox_id: str) -> None:
        """The sandbox is gone when this returns."""
        self._send(calls.kill_sandbox(sandbox_id))

    def resume_sandbox(self, sandbox_id: str) -> SandboxInfo:
        """Lets a sandbox go on that stood still because the disk was full."""
        return self._send(calls.resume_sandbox(sandbox_id))

    def branch_sandbox(
        self,
        sandbox_id: str,
        tag: Optional[str] = None,
        diff: bool = False,
        measure_diff: bool = False,
        mode: Optional[str] = None,
        wait: bool = True,
        *,
        parent_tag: Optional[str] = None,
    ) -> SnapshotInfo:
        """Makes the whole state of a running sandbox, memory and disk, a snapshot of its own; the sandbox goes on.

        With `wait=False` it returns as soon as the snapshot can be spawned from, while it is still being written.
        `mode` ("full", "diff" or "live") chooses what is written; `diff=True` is an older word for "diff".
        """
        return self._send(
            calls.branch_sandbox(sandbox_id, tag, diff, measure_diff, mode, wait, parent_tag)
        )

    def ping_sandbox(self, sandbox_id: str) -> PingResult:
        return self._send(calls.ping_sandbox(sandbox_id))

    def exec_command(
        self,
        sandbox_id: str,
        args: Sequence[str],
        timeout_secs: int = 30,
        *,
        env: Optional[Mapping[str, str]] = None,
        cwd: Optional[str] = None,
        stdin: Optional[str] = None,
        output_limit: Optional[int] = None,
    ) -> ExecResult:
        """Runs a program. One that fails, is not found or runs out of time is an answer, and no exception."""
        return self._send(
            calls.exec_command(sandbox_id, args, timeout_secs, env, cwd, stdin, output_limit)
        )

    def eval_code(
        self, sandbox_id: str, code: str, *, timeout_secs: Optional[int] = None
    ) -> EvalResult:
        """Runs code in the guest's warm interpreter, whose names last. An exception there is in `error`."""
        return self._send(calls.eval_code(sandbox_id, code, timeout_secs))

    def wait_for_text(
        self,
        sandbox_id: str,
        path: str,
        marker: str,
        timeout_secs: float = 60,
        poll_interval_ms: int = 200,
    ) -> TextResult:
        """Looks into a file of the guest until `marker` stands in it. It need not exist yet."""
        watch = calls.TextWatch(sandbox_id, path, marker, timeout_secs)
        while not (result := watch.judge(self._send(watch.look()))):
            time.sleep(poll_interval_ms / 1000)
        return result

    # Workspaces.

    def list_workspaces(self) -> List[WorkspaceInfo]:
        return self._send(calls.list_workspaces())

    def create_workspace(
        self,
        name: str,
        snapshot_tag: str,
        per_child_netns: bool = False,
        memory_limit_mib: Optional[int] = None,
    ) -> WorkspaceInfo:
        """A sandbox with a name, `live_sandbox_id`, that can be put away and taken up again."""
        return self._send(
            calls.create_workspace(name, snapshot_tag, per_child_netns, memory_limit_mib)
        )

    def get_workspace(self, name: str) -> WorkspaceInfo:
        return self._send(calls.get_workspace(name))

    def suspend_workspace(self, name: str, diff: bool = False) -> WorkspaceInfo:
        """Keeps its state and ends its sandbox."""
        return self._send(calls.suspend_workspace(name, diff))

    def resume_workspace(self, name: str) -> WorkspaceInfo:
        """Goes on in a new sandbox, where the last one was suspended."""
        return self._send(calls.resume_workspace(name))

    def delete_workspace(self, name: str) -> None:
        """Its sandbox and its kept state end with it."""
        self._send(calls.delete_workspace(name))

    # For the length of a with statement.

    @contextlib.contextmanager
    def spawned(
        self, snapshot_tag: str, n: int = 1, *, memory_limit_mib: Optional[int] = None
    ) -> Iterator[List[SandboxInfo]]:
        """Sandboxes that are killed at the end, those aside that are gone already."""
        made = self.spawn_sandboxes(snapshot_tag, n, memory_limit_mib=memory_limit_mib)
        try:
            yield made
        finally:
            self._kill_all(one["id"] for one in made)

    @contextlib.contextmanager
    def branched(
        self, sandbox_id: str, tag: Optional[str] = None, *, mode: Optional[str] = None, wait: bool = True
    ) -> Iterator[SnapshotInfo]:
        """A branch of a sandbox that is deleted at the end."""
        made = self.branch_sandbox(sandbox_id, tag, mode=mode, wait=wait)
        try:
            yield made
        finally:
            with contextlib.suppress(NotFound):
                self.delete_snapshot(made["tag"])

    def _kill_all(self, ids: Iterable[str]) -> None:
        """All of them, even where one cannot be killed; of several errors the first is raised."""
        problem: Optional[ForkdError] = None
        for one in ids:
            try:
                self.kill_sandbox(one)
            except NotFound:
                pass
            except ForkdError as error:
                problem = problem or error
        if problem:
            raise problem

    # The wire.

    def _send(self, call: Call[A]) -> A:
        url = wire.url_of(call, self._address)
        return wire.answer_of(call, url, self._exchange(call, self.timeout + call.takes))

    def _exchange(self, call: Call[Any], seconds: float) -> bytes:
        request = wire.request_bytes(call, self._address, self.token)
        ends = time.monotonic() + seconds
        try:
            with self._connect(seconds) as connection:
                # A controller that refuses a body stops reading it, and has answered then.
                with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                    connection.sendall(request)
                received = bytearray()
                while True:
                    # Zero would mean: do not wait at all.
                    connection.settimeout(max(ends - time.monotonic(), 0.001))
                    if not (piece := connection.recv(PIECE)):
                        return bytes(received)
                    received += piece
        except socket.timeout as late:
            raise wire.timed_out(call, self._address, seconds) from late
        except OSError as broken:
            raise wire.unreachable(call, self._address, broken) from broken

    def _connect(self, seconds: float) -> socket.socket:
        where = self._address
        if where.socket:
            connection = socket.socket(socket.AF_UNIX)
            try:
                connection.settimeout(seconds)
                with where.socket_path() as path:
                    connection.connect(path)
            except BaseException:
                connection.close()
                raise
            return connection
        connection = socket.create_connection((where.host, where.port), seconds)
        if not self._tls:
            return connection
        # On an error it closes the socket beneath as well.
        return self._tls.wrap_socket(connection, server_hostname=where.host)
