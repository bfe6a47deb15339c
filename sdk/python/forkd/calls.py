"""The API's requests: for each call of docs/api.md one function that makes it. No socket is touched here.

What a caller left out is left out of the body as well, so that the controller's defaults count, but for those fields
that clients of API v1 have always sent.
"""

from __future__ import annotations

import time
import urllib.parse
from dataclasses import dataclass
from typing import Any, Dict, Generic, List, Mapping, Optional, Sequence, TypeVar, Union

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
from .errors import ForkdError

A = TypeVar("A")

# Seconds a call may take by itself, which the client waits on top of its own timeout.
WARM_SECS = 660.0  # ready_cmd and warmup of a parent
WRITE_SECS = 300.0  # a whole image on its way to the disk
FORK_SECS = 1.0  # one sandbox, on an emulated host
EVAL_SECS = 30.0


@dataclass(frozen=True)
class Call(Generic[A]):
    """A request whose answer is an A."""

    method: str
    path: str
    body: Optional[Mapping[str, Any]] = None
    takes: float = 0.0
    as_text: bool = False


def _given(**fields: Any) -> Dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}


def _path(*parts: str, **query: Any) -> str:
    path = "/v1/" + "/".join(urllib.parse.quote(part, safe="") for part in parts)
    asked = {name: "true" for name, value in query.items() if value}
    return path + ("?" + urllib.parse.urlencode(asked) if asked else "")


# The controller itself.


def health() -> Call[HealthInfo]:
    return Call("GET", "/healthz")


def version() -> Call[VersionInfo]:
    return Call("GET", "/version")


def metrics() -> Call[str]:
    return Call("GET", "/metrics", as_text=True)


# Snapshots.


def list_snapshots(memory: bool) -> Call[List[SnapshotInfo]]:
    return Call("GET", _path("snapshots", memory=memory))


def create_snapshot(
    tag: str,
    kernel: Optional[str],
    rootfs: Optional[str],
    rw: bool,
    tap: Optional[str],
    boot_wait_secs: int,
    image: Optional[str],
    initrd: Optional[str],
    mem_size_mib: Optional[int],
    vcpus: Optional[int],
    ready_cmd: Optional[str],
    warmup: Optional[Union[str, Sequence[str]]],
) -> Call[SnapshotInfo]:
    body = {"tag": tag, "rw": rw, "boot_wait_secs": boot_wait_secs}
    body.update(
        _given(
            kernel=kernel,
            rootfs=rootfs,
            tap=tap,
            image=image,
            initrd=initrd,
            mem_size_mib=mem_size_mib,
            vcpus=vcpus,
            ready_cmd=ready_cmd,
            warmup=warmup if warmup is None or isinstance(warmup, str) else list(warmup),
        )
    )
    return Call("POST", _path("snapshots"), body, takes=boot_wait_secs + WARM_SECS)


def compact_snapshot(tag: str, to: str) -> Call[SnapshotInfo]:
    return Call("POST", _path("snapshots", tag, "compact"), {"to": to}, takes=WRITE_SECS)


def snapshot_info(tag: str) -> Call[SnapshotInfoDetail]:
    return Call("GET", _path("snapshots", tag, "info"))


def delete_snapshot(tag: str, cascade: bool, force: bool) -> Call[None]:
    return Call("DELETE", _path("snapshots", tag, cascade=cascade, force=force))


# Sandboxes.


def spawn_sandboxes(
    snapshot_tag: str,
    n: int,
    per_child_netns: bool,
    memory_limit_mib: Optional[int],
    prewarm: bool,
    live_fork: bool,
    hugepages: bool,
) -> Call[List[SandboxInfo]]:
    body: Dict[str, Any] = {"snapshot_tag": snapshot_tag, "n": n, "per_child_netns": per_child_netns}
    body.update(
        _given(
            memory_limit_mib=memory_limit_mib,
            prewarm=prewarm or None,
            live_fork=live_fork or None,
            hugepages=hugepages or None,
        )
    )
    return Call("POST", _path("sandboxes"), body, takes=n * FORK_SECS)


def list_sandboxes(memory: bool) -> Call[List[SandboxInfo]]:
    return Call("GET", _path("sandboxes", memory=memory))


def get_sandbox(sandbox_id: str, memory: bool) -> Call[SandboxInfo]:
    return Call("GET", _path("sandboxes", sandbox_id, memory=memory))


def kill_sandbox(sandbox_id: str) -> Call[None]:
    return Call("DELETE", _path("sandboxes", sandbox_id))


def resume_sandbox(sandbox_id: str) -> Call[SandboxInfo]:
    return Call("POST", _path("sandboxes", sandbox_id, "resume"))


def branch_sandbox(
    sandbox_id: str,
    tag: Optional[str],
    diff: bool,
    measure_diff: bool,
    mode: Optional[str],
    wait: bool,
    parent_tag: Optional[str],
) -> Call[SnapshotInfo]:
    body = _given(
        tag=tag,
        mode=mode,
        diff=diff or None,
        measure_diff=measure_diff or None,
        wait=None if wait else False,
        parent_tag=parent_tag,
    )
    return Call("POST", _path("sandboxes", sandbox_id, "branch"), body, takes=WRITE_SECS)


def ping_sandbox(sandbox_id: str) -> Call[PingResult]:
    return Call("POST", _path("sandboxes", sandbox_id, "ping"))


def exec_command(
    sandbox_id: str,
    args: Sequence[str],
    timeout_secs: int,
    env: Optional[Mapping[str, str]],
    cwd: Optional[str],
    stdin: Optional[str],
    output_limit: Optional[int],
) -> Call[ExecResult]:
    if isinstance(args, str):
        # Each letter would be taken for an argument.
        raise TypeError('args is a list of words, as ["sh", "-c", "..."], and not one string')
    body: Dict[str, Any] = {"args": list(args), "timeout_secs": timeout_secs}
    body.update(_given(env=None if env is None else dict(env), cwd=cwd, stdin=stdin, output_limit=output_limit))
    return Call("POST", _path("sandboxes", sandbox_id, "exec"), body, takes=timeout_secs)


def eval_code(sandbox_id: str, code: str, timeout_secs: Optional[int]) -> Call[EvalResult]:
    takes = EVAL_SECS if timeout_secs is None else timeout_secs
    body = {"code": code, **_given(timeout_secs=timeout_secs)}
    return Call("POST", _path("sandboxes", sandbox_id, "eval"), body, takes=takes)


# Workspaces.


def list_workspaces() -> Call[List[WorkspaceInfo]]:
    return Call("GET", _path("workspaces"))


def create_workspace(
    name: str, snapshot_tag: str, per_child_netns: bool, memory_limit_mib: Optional[int]
) -> Call[WorkspaceInfo]:
    body = {"name": name, "snapshot_tag": snapshot_tag, "per_child_netns": per_child_netns}
    body.update(_given(memory_limit_mib=memory_limit_mib))
    return Call("POST", _path("workspaces"), body, takes=FORK_SECS)


def get_workspace(name: str) -> Call[WorkspaceInfo]:
    return Call("GET", _path("workspaces", name))


def suspend_workspace(name: str, diff: bool) -> Call[WorkspaceInfo]:
    return Call("POST", _path("workspaces", name, "suspend"), _given(diff=diff or None), takes=WRITE_SECS)


def resume_workspace(name: str) -> Call[WorkspaceInfo]:
    return Call("POST", _path("workspaces", name, "resume"), takes=WRITE_SECS)


def delete_workspace(name: str) -> Call[None]:
    return Call("DELETE", _path("workspaces", name))


class TextWatch:
    """Looks for a text in a file of a guest, again and again, in the whole file each time: a log may grow by more
    than any tail of it between two looks."""

    SCRIPT = 'grep -qF -e "$2" -- "$1" 2>/dev/null; found=$?; tail -c 256 -- "$1" 2>/dev/null; exit $found'
    LOOK_SECS = 5
    NOT_THERE = 127

    def __init__(self, sandbox_id: str, path: str, marker: str, timeout_secs: float) -> None:
        if "\n" in marker:
            raise ValueError("a marker is a part of one line")
        self.sandbox_id = sandbox_id
        self.args = ["sh", "-c", self.SCRIPT, "sh", path, marker]
        self.began = time.monotonic()
        self.ends = self.began + timeout_secs

    def look(self) -> Call[ExecResult]:
        return exec_command(self.sandbox_id, self.args, self.LOOK_SECS, None, None, None, None)

    def judge(self, seen: ExecResult) -> Optional[TextResult]:
        """The result, when it is found or time is over."""
        if seen["exit_code"] == self.NOT_THERE:
            raise ForkdError(f"sandbox {self.sandbox_id} has no sh and grep to look with: {seen['stderr'].strip()}")
        now = time.monotonic()
        if seen["exit_code"] != 0 and now < self.ends:
            return None
        return {
            "found": seen["exit_code"] == 0,
            "elapsed_ms": int((now - self.began) * 1000),
            "last_excerpt": seen["stdout"],
        }
