"""One request and its answer, whatever version of HTTP carries them.

A handler is given the head, and reads the body if it wants it: so a request can be refused for what
its head says, before the rest was sent.  Handlers were ASGI applications before; that interface
makes of each request a task, a channel and a handful of messages, which cost several times as much
as the request itself.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass


class BodyError(Exception):
    """The body of a request was not read."""


class BodyTooLarge(BodyError):
    """It is over the limit.  What is left of it is the connection's to get rid of."""


class BodyCutShort(BodyError):
    """It ended before its time, took too long, or makes no sense; nobody may hear the answer."""


@dataclass(frozen=True, slots=True)
class Request:
    """A request: `path` as it came, without its query; header names in lower case, each once.

    `read_body(limit)` returns the body, once.  It raises `BodyTooLarge` when that has more than
    `limit` bytes, without reading it all, and `BodyCutShort`.
    """

    verb: str
    path: bytes
    headers: dict[bytes, bytes]
    read_body: Callable[[int], Awaitable[bytes]]


@dataclass(frozen=True, slots=True)
class Answer:
    """A response to be sent.  The connection adds its own headers, and the length.

    `closes`: over HTTP/1.1, no other request is wanted on its connection.
    """

    status: int
    headers: tuple[tuple[bytes, bytes], ...] = ()
    body: bytes = b""
    closes: bool = False


Handler = Callable[[Request], Awaitable[Answer]]


def declared_length(headers: dict[bytes, bytes]) -> int:
    """What a request says of its body's length; 0 when it says nothing."""
    told = headers.get(b"content-length", b"")
    return int(told) if told.isdigit() and len(told) < 20 else 0


def joined(headers: Sequence[tuple[bytes, bytes]]) -> dict[bytes, bytes]:
    """Headers by name, which is in lower case: the lines of one name as one, which means the same
    (RFC 9110 section 5.3; for `Cookie` RFC 9113 section 8.2.3).

    Lines of `Set-Cookie` cannot be one: the last counts.
    """
    values = dict(headers)
    if len(values) == len(headers):
        return values
    lines: dict[bytes, list[bytes]] = {}
    for name, value in headers:
        lines.setdefault(name, []).append(value)
    for name, several in lines.items():
        if name != b"set-cookie":
            values[name] = (b"; " if name == b"cookie" else b", ").join(several)
    return values
