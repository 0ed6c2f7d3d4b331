"""A store of entities in memory, for tests: it fails and dawdles when it is told to.

    contents = MemoryContents()
    store = MemoryStore(contents, seed=7, latency_s=(0.001, 0.02))
    with store.outage():
        ...                       every call raises `StoreUnavailable`

Stores on the same contents are what nodes on the same database are, each with its own way there:
an outage of one cuts off one node.  Contents outlive all of them, as a database does.

A call takes its time twice, on the way there and on the way back, by Trio's clock.  A caller that
is cancelled, or cut off, between the two learns nothing of what it did: that is the case that
programs get wrong, so it must happen here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

import trio

from steinadler.entity.database import Activate, Release, Write, check, place_of, stale
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
    Store,
)
from steinadler.errors import StoreUnavailable
from steinadler.identity import EntityKey
from steinadler.testing.faults import Draws

_T = TypeVar("_T")


class MemoryContents:
    """What a database would hold, by entity.  Look, but leave changes to a `MemoryStore`.

    `on_write` is told of each write that stands, when it does and before anybody else hears of it:
    the order of its calls is the store's.  It must not wait or raise.
    """

    def __init__(self) -> None:
        self.on_write: Callable[[Write], None] = _nobody
        self.held: dict[EntityKey, Held] = {}
        self.state: dict[EntityKey, dict[str, Put]] = {}
        self.reminders: dict[EntityKey, dict[str, Reminder]] = {}


class MemoryStore(Store):
    """A store on `contents`, by default on new ones of its own.

    A call takes between `latency_s[0]` and `latency_s[1]` seconds each way, drawn from `seed`, the
    entity, and how many calls it has had.  It may be opened and closed any number of times.
    """

    def __init__(
        self,
        contents: MemoryContents | None = None,
        *,
        seed: int = 0,
        latency_s: tuple[float, float] = (0.0, 0.0),
    ) -> None:
        self.contents = MemoryContents() if contents is None else contents
        self._draws = Draws(seed)
        self._latency_s = latency_s
        self._calls: Counter[str] = Counter()
        self._outages = 0

    @contextmanager
    def outage(self) -> Iterator[None]:
        """Cut the store off for the length of the block, answers that are on their way included."""
        self._outages += 1
        try:
            yield
        finally:
            self._outages -= 1

    async def open(self) -> None:
        await self._way("open")

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()

    async def look_up(self, key: EntityKey) -> Held | None:
        return await self._ask(str(key), lambda: self.contents.held.get(key))

    async def activate(
        self, key: EntityKey, owner: tuple[str, int], now: float, after: int | None = None
    ) -> Activation:
        def take() -> Activation:
            latest = self._epoch(key)
            if after is not None and after != latest:
                raise stale(key, after, latest)
            epoch = latest + 1
            self.contents.held[key] = Held(epoch, owner)
            self.contents.on_write(Activate(key, owner, now))
            state = {
                name: put
                for name, put in self.contents.state.get(key, {}).items()
                if put.expires_at is None or put.expires_at > now
            }
            return Activation(
                epoch,
                {name: put.value for name, put in state.items()},
                {n: put.expires_at for n, put in state.items() if put.expires_at is not None},
            )

        return await self._ask(str(key), take)

    async def commit(self, commit: Commit) -> None:
        check(commit)

        def change() -> None:
            latest = self._epoch(commit.key)
            if not commit.epoch == latest > 0:
                raise stale(commit.key, commit.epoch, latest)
            state = self.contents.state.setdefault(commit.key, {})
            reminders = self.contents.reminders.setdefault(commit.key, {})
            for step in commit.changes:
                match step:
                    case Put():
                        state[step.key] = step
                    case Delete():
                        state.pop(step.key, None)
                    case SetReminder():
                        reminders[step.reminder.name] = step.reminder
                    case DeleteReminder():
                        reminders.pop(step.name, None)
            self.contents.on_write(commit)

        await self._ask(str(commit.key), change)

    async def release(self, key: EntityKey, epoch: int) -> None:
        def let_go() -> None:
            if epoch == self._epoch(key) > 0:
                self.contents.held[key] = Held(epoch, None)
                self.contents.on_write(Release(key, epoch))

        await self._ask(str(key), let_go)

    async def reminders(self, key: EntityKey) -> Sequence[Reminder]:
        def look() -> Sequence[Reminder]:
            return [reminder for _, reminder in sorted(self._reminders_of(key))]

        return await self._ask(str(key), look)

    async def due(
        self, type: str, before: float, limit: int, after: Due | None = None
    ) -> Sequence[Due]:
        def look() -> Sequence[Due]:
            found = [
                (key, reminder)
                for key in self.contents.reminders
                if key.type == type
                for _, reminder in self._reminders_of(key)
                if reminder.due_at <= before
                and (reminder.expires_at is None or reminder.expires_at > reminder.due_at)
                and place_of((key, reminder)) > place_of(after)
            ]
            return sorted(found, key=place_of)[:limit]

        return await self._ask("due", look)

    def _epoch(self, key: EntityKey) -> int:
        held = self.contents.held.get(key)
        return 0 if held is None else held.epoch

    def _reminders_of(self, key: EntityKey) -> list[tuple[bytes, Reminder]]:
        # UTF-8, because that is what databases order by.
        found = self.contents.reminders.get(key, {})
        return [(name.encode(), reminder) for name, reminder in found.items()]

    async def _ask(self, about: str, action: Callable[[], _T]) -> _T:
        await self._way(about)
        answer = action()
        await self._way(about)
        return answer

    async def _way(self, about: str) -> None:
        self._calls[about] += 1
        await trio.sleep(self._draws.uniform(*self._latency_s, about, self._calls[about]))
        if self._outages:
            raise StoreUnavailable("the test has cut the store off")


def _nobody(_: Write) -> None:
    """No one wants to know."""
