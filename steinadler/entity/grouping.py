"""Group commit: the writes of many entities in one transaction, by one thread.

    a write arrives        it is queued, and its task waits
    the thread is free     it takes what is queued, up to a number and a size, as one transaction
    the transaction ends   every waiting task gets its own outcome; the next group goes

A durable commit costs one wait for the disk however much is in it, so what arrives during one
wait shares the next: a lone write waits for nobody, and the busier the node, the larger the
groups (DeWitt et al., "Implementation techniques for main memory database systems", 1984).
Waiting a little for company, as some databases do, was refused: it slows down the lone write and
gains nothing under load.

The thread is the store's own and not one of Trio's pool, so that it goes from one group to the
next without waiting for the event loop's turn.  Reads have a connection and a thread of their own
and never wait behind the disk.

A task that is cancelled stops waiting, and its write is left out when its group has not set out
yet.  A group is never broken off for one of its tasks: the others are in it.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

import trio

from steinadler.entity.database import (
    Activate,
    Database,
    Outcome,
    Release,
    Write,
    check,
    size_of,
)
from steinadler.entity.store import Activation, Commit, Due, Held, Reminder, Store
from steinadler.errors import StoreUnavailable
from steinadler.identity import EntityKey

# A transaction this large takes a disk a few milliseconds more than one with a single write.
MAX_GROUP_WRITES = 512
# One write may be larger, and then goes alone.
MAX_GROUP_BYTES = 4 * 1024 * 1024
SWEEP_INTERVAL_S = 30.0

_T = TypeVar("_T")
_log = logging.getLogger("steinadler.entity")


class _Waiting:
    """A write and the task that waits for it."""

    __slots__ = ("cancelled", "done", "outcome", "write")

    def __init__(self, write: Write) -> None:
        self.write = write
        self.done = trio.Event()
        self.cancelled = False
        self.outcome: Outcome | Exception = None


class GroupingStore(Store):
    """A store on a database, by way of two threads; the writing one lives from open to close.

    All methods but `open` and `aclose` raise `StoreUnavailable` outside of these two.
    """

    def __init__(self, database: Database, clock: Callable[[], float] = time.time) -> None:
        self._database = database
        self._clock = clock
        self._queue: queue.SimpleQueue[_Waiting | None] = queue.SimpleQueue()
        self._writer: threading.Thread | None = None
        self._reading = trio.CapacityLimiter(1)
        self._failing = False

    async def open(self) -> None:
        await trio.to_thread.run_sync(self._database.open, limiter=self._reading)
        token = trio.lowlevel.current_trio_token()
        # A daemon, so that a program that ends without closing the store does end.
        self._writer = threading.Thread(
            target=self._write_groups, args=(token,), name="steinadler store", daemon=True
        )
        self._writer.start()

    async def aclose(self) -> None:
        writer, self._writer = self._writer, None
        if writer is None:
            return
        self._queue.put(None)
        # What is under way may not be torn, and the databases bound how long it takes.
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(writer.join)
            await trio.to_thread.run_sync(self._database.close, limiter=self._reading)

    async def look_up(self, key: EntityKey) -> Held | None:
        return await self._read(lambda: self._database.look_up(key))

    async def activate(
        self, key: EntityKey, owner: tuple[str, int], now: float, after: int | None = None
    ) -> Activation:
        outcome = await self._write(Activate(key, owner, now, after))
        assert isinstance(outcome, Activation)
        return outcome

    async def commit(self, commit: Commit) -> None:
        await self._write(check(commit))

    async def release(self, key: EntityKey, epoch: int) -> None:
        await self._write(Release(key, epoch))

    async def reminders(self, key: EntityKey) -> Sequence[Reminder]:
        return await self._read(lambda: self._database.reminders(key))

    async def due(
        self, type: str, before: float, limit: int, after: Due | None = None
    ) -> Sequence[Due]:
        return await self._read(lambda: self._database.due(type, before, limit, after))

    async def _read(self, question: Callable[[], _T]) -> _T:
        self._check_open()
        # The thread of a read that was cancelled ends by itself, and the next read waits for it.
        return await trio.to_thread.run_sync(
            question, limiter=self._reading, abandon_on_cancel=True
        )

    async def _write(self, write: Write) -> Outcome:
        self._check_open()
        waiting = _Waiting(write)
        self._queue.put(waiting)
        try:
            await waiting.done.wait()
        except trio.Cancelled:
            waiting.cancelled = True
            raise
        match waiting.outcome:
            case StoreUnavailable() as error:
                # One failure is many tasks', and an exception grows wherever it is raised.
                raise StoreUnavailable(str(error)) from error
            case Exception() as error:
                raise error
            case outcome:
                return outcome

    def _check_open(self) -> None:
        if self._writer is None:
            raise StoreUnavailable("the store is not open; is the node closing?")

    # -- on the writing thread ---------------------------------------------------------------------

    def _write_groups(self, token: trio.lowlevel.TrioToken) -> None:
        groups = _Groups(self._queue)
        sweep_at = time.monotonic() + SWEEP_INTERVAL_S
        while (group := groups.next(sweep_at - time.monotonic())) is not None:
            if group:
                outcomes = self._attempt(group)
                with contextlib.suppress(trio.RunFinishedError):
                    token.run_sync_soon(_answer, group, outcomes)
            if time.monotonic() >= sweep_at:
                self._sweep()
                sweep_at = time.monotonic() + SWEEP_INTERVAL_S

    def _sweep(self) -> None:
        try:
            self._database.sweep(self._clock())
        except StoreUnavailable:
            pass  # whoever writes hears of it; what is left over is swept the next time
        except Exception as error:  # a bug must not end the thread that all writes wait for
            _log.exception("what has expired in the store of entities was not deleted: %s", error)

    def _attempt(self, group: Sequence[_Waiting]) -> Sequence[Outcome | Exception]:
        try:
            outcomes = self._database.write([waiting.write for waiting in group])
        except Exception as error:  # a bug, too, is raised where the write was asked for
            if not self._failing:
                _log.warning("the store of entities fails: %s", error)
            self._failing = True
            return [error] * len(group)
        if self._failing:
            _log.info("the store of entities can be asked again")
        self._failing = False
        return outcomes


class _Groups:
    """Takes from the queue what goes together."""

    def __init__(self, waiting: queue.SimpleQueue[_Waiting | None]) -> None:
        self._queue = waiting
        self._carried: _Waiting | None = None
        self._closing = False

    def next(self, timeout_s: float) -> list[_Waiting] | None:
        """Wait for a group; none within the time: an empty one.  None when there are no more."""
        group: list[_Waiting] = []
        size = 0
        try:
            while len(group) < MAX_GROUP_WRITES:
                waiting = self._take(0 if group else max(timeout_s, 0))
                if waiting is None:
                    break
                if waiting.cancelled:
                    continue
                size += size_of(waiting.write)
                if group and size > MAX_GROUP_BYTES:
                    self._carried = waiting
                    break
                group.append(waiting)
        except queue.Empty:
            return group
        return group or None

    def _take(self, timeout_s: float) -> _Waiting | None:
        if self._carried is not None:
            carried, self._carried = self._carried, None
            return carried
        if self._closing:
            return None
        waiting = self._queue.get(timeout=timeout_s) if timeout_s else self._queue.get_nowait()
        self._closing = waiting is None
        return waiting


def _answer(group: Sequence[_Waiting], outcomes: Sequence[Outcome | Exception]) -> None:
    for waiting, outcome in zip(group, outcomes, strict=True):
        waiting.outcome = outcome
        waiting.done.set()
