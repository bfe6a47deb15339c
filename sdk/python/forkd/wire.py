"""HTTP/1.1, as far as a client of the controller needs it: one request a connection.

A connection of its own for each request costs less than 0.2 ms on one host, and in return a Controller has no
state that threads share, nothing goes stale, and no request is ever sent twice. Both faces of the package, with
threads and with asyncio, put the bytes made here on a socket and bring back what came until its end.
"""

from __future__ import annotations

import http.client
import io
import json
from typing import Any, Optional, TypeVar, cast

from .address import Address, own_socket
from .calls import Call
from .errors import BadAnswer, TimedOut, Unreachable, controller_error
from .version import __version__

A = TypeVar("A")


def request_bytes(call: Call[Any], address: Address, token: Optional[str]) -> bytes:
    body = b"" if call.body is None else json.dumps(call.body).encode()
    fields = [
        f"{call.method} {address.prefix}{call.path} HTTP/1.1",
        f"Host: {address.host_field}",
        f"User-Agent: forkd-python/{__version__}",
        "Accept: application/json",
        "Connection: close",
    ]
    if token:
        fields.append(f"Authorization: Bearer {token}")
    if call.body is not None:
        fields.append("Content-Type: application/json")
    if call.method == "POST" or body:
        fields.append(f"Content-Length: {len(body)}")
    return ("\r\n".join(fields) + "\r\n\r\n").encode("latin-1") + body


def check_token(token: Optional[str]) -> Optional[str]:
    """A token as a header can carry it; one read from a file may end in a newline."""
    token = token.strip() if token else None
    if token and not (token.isascii() and token.isprintable()):
        raise ValueError("the token has characters that no header can carry")
    return token


class _Received:
    """What http.client takes for a socket: bytes that came already."""

    def __init__(self, received: bytes) -> None:
        self.received = received

    def makefile(self, *_: Any) -> io.BytesIO:
        return io.BytesIO(self.received)


def answer_of(call: Call[A], url: str, received: bytes) -> A:
    """What was answered, parsed. Raises the ControllerError of a status that is none of success."""
    try:
        response = http.client.HTTPResponse(cast(Any, _Received(received)), method=call.method)
        response.begin()
        body = response.read()
    except (http.client.HTTPException, ValueError) as broken:
        if not received:
            raise Unreachable("the connection was closed without an answer", url) from broken
        raise BadAnswer(f"controller {url}: the answer is no whole HTTP: {broken!r}") from broken
    if response.status >= 300:
        raise controller_error(response.status, parse_error(body), url)
    if call.as_text:
        return cast(A, body.decode(errors="replace"))
    try:
        return cast(A, json.loads(body) if body else None)
    except ValueError as broken:
        raise BadAnswer(f"controller {url}: the answer is no JSON: {body[:200]!r}") from broken


def parse_error(body: bytes) -> Any:
    try:
        return json.loads(body) if body else {}
    except ValueError:
        return body.decode(errors="replace")


def url_of(call: Call[Any], address: Address) -> str:
    """The request's URL, for errors: a socket's path and the request's follow each other."""
    return address.url + call.path


def timed_out(call: Call[Any], address: Address, seconds: float) -> TimedOut:
    return TimedOut(f"no answer to {call.method} within {seconds:g} s", url_of(call, address))


def unreachable(call: Call[Any], address: Address, why: OSError) -> Unreachable:
    words = why.strerror or str(why) or type(why).__name__
    path = own_socket()
    if isinstance(why, (ConnectionRefusedError, FileNotFoundError)):
        words += ": no controller listens there"
        if path and path != address.socket:
            words += f"; forkd's own one is at unix:{path} (FORKD_URL, or base_url)"
    return Unreachable(words, url_of(call, address))
