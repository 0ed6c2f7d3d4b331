"""What the engine wants done by the shell, gathered during one call in the order it was decided.

One that has stopped, because it left or because its name was taken, says nothing more, not even
the rest of what the same call would have sent: others would take it for a sign of life.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum

from steinadler.identity import NodeId
from steinadler.membership.events import Effect, Send
from steinadler.membership.messages import Message


class Phase(Enum):
    """How far an engine's life has come."""

    NEW = "new"  # not called yet, so it does not know the time
    RUNNING = "running"
    STOPPED = "stopped"  # left, or usurped


class Outbox:
    """The effects of the present call."""

    def __init__(self) -> None:
        self.phase = Phase.NEW
        self._effects: list[Effect] = []

    def add(self, effects: Iterable[Effect]) -> None:
        """Tell the shell of changes of belief."""
        self._effects.extend(effects)

    def send(self, to: NodeId, message: Message) -> None:
        """Send, while the engine is running."""
        if self.phase is Phase.RUNNING:
            self._effects.append(Send(to, message))

    def take(self) -> list[Effect]:
        """What the call has led to."""
        effects, self._effects = self._effects, []
        return effects
