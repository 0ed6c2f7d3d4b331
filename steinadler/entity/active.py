"""An active entity, and the work that it is given.

`Entity` is what a behaviour gets as `Active`: it reads from memory, and writes through the host
under the epoch that it was activated with.  There may be a hundred thousand of them, so it has
slots, and makes what few entities need (a lock, a table of timers) when it is needed.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import trio

from steinadler.entity import answers
from steinadler.entity.answers import Answer
from steinadler.entity.behaviour import Behaviour, Kind, Timer, Turn
from steinadler.entity.store import (
    Activation,
    Change,
    Commit,
    Delete,
    DeleteReminder,
    Put,
    Reminder,
    SetReminder,
)
from steinadler.entity.turns import Action, State, Turns
from steinadler.errors import RemoteProtocolError
from steinadler.identity import EntityKey

if TYPE_CHECKING:
    from steinadler.entity.host import Host
    from steinadler.entity.reentrancy import Chain
    from steinadler.entity.schedule import RunningTimer

# What waiting work takes beside its argument, about.
WORK_OVERHEAD_BYTES = 256


class Work(ABC):
    """Something that waits for its turn of an entity; by default a turn of its behaviour.

    The argument is encoded: what the turn gets is its own copy, whoever calls it.
    """

    __slots__ = ("argument", "deadline", "kind", "method", "size")

    def __init__(
        self, kind: Kind, method: str, argument: bytes, deadline: float = math.inf
    ) -> None:
        self.kind = kind
        self.method = method
        self.argument = argument
        self.deadline = deadline
        self.size = len(method) + len(argument) + WORK_OVERHEAD_BYTES

    async def run(self, entity: Entity) -> Any:
        """The turn: return its answer or raise its error."""
        return await entity.behaviour.run(entity, self.turn(entity))

    def turn(self, entity: Entity) -> Turn:
        """As the behaviour gets it."""
        argument = entity.host.codec.decode(self.argument)
        return Turn(self.kind, self.method, argument, self.deadline)

    def chain(self, entity: Entity) -> str | None:
        """The chain of calls that it says it belongs to: see `Behaviour.chain_of`."""
        if self.kind is not Kind.CALL:
            return None
        try:
            return entity.behaviour.chain_of(self.turn(entity))
        except RemoteProtocolError:  # it cannot be read, as its turn will say
            return None

    @abstractmethod
    def answer(self, answer: Answer) -> None:
        """It has run, or will not.  Must not wait or raise."""


class Entity:
    """One entity that is here.  Implements `steinadler.entity.behaviour.Active`."""

    __slots__ = (
        *("_expires_at", "_lock", "_state", "asked", "behaviour", "epoch", "failure"),
        *("going_since", "host"),
        *("key", "memory", "reentry", "timers", "todo", "turns", "used_at"),
    )

    def __init__(self, key: EntityKey, behaviour: Behaviour, host: Host) -> None:
        self.key = key
        self.behaviour = behaviour
        self.host = host
        self.turns: Turns[Work] = Turns()
        self.todo = Action.NOTHING
        self.epoch = 0  # none, until the store gave one
        self.memory: Any = None
        # Why nothing that is held here may be relied on: the answer of all who ask.  Not the
        # exception, whose traceback would keep all that the turn had in its hands.
        self.failure: Answer | None = None
        self.used_at = 0.0
        self.going_since = 0.0  # 0 when it is to stay
        # Who wants it: the epoch that is to end, and whom to tell when it has.
        self.asked: list[tuple[int, Callable[[], None]]] | None = None
        self.reentry: Chain | None = None  # of a reentrant type, while a turn runs
        self.timers: dict[str, RunningTimer] | None = None
        self._state: dict[str, bytes] | None = None
        self._expires_at: dict[str, float] | None = None
        self._lock: trio.Lock | None = None

    def __repr__(self) -> str:
        return f"<Entity {self.key} {self.turns.state.name}>"

    def begin(self, activation: Activation) -> None:
        """The host's: the entity was taken over."""
        self.epoch = activation.epoch
        self.memory = None
        self._state = dict(activation.state) or None
        self._expires_at = dict(activation.expires_at) or None

    def may_hold(self, epoch: int) -> bool:
        """Whether that epoch is this activation's, or may turn out to be."""
        if self.epoch:
            return self.epoch == epoch
        return self.turns.state in (State.ACTIVATING, State.UNWANTED)

    def forget(self) -> None:
        """The host's: the entity is gone from here; somebody may still hold the object."""
        self.epoch = 0
        self.memory = self.timers = self.failure = self._state = self._expires_at = None

    # -- what behaviours use: see `Active` -----------------------------------------------------

    @property
    def chain(self) -> str | None:
        return self.reentry.name if self.reentry is not None else None

    def now(self) -> float:
        return self.host.clock()

    def read(self, name: str) -> bytes | None:
        if self._state is None:
            return None
        if self._expires_at is not None:
            expires_at = self._expires_at.get(name)
            if expires_at is not None and expires_at <= self.host.clock():
                return None
        return self._state.get(name)

    async def write(
        self, changes: Mapping[str, bytes | None], ttl_s: Mapping[str, float] | None = None
    ) -> None:
        expires_at = {}
        if ttl_s:
            now = self.host.clock()
            expires_at = {name: now + seconds for name, seconds in ttl_s.items()}
        puts: list[Put | Delete] = [
            Delete(name) if value is None else Put(name, value, expires_at.get(name))
            for name, value in changes.items()
        ]
        await self.exclusively(lambda: self._write(puts))

    async def _write(self, changes: list[Put | Delete]) -> None:
        epoch = self.epoch
        await self.commit(changes)
        if self.epoch != epoch:
            return
        state, expires_at = self._state or {}, self._expires_at or {}
        for change in changes:
            expires_at.pop(change.key, None)
            if isinstance(change, Delete):
                state.pop(change.key, None)
            else:
                state[change.key] = change.value
                if change.expires_at is not None:
                    expires_at[change.key] = change.expires_at
        self._state, self._expires_at = state or None, expires_at or None

    def check_answer(self, answer: Any) -> None:
        answers.encode(answer, self.host.codec)

    def start_timer(self, timer: Timer) -> None:
        self.host.on_timer(self, timer)

    def stop_timer(self, name: str) -> None:
        if self.timers is not None:
            self.timers.pop(name, None)

    def stop_timers(self) -> None:
        self.timers = None

    async def set_reminder(self, reminder: Reminder) -> None:
        await self.exclusively(lambda: self.commit([SetReminder(reminder)]))
        self.host.on_reminder(self.key, reminder)

    async def delete_reminder(self, name: str) -> None:
        await self.exclusively(lambda: self.commit([DeleteReminder(name)]))

    async def get_reminder(self, name: str) -> Reminder | None:
        store = await self.host.keeper.ready()
        found = await store.reminders(self.key)
        return next((each for each in found if each.name == name), None)

    # -- beneath them -------------------------------------------------------------------------

    async def exclusively(self, change: Callable[[], Awaitable[Any]]) -> Any:
        """Change the entity after whatever else changes it: what is held follows the store's
        order, and a reminder is not put back that was changed meanwhile."""
        if self._lock is None:
            self._lock = trio.Lock()
        lock = self._lock
        async with lock:
            try:
                return await change()
            finally:
                if not lock.statistics().tasks_waiting:
                    self._lock = None  # many entities write now and then

    async def commit(self, changes: Sequence[Change]) -> None:
        """Change the entity in the store, under the epoch that it was activated with."""
        await self.host.commit(self, Commit(self.key, self.epoch, changes))
