"""Where a controller is: http://HOST:PORT, https://HOST:PORT or unix:/path/of/its/socket."""

from __future__ import annotations

import contextlib
import os
import urllib.parse
from dataclasses import dataclass
from typing import Iterator, Optional

DEFAULT_URL = "http://127.0.0.1:8889"
# sun_path of Linux's sockaddr_un, less the closing zero (unix(7)).
SOCKET_PATH_MAX = 107


@dataclass(frozen=True)
class Address:
    url: str
    host: str = ""
    port: int = 0
    tls: bool = False
    prefix: str = ""  # of all paths, where a proxy puts the API below one
    socket: str = ""  # a path, for a Unix socket

    @property
    def host_field(self) -> str:
        """The value of the header Host."""
        if self.socket:
            return "localhost"
        name = f"[{self.host}]" if ":" in self.host else self.host
        return f"{name}:{self.port}"

    @contextlib.contextmanager
    def socket_path(self) -> Iterator[str]:
        """The socket's path in a form that fits into an address, for as long as the context lasts."""
        if len(os.fsencode(self.socket)) <= SOCKET_PATH_MAX:
            yield self.socket
            return
        directory, name = os.path.split(self.socket)
        descriptor = os.open(directory or ".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            yield f"/proc/self/fd/{descriptor}/{name}"
        finally:
            os.close(descriptor)


def parse(url: str) -> Address:
    """Raises ValueError for what is no such URL."""
    if url.startswith("unix:"):
        path = url[len("unix:") :]
        path = path[2:] if path.startswith("//") else path
        if not path:
            raise ValueError(f"{url!r} names no socket: unix:/path is meant")
        return Address(url=url, socket=path)
    url = url.rstrip("/")
    parts = urllib.parse.urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"{url!r} is neither http://HOST:PORT, https://HOST:PORT nor unix:/path")
    tls = parts.scheme == "https"
    return Address(url=url, host=parts.hostname, port=parts.port or (443 if tls else 80), tls=tls, prefix=parts.path)


def own_socket() -> Optional[str]:
    """The socket of the controller that the command `forkd` starts for this user, if it is there."""
    state = os.environ.get("FORKD_STATE")
    if state:
        directory = state if os.path.isdir(state) else os.path.dirname(state) or "."
    elif os.geteuid() == 0:
        directory = "/var/lib/forkd/private"
    else:
        base = os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")
        directory = os.path.join(base, "forkd")
    path = os.path.join(directory, "controller.sock")
    return path if os.path.exists(path) else None
