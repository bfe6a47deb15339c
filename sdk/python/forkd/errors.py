"""What can go wrong, as classes.

    ForkdError
      ControllerError            the controller said no: status, body, reason
        BadRequest               400  a field is wrong, or the tag of a new parent exists
        Unauthorized             401  no token, or not one of the controller's
        Forbidden                403  the token's rights do not go that far
        NotFound                 404  no such sandbox or snapshot
        Conflict                 409  not in this state: it stalled, it is not bootable, a branch's tag exists
        GuestFailed              502  the guest did not answer
        Unavailable              503  not now: too many branches at once, nothing free
      Unreachable                nobody answered at this URL
        TimedOut                 ... within the time given
      BadAnswer                  what answered does not speak the API
"""

from __future__ import annotations

import json
import urllib.error
from typing import Any, Dict, Type


class ForkdError(RuntimeError):
    """Everything this package raises on its own."""


class ControllerError(ForkdError):
    """An answer of 400 or above.

    `status` is its number, `body` what it held (parsed, where it was JSON), `reason` the controller's sentence.
    """

    def __init__(self, status: int, body: Any, url: str) -> None:
        self.status = status
        self.body = body
        self.url = url
        self.reason = reason_of(body)
        super().__init__(f"controller {url}: HTTP {status}: {self.reason}{hint_of(status)}")

    def __reduce__(self) -> Any:
        return type(self), (self.status, self.body, self.url)


class BadRequest(ControllerError):
    pass


class Unauthorized(ControllerError):
    pass


class Forbidden(ControllerError):
    pass


class NotFound(ControllerError):
    pass


class Conflict(ControllerError):
    pass


class GuestFailed(ControllerError):
    pass


class Unavailable(ControllerError):
    pass


class Unreachable(ForkdError, urllib.error.URLError):
    """No connection, or it broke. An URLError too, and so an OSError, for programs that expect urllib beneath."""

    def __init__(self, reason: str, url: str) -> None:
        urllib.error.URLError.__init__(self, reason)
        self.url = url
        self.args = (reason, url)

    def __str__(self) -> str:
        return f"controller {self.url}: {self.reason}"


class TimedOut(Unreachable, TimeoutError):
    """No answer in time. What was asked for may happen all the same."""


class BadAnswer(ForkdError):
    pass


BY_STATUS: Dict[int, Type[ControllerError]] = {
    400: BadRequest,
    401: Unauthorized,
    403: Forbidden,
    404: NotFound,
    409: Conflict,
    502: GuestFailed,
    503: Unavailable,
}


def reason_of(body: Any) -> str:
    if isinstance(body, dict) and isinstance(body.get("error"), str):
        return str(body["error"])
    return body if isinstance(body, str) else json.dumps(body)


def hint_of(status: int) -> str:
    return " (the token is the argument `token`, or FORKD_TOKEN)" if status == 401 else ""


def controller_error(status: int, body: Any, url: str) -> ControllerError:
    """The error of the class that belongs to this status."""
    return BY_STATUS.get(status, ControllerError)(status, body, url)
