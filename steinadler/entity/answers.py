"""How a turn was answered: a status and bytes, the same for a caller here and on another node."""

from __future__ import annotations

from contextlib import suppress
from enum import IntEnum
from typing import Any, TypeAlias, assert_never

from steinadler import errors
from steinadler.errors import (
    EntityError,
    MessageTooLarge,
    RemoteError,
    RemoteProtocolError,
    SteinadlerError,
)
from steinadler.process.process import describe
from steinadler.wire import plain
from steinadler.wire.codec import Codec


class Status(IntEnum):
    """What the bytes of an answer are.  The numbers travel.

    Only `MOVED` lets the caller's node try again: it says that nothing ran (E3).
    """

    ANSWERED = 0  # what the turn returned, encoded
    FAILED = 1  # a `RemoteError`: the type's name and the text
    ENTITY = 2  # an `EntityError`: its kind and the text
    MOVED = 3  # the name of the node that is believed to be the owner, or ""


Answer: TypeAlias = tuple[Status, bytes]

# What an answer's status and heads add to it on its way to another node, at most.
_ENVELOPE_BYTES = 64
_MAX_NAME, _MAX_TEXT = 256, 8192
_KINDS = {
    name: kind
    for name, kind in vars(errors).items()
    if isinstance(kind, type) and issubclass(kind, EntityError)
}


def moved(owner: str | None) -> Answer:
    """Nothing ran: ask `owner`."""
    return Status.MOVED, (owner or "").encode()


def encode(value: Any, codec: Codec) -> bytes:
    """What a turn returned, as it travels; the same for a caller here as for one elsewhere (M5).

    Raises `NotEncodable` and `MessageTooLarge`.
    """
    body = codec.encode(value)
    limit = codec.max_message_bytes - _ENVELOPE_BYTES
    if len(body) > limit:
        raise MessageTooLarge(len(body), limit)
    return body


def of_value(value: Any, codec: Codec) -> Answer:
    """What a turn returned; that it cannot travel is its caller's error."""
    try:
        return Status.ANSWERED, encode(value, codec)
    except SteinadlerError as error:
        return of_error(error)


def of_error(error: BaseException) -> Answer:
    """What a turn raised.  An `EntityError` of a class of the user's is its nearest known kind."""
    if isinstance(error, EntityError):
        kind = next(c.__name__ for c in type(error).__mro__ if c.__name__ in _KINDS)
        return Status.ENTITY, _pair(kind, str(error))
    if isinstance(error, RemoteError):
        return Status.FAILED, _pair(error.type_name, error.text)
    name, _, text = describe(error).partition(": ")
    return Status.FAILED, _pair(name, text)


def _pair(name: str, text: str) -> bytes:
    return plain.dumps([plain.clipped(name, _MAX_NAME), plain.clipped(text, _MAX_TEXT)])


def read(answer: Answer, codec: Codec) -> Any:
    """The value, or raise the error.  Not for `MOVED`."""
    error = error_in(answer)
    if error is not None:
        raise error
    try:
        return codec.decode(answer[1])
    except RemoteProtocolError as failure:
        raise RemoteError("RemoteProtocolError", f"the answer: {failure}") from failure


def error_in(answer: Answer) -> SteinadlerError | None:
    """The error that a turn was answered with."""
    status, body = answer
    match status:
        case Status.ANSWERED | Status.MOVED:
            return None
        case Status.FAILED | Status.ENTITY:
            try:
                name, text = plain.array(plain.loads(body), 2)[:2]
                name, text = plain.text(name, _MAX_NAME), plain.text(text, _MAX_TEXT)
            except RemoteProtocolError as error:
                return RemoteError("RemoteProtocolError", f"the error's answer: {error}")
            if status is Status.ENTITY:
                return _KINDS.get(name, EntityError)(text)
            return RemoteError(name, text)
        case _:
            assert_never(status)


def to_peer(answer: Answer) -> tuple[int, bytes]:
    """An answer as it travels: plain values, since no enum is registered for it."""
    status, body = answer
    return int(status), body


def from_peer(reply: Any) -> Answer | None:
    """What `to_peer` made; None for what it cannot have made."""
    match reply:
        case (int(status), bytes(body)):
            with suppress(ValueError):
                return Status(status), body
    return None
