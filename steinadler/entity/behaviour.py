"""What an entity does in its turns, whatever it is written in.

A behaviour stands for one type of entity.  The host sees to it that at most one of `run` and
`deactivate` runs for an entity at a time, and that both get the activation that they are about.
Only turns of one chain of calls run within each other: see `reentrancy`.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from enum import Enum
from typing import Any, Protocol

from steinadler.entity.store import Reminder
from steinadler.identity import EntityKey


class Kind(Enum):
    """Why a turn runs."""

    CALL = "call"
    TIMER = "timer"
    REMINDER = "reminder"


@dataclass(frozen=True, slots=True)
class Turn:
    """One turn to run: a command and its argument.

    Of a Python entity the argument is the tuple of the command's arguments; behind a sidecar it is
    a request: `{"verb": str, "headers": {name: text}, "body": bytes}`.  Of a timer both are what it
    was started with; of a reminder the method is its name and the argument its data.  `deadline` is
    Trio's time at which nobody waits for the answer any more.
    """

    kind: Kind
    method: str
    argument: Any
    deadline: float


@dataclass(frozen=True, slots=True)
class Timer:
    """A timer that lives as long as the activation: times in seconds from now."""

    name: str
    due_s: float
    method: str
    argument: Any
    period_s: float | None = None
    repeats: int | None = None
    ttl_s: float | None = None


class Active(Protocol):
    """An active entity, as its behaviour sees it.

    `read`, `write`, ... are for the entity's own turn (or what the turn has asked to act for it).
    All raise `StaleEpoch` when another node has taken the entity over, and `StoreUnavailable`.
    """

    @property
    def key(self) -> EntityKey: ...
    @property
    def epoch(self) -> int: ...

    @property
    def chain(self) -> str | None:
        """The chain of calls that the running turn belongs to, of a reentrant type."""

    # What the behaviour wants to keep with the activation; starts as None.
    memory: Any

    def now(self) -> float:
        """The clock that reminders go by: seconds since 1970, simulated where the node is."""

    def read(self, name: str) -> bytes | None:
        """One key of the state, as last committed."""

    async def write(self, changes: dict[str, bytes | None], ttl_s: dict[str, float] = ...) -> None:
        """Commit several keys, all or nothing; None deletes one.  Durable on return."""

    def check_answer(self, answer: Any) -> None:
        """Raise what keeps an answer from its caller, while the turn has written nothing yet:
        `NotEncodable`, `MessageTooLarge`."""

    def start_timer(self, timer: Timer) -> None: ...
    def stop_timer(self, name: str) -> None: ...
    def stop_timers(self) -> None: ...
    async def set_reminder(self, reminder: Reminder) -> None: ...
    async def delete_reminder(self, name: str) -> None: ...
    async def get_reminder(self, name: str) -> Reminder | None: ...


class Behaviour(ABC):
    """How entities of one type run."""

    # Seconds without a turn after which an entity is passivated.
    idle_s: float = 3600.0
    # Seconds that a turn may still run when its entity is to leave, within the node's `drain_s`.
    drain_s: float = math.inf
    # How many turns of one chain of calls may run within each other; None: it is not reentrant.
    max_depth: int | None = None

    @abstractmethod
    async def activate(self, entity: Active) -> None:
        """The entity is active from now on; what this raises fails the calls that wait for it."""

    @abstractmethod
    async def run(self, entity: Active, turn: Turn) -> Any:
        """Run one turn and return its answer, after what it wrote was committed.

        An `EntityError` it raises goes to the caller as it is; any other exception is a
        `RemoteError` to the caller.  The entity stays active, unless it was `StaleEpoch`.
        """

    def chain_of(self, turn: Turn) -> str | None:
        """The chain of calls that a call says it belongs to; None when it says nothing.

        Asked of reentrant types, when a call comes; must not wait.
        """
        return None

    @abstractmethod
    async def deactivate(self, entity: Active) -> None:
        """The entity is about to be passivated, or to move.  What this raises is logged."""
