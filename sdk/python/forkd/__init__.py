"""forkd from Python: snapshots, and sandboxes forked from them, of one controller.

    from forkd import Controller

    controller = Controller()
    with controller.spawned("py", n=10) as sandboxes:
        print([controller.eval_code(one["id"], "6 * 7")["result"] for one in sandboxes])

Controller blocks, AsyncController awaits; docs/api.md of forkd tells what each request means.
"""

from .aio import AsyncController
from .answers import (
    EvalResult,
    ExecResult,
    HealthInfo,
    PauseMicroseconds,
    PingResult,
    SandboxInfo,
    SnapshotInfo,
    SnapshotInfoDetail,
    TextResult,
    VersionInfo,
    WorkspaceInfo,
)
from .controller import Controller
from .errors import (
    BadAnswer,
    BadRequest,
    Conflict,
    ControllerError,
    Forbidden,
    ForkdError,
    GuestFailed,
    NotFound,
    TimedOut,
    Unauthorized,
    Unavailable,
    Unreachable,
)
from .version import __version__

__all__ = [
    "AsyncController",
    "BadAnswer",
    "BadRequest",
    "Conflict",
    "Controller",
    "ControllerError",
    "EvalResult",
    "ExecResult",
    "Forbidden",
    "ForkdError",
    "GuestFailed",
    "HealthInfo",
    "NotFound",
    "PauseMicroseconds",
    "PingResult",
    "SandboxInfo",
    "SnapshotInfo",
    "SnapshotInfoDetail",
    "TextResult",
    "TimedOut",
    "Unauthorized",
    "Unavailable",
    "Unreachable",
    "VersionInfo",
    "WorkspaceInfo",
    "__version__",
]
