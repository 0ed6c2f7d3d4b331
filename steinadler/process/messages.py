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

    `reason` is its exit reason, "noproc" (there was none) or "noconnection" (its node is down).
    `process` is what was monitored; `reference` tells one monitor from another.
    """

    process: ProcessId | ProcessName
    reason: str
    reference: int


@dataclass(frozen=True, slots=True)
class Exit:
    """A linked process ended, or somebody asked this one to; it traps exits, so it lives on."""

    process: ProcessId
    reason: str


@dataclass(slots=True, eq=False)
class Debt:
    """An answer that is owed: to which caller, under which id, and what became of it."""

    caller: NodeId
    call: int
    answered: bool = False
    abandoned: bool = False
    callbacks: list[Callable[[], None]] = field(default_factory=list)

    def abandon(self) -> None:
        """The caller no longer waits."""
        self.abandoned = True
        callbacks, self.callbacks = self.callbacks, []
        for callback in callbacks:
            try:
                callback()
            except Exception:  # it runs where the node reads or Trio cancels: neither may break
                logger.exception("a callback of on_abandoned raised")


class AnswerDesk(Protocol):
    """Where answers are handed in."""

    def answer(self, debt: Debt, value: Any, error: BaseException | None) -> None: ...


class Call:
    """Somebody waits for an answer: `reply` or `fail`, once, now or later, from any task.

    Matches as `Call(pattern)` on the request.  Unanswered calls fail with `ProcessExited` when
    the process ends.
    """

    __match_args__ = ("request",)
    __slots__ = ("_debt", "_desk", "caller", "request")

    def __init__(self, request: Any, caller: NodeId, debt: Debt, desk: AnswerDesk) -> None:
        self.request = request
        self.caller = caller
        self._debt = debt
        self._desk = desk

    def __repr__(self) -> str:
        return f"Call({self.request!r})"

    def on_abandoned(self, callback: Callable[[], None]) -> None:
        """Call `callback()` if the caller gives up, or its node goes down, before the answer.

        It must not wait or raise.  When that already happened, it is called now.
        """
        if self._debt.abandoned:
            callback()
        else:
            self._debt.callbacks.append(callback)

    def reply(self, value: Any = None) -> None:
        """Answer.  Goes nowhere when the caller no longer waits.

        Raises `NotEncodable` or `MessageTooLarge` (the call is then still open), and
        `LocalProtocolError` when it was answered before.
        """
        self._finish(value, None)

    def fail(self, error: BaseException | str) -> None:
        """Let the call raise `RemoteError`, with the error's type name and text at the caller."""
        self._finish(None, RuntimeError(error) if isinstance(error, str) else error)

    def _finish(self, value: Any, error: BaseException | None) -> None:
        if self._debt.answered:
            raise LocalProtocolError("this call was answered already")
        self._desk.answer(self._debt, value, error)
        self._debt.answered = True
