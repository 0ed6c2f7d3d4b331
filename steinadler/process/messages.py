"""What a process finds in its mailbox beside plain messages."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from steinadler.errors import LocalProtocolError
from steinadler.identity import NodeId, ProcessId, ProcessName

logger = logging.getLogger("steinadler.process")


@dataclass(frozen=True, slots=True)
class Down:
    """A monitored process is no more, or never was.

    `reason` is its exit reason, "noproc" (there was none), "noconnection" (its node is down) or
    "notauthorized" (its node does not let this one watch it).
    `process` is what was monitored; `reference` tells one monitor from another.  `ended`: the
    process itself ended with that reason, also where it is one of those three.
    """

    process: ProcessId | ProcessName
    reason: str
    reference: int
    ended: bool = field(default=True, compare=False)


@dataclass(frozen=True, slots=True)
class Exit:
    """A linked process ended, or somebody asked this one to; it traps exits, so it lives on."""

    process: ProcessId
    reason: str


_ANSWERED = "this call was answered already"


class Source(Protocol):
    """Where an item of a mailbox came from, and where its credit goes back to."""

    def consumed(self, body_bytes: int, items: int) -> None: ...


class AnswerDesk(Protocol):
    """Where answers are handed in."""

    def answer(self, call: Call, value: Any, error: BaseException | None) -> None: ...


class Call:
    """Somebody waits for an answer: `reply` or `fail`, once, now or later, from any task.

    Matches as `Call(pattern)` on the request.  Unanswered calls fail with `ProcessExited` when
    the process ends.
    """

    __match_args__ = ("request",)
    __slots__ = (
        *("_answered", "_callbacks", "_desk", "abandoned", "body", "caller", "id", "request"),
        "source",
    )

    def __init__(
        self, caller: NodeId, id_: int, desk: AnswerDesk, source: Source, body: bytes
    ) -> None:
        self.request: Any = None
        self.caller = caller
        # The node's: the caller's number for it, and the request as it came, until it is taken.
        self.id = id_
        self.body = body
        self.source = source
        self.abandoned = False
        self._answered = False
        self._callbacks: list[Callable[[], None]] | None = None
        self._desk = desk

    def __repr__(self) -> str:
        return f"Call({self.request!r})"

    def on_abandoned(self, callback: Callable[[], None]) -> None:
        """Call `callback()` if the caller gives up, or its node goes down, before the answer.

        It must not wait or raise.  When that already happened, it is called now.
        """
        if self.abandoned:
            callback()
        elif self._callbacks is None:
            self._callbacks = [callback]
        else:
            self._callbacks.append(callback)

    def reply(self, value: Any = None) -> None:
        """Answer.  Goes nowhere when the caller no longer waits.

        Raises `NotEncodable` or `MessageTooLarge` (the call is then still open), and
        `LocalProtocolError` when it was answered before.
        """
        if self._answered:
            raise LocalProtocolError(_ANSWERED)
        self._desk.answer(self, value, None)
        self._answered = True

    def fail(self, error: BaseException | str) -> None:
        """Let the call raise `RemoteError`, with the error's type name and text at the caller."""
        if self._answered:
            raise LocalProtocolError(_ANSWERED)
        self._desk.answer(self, None, RuntimeError(error) if isinstance(error, str) else error)
        self._answered = True

    def abandon(self) -> None:
        """The node's: the caller no longer waits."""
        self.abandoned = True
        callbacks, self._callbacks = self._callbacks, None
        for callback in callbacks or ():
            try:
                callback()
            except Exception:  # it runs where the node reads or Trio cancels: neither may break
                logger.exception("a callback of on_abandoned raised")
