"""The controller's answers, as types for a checker: at run time they are plain dicts.

Which fields are always there and which only sometimes is told in docs/api.md; here, a class `...Always` has the
former. Unknown fields of a newer controller come through unchanged.
"""

from __future__ import annotations

from typing import List, Optional, TypedDict


class HealthInfo(TypedDict):
    ok: bool


class VersionInfo(TypedDict):
    version: str
    api: str


class PauseMicroseconds(TypedDict):
    """How long a branch's source stood still, by what was done then."""

    kick: int
    save: int
    log: int
    pages: int
    resume: int
    total: int


class _SnapshotAlways(TypedDict):
    tag: str
    dir: str
    created_at_unix: int
    status: str  # writing, ready or failed
    bootable: bool


class SnapshotInfo(_SnapshotAlways, total=False):
    branched_from: str  # the sandbox, or compact:TAG
    parent_tag: str  # what that one was spawned from
    mode: str  # full, diff or live
    pause_ms: int
    pause_us: PauseMicroseconds
    rounds: int
    pages_streamed: int
    pages_in_pause: int
    ready_ms: int  # from the request until it could be spawned from
    diff_ms: int
    diff_physical_bytes: int
    diff_logical_bytes: int
    stage: str  # while something is done about it: boot, warmup, freeze, write or load
    percent: int  # how far it is written or loaded
    written_bytes: int  # so far, while it is written
    warning: str  # why it failed
    cpu_ms: int  # these five where they were asked for
    memory_own_kib: Optional[int]
    memory_pss_kib: Optional[int]
    memory_charged_kib: int
    memory_image_kib: int


class _DetailAlways(_SnapshotAlways):
    memory_logical_bytes: int  # the length of memory.bin; 0: it is not on the disk
    memory_physical_bytes: int
    vmstate_bytes: int
    chain_depth: int
    ancestors: List[str]  # root first
    dependents: List[str]  # the diffs to it


class SnapshotInfoDetail(_DetailAlways, total=False):
    branched_from: str
    parent_tag: str
    mode: str
    pause_ms: int
    pause_us: PauseMicroseconds
    rounds: int
    pages_streamed: int
    pages_in_pause: int
    ready_ms: int
    diff_ms: int
    diff_physical_bytes: int
    diff_logical_bytes: int
    stage: str
    percent: int
    written_bytes: int
    warning: str
    content_hash: str
    parent_content_hash: str


class _SandboxAlways(TypedDict):
    id: str
    snapshot_tag: str
    netns: Optional[str]
    guest_addr: str
    created_at_unix: int
    pid: Optional[int]  # of the host
    memory_limit_mib: Optional[int]
    last_branch_memory_path: Optional[str]
    has_branched: bool
    branch_count: int


class SandboxInfo(_SandboxAlways, total=False):
    stalled: str  # why it stands still
    cpu_ms: int  # these four where they were asked for
    memory_own_kib: Optional[int]
    memory_pss_kib: Optional[int]
    memory_charged_kib: int


class _WorkspaceAlways(TypedDict):
    id: str
    name: str
    source_snapshot_tag: str
    status: str  # running, suspended or stale
    created_at_unix: int
    last_active_unix: int


class WorkspaceInfo(_WorkspaceAlways, total=False):
    current_state_tag: str  # the snapshot that its last suspension made
    live_sandbox_id: str  # while it runs
    last_branch_memory_path: str  # of that snapshot, where it is on the disk


class _ExecAlways(TypedDict):
    stdout: str
    stderr: str
    exit_code: int  # -N: killed by signal N; 127: not found; 124 with timed_out: out of time


class ExecResult(_ExecAlways, total=False):
    timed_out: bool
    stdout_truncated: bool
    stderr_truncated: bool


class _EvalAlways(TypedDict):
    result: Optional[str]  # the repr of the value
    error: Optional[str]  # the traceback
    exit_code: int


class EvalResult(_EvalAlways, total=False):
    stdout: str
    stderr: str
    timed_out: bool
    truncated: bool


class PingResult(TypedDict):
    pong: bool
    numpy_version: Optional[str]
    pid: int
    agent_lang: str
    warmup_ready: bool


class TextResult(TypedDict):
    found: bool
    elapsed_ms: int
    last_excerpt: str  # the last 256 bytes of the file
