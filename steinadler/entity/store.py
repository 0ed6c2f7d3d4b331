"""What a store promises: state and epochs of entities, and their reminders.

    activate   takes the next epoch of an entity, if nobody took one since we looked, and reads
               its state
    commit     changes state and reminders, all or nothing, if the epoch is still the entity's
    release    the owner lets go: whoever activates next need not ask it

Fencing (Gray & Cheriton's leases, with the token of Kleppmann's "How to do distributed locking"):
epochs of an entity only grow, and `commit` and `release` are refused with `StaleEpoch` unless
theirs is the latest that was taken.  So of two nodes that both believe to own an entity, only the
one that activated it last can change it, however late the other's writes arrive.  And an activation
that arrives late, when the members have agreed on another owner meanwhile, does not take the entity
from under that owner's turn: it was meant to follow an epoch that has passed.

Times are seconds since 1970 by the clock of the caller's machine: reminders and expiry are as
exact as the clocks of the nodes agree.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from steinadler.identity import EntityKey


@dataclass(frozen=True, slots=True)
class Activation:
    """What taking an entity over gave: the new epoch, and the state that stands.

    `expires_at` has those keys of the state that are to expire.
    """

    epoch: int
    state: Mapping[str, bytes]
    expires_at: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Held:
    """Who has an entity, by the store: a node's name and incarnation; None when it was let go."""

    epoch: int
    owner: tuple[str, int] | None


@dataclass(frozen=True, slots=True)
class Put:
    """Set one key of an entity's state; from `expires_at` on it is as if it had never been set."""

    key: str
    value: bytes
    expires_at: float | None = None


@dataclass(frozen=True, slots=True)
class Delete:
    """Remove one key of an entity's state; nothing happens when it is not set."""

    key: str


@dataclass(frozen=True, slots=True)
class Reminder:
    """A durable timer of an entity.

    It is due at `due_at`, and then every `period_s` (None: once) for `repeats` further times (None:
    without end) until `expires_at`.  `data` goes to the turn as it is.
    """

    name: str
    due_at: float
    period_s: float | None = None
    repeats: int | None = None
    expires_at: float | None = None
    data: bytes = b""

    def as_tuple(self) -> tuple[str, float, float | None, int | None, float | None, bytes]:
        """The fields in order, as it travels and is stored: `Reminder(*fields)` reads them."""
        return (
            self.name,
            self.due_at,
            self.period_s,
            self.repeats,
            self.expires_at,
            self.data,
        )


# A reminder, and whose it is.
Due: TypeAlias = tuple[EntityKey, Reminder]


@dataclass(frozen=True, slots=True)
class SetReminder:
    """Add a reminder, in place of the one of that name if there is one."""

    reminder: Reminder


@dataclass(frozen=True, slots=True)
class DeleteReminder:
    """Remove a reminder; nothing happens when there is none of that name."""

    name: str


Change: TypeAlias = Put | Delete | SetReminder | DeleteReminder


@dataclass(frozen=True, slots=True)
class Commit:
    """Changes to one entity, in order, that stand or fall together."""

    key: EntityKey
    epoch: int
    changes: Sequence[Change] = field(default=())


class Store(ABC):
    """Where entities live when no node has them.  Shared by all nodes that host the same types.

    Every method raises `StoreUnavailable` when the store cannot be asked now (down, locked, full),
    with a text that says what to do; it may then be asked again, and recovers by itself.  After a
    `commit` that was cancelled or raised `StoreUnavailable`, the changes may or may not stand.

    Keys of the state and names of reminders take up to 1024 bytes of UTF-8, and the changes of one
    commit up to 16 MiB together.
    """

    @abstractmethod
    async def open(self) -> None:
        """Connect, and make or migrate the schema.  Must be called once, before all else.

        Raises `ConfigError` when somebody must change something first: no such folder, no such
        user, a schema of a later version.  After `StoreUnavailable` it may be called again.
        """

    @abstractmethod
    async def aclose(self) -> None:
        """Give connections and threads back.  What is under way is finished."""

    @abstractmethod
    async def look_up(self, key: EntityKey) -> Held | None:
        """Who has an entity; None when it never was active."""

    @abstractmethod
    async def activate(
        self, key: EntityKey, owner: tuple[str, int], now: float, after: int | None = None
    ) -> Activation:
        """Take an entity over: the next epoch is ours, and earlier ones are stale from now on.

        With `after`, only when that is the latest epoch (0: nobody ever had one); otherwise raises
        `StaleEpoch`, and nothing was changed.
        """

    @abstractmethod
    async def commit(self, commit: Commit) -> None:
        """Make changes durable.

        Raises `StaleEpoch`, `StateTooLarge` when they are over a limit, and `ConfigError` for what
        no store can hold; then nothing was changed.
        """

    @abstractmethod
    async def release(self, key: EntityKey, epoch: int) -> None:
        """The owner has no more use for the entity.  Nothing happens when the epoch is stale."""

    @abstractmethod
    async def reminders(self, key: EntityKey) -> Sequence[Reminder]:
        """The reminders of an entity, by name."""

    @abstractmethod
    async def due(
        self, type: str, before: float, limit: int, after: Due | None = None
    ) -> Sequence[Due]:
        """Reminders of entities of a type that are due by a time, `limit` at most, in the order of
        time, id and name; only those that come after `after`, the last one that was told before.
        """
