"""What a database does for a store, and what a group of writes comes to: no threads, no Trio.

A `Database` makes plain blocking calls; `grouping` makes them from threads of its own.  Writes
reach it in groups, one transaction each:

    1. read, and keep others from changing, who has the entities of the group
    2. `settle`: go through the writes in order; each stands or falls by its own epoch
    3. write what the ones that stand come to, and read the state of what was activated

Step 2 is here, once, because it is the fence (E1).  Leaving it to conditions in each database's
SQL was refused: it would be written twice, and a statement for each write costs a round trip, or
on SQLite a hand-over of the interpreter's lock, that a group is there to save.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias, assert_never

from steinadler.entity.store import (
    Activation,
    Commit,
    Delete,
    DeleteReminder,
    Due,
    Held,
    Put,
    Reminder,
    SetReminder,
)
from steinadler.errors import ConfigError, StaleEpoch, StateTooLarge
from steinadler.identity import EntityKey

# PostgreSQL indexes no row over 2704 bytes: a type, an id and a key must fit into one.
MAX_KEY_BYTES = 1024
# Of all changes of one commit together: what two copies of are no trouble to anybody's memory.
MAX_COMMIT_BYTES = 16 * 1024 * 1024
# What a change or a write takes beside its keys and values, roughly.
_OVERHEAD_BYTES = 64
_MAX_INTEGER = 2**63 - 1
# Seconds since 1970, or before: a float of that size still tells one millisecond from the next.
_MAX_TIME = 2.0**40
# A shorter period is no reminder but a busy loop; a longer one may lead past the last time.
MIN_PERIOD_S, MAX_PERIOD_S = 0.001, 2.0**39


@dataclass(frozen=True, slots=True)
class Activate:
    """Take an entity over for a node's life; the state is as it stands at `now`.

    With `after`, only when that is the latest epoch.
    """

    key: EntityKey
    owner: tuple[str, int]
    now: float
    after: int | None = None


@dataclass(frozen=True, slots=True)
class Release:
    """Let an entity go, if the epoch is still its own."""

    key: EntityKey
    epoch: int


Write: TypeAlias = Activate | Commit | Release
# What became of a write: what an `Activate` took, nothing to tell, or why it did not stand.
Outcome: TypeAlias = Activation | StaleEpoch | None
# A row of the state: whose, key, value, expires_at.
StateRow: TypeAlias = tuple[EntityKey, str, bytes, float | None]


class Database(ABC):
    """Where a store's contents are.  Every call blocks; `store.Store` says what they mean.

    `write` and `sweep` come from one thread at a time, the reads from another at the same time.
    All raise `StoreUnavailable`, bounded in time, and work again when the reason has gone.
    """

    @abstractmethod
    def open(self) -> None:
        """Connect, and make or migrate the schema.  Raises `ConfigError` as `Store.open` does."""

    @abstractmethod
    def close(self) -> None:
        """Give the connections back; nothing else is under way."""

    @abstractmethod
    def write(self, group: Sequence[Write]) -> Sequence[Outcome]:
        """Do what the group says, durably and in one transaction: an outcome for each write."""

    @abstractmethod
    def sweep(self, now: float) -> None:
        """Delete what has expired."""

    @abstractmethod
    def look_up(self, key: EntityKey) -> Held | None: ...

    @abstractmethod
    def reminders(self, key: EntityKey) -> Sequence[Reminder]: ...

    @abstractmethod
    def due(
        self, type: str, before: float, limit: int, after: Due | None = None
    ) -> Sequence[Due]: ...


@dataclass(slots=True)
class Settlement:
    """What a group comes to: what to write, each thing once, and what to answer."""

    # Whether each write of the group stands, in its order; the epoch that an activation took.
    verdicts: list[int | StaleEpoch | None] = field(default_factory=list)
    holders: dict[EntityKey, Held] = field(default_factory=dict)
    state: dict[tuple[EntityKey, str], Put | Delete] = field(default_factory=dict)
    reminders: dict[tuple[EntityKey, str], SetReminder | DeleteReminder] = field(
        default_factory=dict
    )

    def outcomes(self, group: Sequence[Write], rows: Iterable[StateRow]) -> list[Outcome]:
        """What to answer, given all state of the entities that the group activates."""
        state: dict[EntityKey, list[StateRow]] = {}
        for row in rows:
            state.setdefault(row[0], []).append(row)
        outcomes: list[Outcome] = []
        for write, verdict in zip(group, self.verdicts, strict=True):
            if isinstance(write, Activate) and isinstance(verdict, int):
                stands: dict[str, bytes] = {}
                expiries: dict[str, float] = {}
                for _, name, value, expires_at in state.get(write.key, ()):
                    if expires_at is None or expires_at > write.now:
                        stands[name] = value
                        if expires_at is not None:
                            expiries[name] = expires_at
                outcomes.append(Activation(verdict, stands, expiries))
            elif not isinstance(verdict, int):
                outcomes.append(verdict)
        return outcomes


def settle(group: Sequence[Write], held: Mapping[EntityKey, Held]) -> Settlement:
    """Go through a group in order, given who has its entities; those that are missing are new.

    Whatever is changed more than once is written as the last change leaves it: every change says
    what a thing shall be, none what it was.
    """
    settlement = Settlement()
    current = dict(held)
    for write in group:
        holder = current.get(write.key, Held(0, None))
        verdict: int | StaleEpoch | None = None
        match write:
            case Activate() if write.after is None or write.after == holder.epoch:
                verdict = holder.epoch + 1
                current[write.key] = Held(verdict, write.owner)
                settlement.holders[write.key] = current[write.key]
            case Commit() if write.epoch == holder.epoch > 0:
                for change in write.changes:
                    match change:
                        case Put() | Delete():
                            settlement.state[write.key, change.key] = change
                        case SetReminder():
                            settlement.reminders[write.key, change.reminder.name] = change
                        case DeleteReminder():
                            settlement.reminders[write.key, change.name] = change
                        case _:
                            assert_never(change)
            case Activate():
                verdict = stale(write.key, write.after or 0, holder.epoch)
            case Commit():
                verdict = stale(write.key, write.epoch, holder.epoch)
            case Release() if write.epoch == holder.epoch > 0:
                current[write.key] = Held(holder.epoch, None)
                settlement.holders[write.key] = current[write.key]
            case Release():
                pass
            case _:
                assert_never(write)
        settlement.verdicts.append(verdict)
    return settlement


def stale(key: EntityKey, epoch: int, latest: int) -> StaleEpoch:
    """What a write under an epoch that ended is answered."""
    return StaleEpoch(
        f"{key}: another node has taken the entity over: "
        f"epoch {epoch} ended, {latest} is the latest"
    )


def place_of(due: Due | None) -> tuple[float, str, str]:
    """Where a reminder stands among those of its type, in the order of `Database.due`; None stands
    before all."""
    if due is None:
        return -math.inf, "", ""
    key, reminder = due
    return reminder.due_at, key.id, reminder.name


def size_of(write: Write) -> int:
    """About how many bytes a write brings to its transaction."""
    changes = write.changes if isinstance(write, Commit) else ()
    return _OVERHEAD_BYTES + sum(_OVERHEAD_BYTES + _weight(change) for change in changes)


def _weight(change: Put | Delete | SetReminder | DeleteReminder) -> int:
    match change:
        case Put():
            return len(change.key) + len(change.value)
        case SetReminder():
            return len(change.reminder.name) + len(change.reminder.data)
        case Delete():
            return len(change.key)
        case DeleteReminder():
            return len(change.name)


def check(commit: Commit) -> Commit:
    """Return `commit` when every store can hold it: nobody else of its group shall suffer.

    Raises `StateTooLarge`, and `ConfigError` for text that UTF-8 cannot say, a time that is none
    or a period that leads nowhere.  A member may have sent any of it, so types are looked at too.
    """
    for change in commit.changes:
        match change:
            case Put():
                _check_name(commit.key, change.key)
                _check_bytes(commit.key, change.value)
                _check_times(commit.key, change.expires_at)
            case SetReminder(reminder):
                _check_reminder(commit.key, reminder)
            case Delete():
                _check_name(commit.key, change.key)
            case DeleteReminder():
                _check_name(commit.key, change.name)
            case _:
                assert_never(change)
    size = size_of(commit)
    if size > MAX_COMMIT_BYTES:
        raise StateTooLarge(
            f"{commit.key}: one turn would store {size} bytes, and the limit is "
            f"{MAX_COMMIT_BYTES}; keep what is large elsewhere, and where it is in the entity"
        )
    return commit


def _check_name(key: EntityKey, name: str) -> None:
    if not isinstance(name, str):
        raise ConfigError(f"{key}: a key must be text, not {type(name).__name__}")
    try:
        size = len(name.encode())
    except UnicodeEncodeError:
        raise ConfigError(f"{key}: a key must be text that UTF-8 can say, not {name!r}") from None
    if size > MAX_KEY_BYTES:
        raise StateTooLarge(
            f"{key}: keys of the state and names of reminders take up to {MAX_KEY_BYTES} bytes; "
            f"this one takes {size}: {name[:40]!r}..."
        )


def _check_bytes(key: EntityKey, value: bytes) -> None:
    if not isinstance(value, bytes):
        raise ConfigError(f"{key}: what is stored must be bytes, not {type(value).__name__}")


def _check_times(key: EntityKey, *times: float | None) -> None:
    for time in times:
        if time is not None and not (_is_number(time) and abs(time) <= _MAX_TIME):
            raise ConfigError(f"{key}: a time is a number of seconds up to 2**40")


def _check_reminder(key: EntityKey, reminder: Reminder) -> None:
    _check_name(key, reminder.name)
    _check_bytes(key, reminder.data)
    if reminder.due_at is None:
        raise ConfigError(f"{key}: a reminder needs a time when it is due")
    _check_times(key, reminder.due_at, reminder.expires_at)
    period_s, repeats = reminder.period_s, reminder.repeats
    if period_s is not None and not (
        _is_number(period_s) and MIN_PERIOD_S <= period_s <= MAX_PERIOD_S
    ):
        raise ConfigError(f"{key}: a reminder's period is {MIN_PERIOD_S} to 2**39 seconds")
    if repeats is not None and not (type(repeats) is int and 0 <= repeats <= _MAX_INTEGER):
        raise ConfigError(f"{key}: a reminder repeats 0 to 2**63 - 1 times")


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
