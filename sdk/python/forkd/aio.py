"""The same controller for asyncio: AsyncController has Controller's methods, each of them a coroutine."""

from __future__ import annotations

import asyncio
import contextlib
import os
import ssl
from typing import Any, AsyncIterator, Iterable, List, Mapping, Optional, Sequence, Tuple, TypeVar, Union

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
Streams = Tuple[asyncio.StreamReader, asyncio.StreamWriter]


class AsyncController:
    """See Controller: arguments, answers and errors are the same. A cancelled call closes its connection; what was
    asked for may happen all the same."""

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

    async def health(self) -> HealthInfo:
        return await self._send(calls.health())

    async def version(self) -> VersionInfo:
        return await self._send(calls.version())

    async def metrics(self) -> str:
        return await self._send(calls.metrics())

    # Snapshots.

    async def list_snapshots(self, *, memory: bool = False) -> List[SnapshotInfo]:
        return await self._send(calls.list_snapshots(memory))

    async def create_snapshot(
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
        return await self._send(
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

    async def compact_snapshot(self, tag: str, to: str) -> SnapshotInfo:
        return await self._send(calls.compact_snapshot(tag, to))

    async def snapshot_info(self, tag: str) -> SnapshotInfoDetail:
        return await self._send(calls.snapshot_info(tag))

    async def delete_snapshot(self, tag: str, *, cascade: bool = False, force: bool = False) -> None:
        await self._send(calls.delete_snapshot(tag, cascade, force))

    # Sandboxes.

    async def spawn_sandboxes(
        self,
        snapshot_tag: str,
        n: int = 1,
        per_child_netns: bool = False,
        memory_limit_mib: Optional[int] = None,
        prewarm: bool = False,
        live_fork: bool = False,
        hugepages: bool = False,
    ) -> List[SandboxInfo]:
        return await self._send(
            calls.spawn_sandboxes(
                snapshot_tag, n, per_child_netns, memory_limit_mib, prewarm, live_fork, hugepages
            )
        )

    async def list_sandboxes(self, *, memory: bool = False) -> List[SandboxInfo]:
        return await self._send(calls.list_sandboxes(memory))

    async def get_sandbox(self, sandbox_id: str, *, memory: bool = False) -> SandboxInfo:
        return await self._send(calls.get_sandbox(sandbox_id, memory))

    async def kill_sandbox(self, sandbox_id: str) -> None:
        await self._send(calls.kill_sandbox(sandbox_id))

    async def resume_sandbox(self, sandbox_id: str) -> SandboxInfo:
        return await self._send(calls.resume_sandbox(sandbox_id))

    async def branch_sandbox(
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
        return await self._send(
            calls.branch_sandbox(sandbox_id, tag, diff, measure_diff, mode, wait, parent_tag)
        )

    async def ping_sandbox(self, sandbox_id: str) -> PingResult:
        return await self._send(calls.ping_sandbox(sandbox_id))

    async def exec_command(
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
        return await self._send(
            calls.exec_command(sandbox_id, args, timeout_secs, env, cwd, stdin, output_limit)
        )

    async def eval_code(
        self, sandbox_id: str, code: str, *, timeout_secs: Optional[int] = None
    ) -> EvalResult:
        return await self._send(calls.eval_code(sandbox_id, code, timeout_secs))

    async def wait_for_text(
        self,
        sandbox_id: str,
        path: str,
        marker: str,
        timeout_secs: float = 60,
        poll_interval_ms: int = 200,
    ) -> TextResult:
        watch = calls.TextWatch(sandbox_id, path, marker, timeout_secs)
        while not (result := watch.judge(await self._send(watch.look()))):
            await asyncio.sleep(poll_interval_ms / 1000)
        return result

    # Workspaces.

    async def list_workspaces(self) -> List[WorkspaceInfo]:
        return await self._send(calls.list_workspaces())

    async def create_workspace(
        self,
        name: str,
        snapshot_tag: str,
        per_child_netns: bool = False,
        memory_limit_mib: Optional[int] = None,
    ) -> WorkspaceInfo:
        return await self._send(
            calls.create_workspace(name, snapshot_tag, per_child_netns, memory_limit_mib)
        )

    async def get_workspace(self, name: str) -> WorkspaceInfo:
        return await self._send(calls.get_workspace(name))

    async def suspend_workspace(self, name: str, diff: bool = False) -> WorkspaceInfo:
        return await self._send(calls.suspend_workspace(name, diff))

    async def resume_workspace(self, name: str) -> WorkspaceInfo:
        return await self._send(calls.resume_workspace(name))

    async def delete_workspace(self, name: str) -> None:
        await self._send(calls.delete_workspace(name))

    # For the length of an async with statement.

    @contextlib.asynccontextmanager
    async def spawned(
        self, snapshot_tag: str, n: int = 1, *, memory_limit_mib: Optional[int] = None
    ) -> AsyncIterator[List[SandboxInfo]]:
        made = await self.spawn_sandboxes(snapshot_tag, n, memory_limit_mib=memory_limit_mib)
        try:
            yield made
        finally:
            await self._kill_all(one["id"] for one in made)

    @contextlib.asynccontextmanager
    async def branched(
        self, sandbox_id: str, tag: Optional[str] = None, *, mode: Optional[str] = None, wait: bool = True
    ) -> AsyncIterator[SnapshotInfo]:
        made = await self.branch_sandbox(sandbox_id, tag, mode=mode, wait=wait)
        try:
            yield made
        finally:
            with contextlib.suppress(NotFound):
                await self.delete_snapshot(made["tag"])

    async def _kill_all(self, ids: Iterable[str]) -> None:
        problem: Optional[ForkdError] = None
        for one in ids:
            try:
                await self.kill_sandbox(one)
            except NotFound:
                pass
            except ForkdError as error:
                problem = problem or error
        if problem:
            raise problem

    # The wire.

    async def _send(self, call: Call[A]) -> A:
        url = wire.url_of(call, self._address)
        seconds = self.timeout + call.takes
        try:
            received = await asyncio.wait_for(self._exchange(call), seconds)
        except asyncio.TimeoutError as late:
            raise wire.timed_out(call, self._address, seconds) from late
        except OSError as broken:
            raise wire.unreachable(call, self._address, broken) from broken
        return wire.answer_of(call, url, received)

    async def _exchange(self, call: Call[Any]) -> bytes:
        reader, writer = await self._connect()
        try:
            # Read at once: a controller that refuses a body answers before it was sent, and then reads no more.
            writer.write(wire.request_bytes(call, self._address, self.token))
            received = bytearray()
            try:
                while piece := await reader.read(PIECE):
                    received += piece
            except (BrokenPipeError, ConnectionResetError):
                if not received:
                    raise
            return bytes(received)
        finally:
            writer.close()

    async def _connect(self) -> Streams:
        where = self._address
        if where.socket:
            with where.socket_path() as path:
                return await asyncio.open_unix_connection(path)
        return await asyncio.open_connection(where.host, where.port, ssl=self._tls)
