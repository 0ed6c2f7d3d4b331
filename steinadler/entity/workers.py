"""Tasks that attend to whatever has something to do, one thing at a time each.

    push(item) -> ready, in order -> a worker takes it, attends to it, and takes the next

An item waits for nobody: while something is ready, some worker is on its way to look.  A worker
that took an item sends the next one to look before it begins, because it may be busy for long.
So a burst of short turns is run by one task without a switch between them, and a turn that waits
holds up no other.  A task for each item was refused: to start one costs as much as a short turn.
"""

from __future__ import annotations

import contextvars
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

import trio

# A worker lets others run after so many items, at least.
CHECKPOINT_EVERY = 32
# So many workers with nothing to do are kept for the next burst.
MAX_PARKED = 64

_T = TypeVar("_T")


class Worker(Generic[_T]):
    """One task.  `item` is what it attends to, since `since`; `scope` cuts that short."""

    __slots__ = ("item", "scope", "since")

    def __init__(self) -> None:
        self.item: _T | None = None
        self.since = 0.0
        self.scope = trio.CancelScope()


class Workers(Generic[_T]):
    """Runs `attend` for each item that is pushed.

    `attend` returns whether the item has more to do: it then comes again, behind the others.  When
    it is cancelled it has to push by itself what has more to do.  `now` is a clock that the owner
    sets as often as it likes: `Worker.since` is no more exact than that.
    """

    def __init__(self, attend: Callable[[_T], Awaitable[bool]]) -> None:
        self.now = 0.0
        self._attend = attend
        self._ready: deque[_T] = deque()
        self._parked: list[trio.lowlevel.Task] = []
        self._looking = False  # a worker was sent for, and has not looked yet
        self._all: dict[Worker[_T], None] = {}  # in order, so that a simulation repeats itself
        self._nursery: trio.Nursery | None = None
        # Whoever pushes first is not to lend the workers its context variables.
        self._context = contextvars.copy_context()

    def __len__(self) -> int:
        return len(self._all)

    def open(self, nursery: trio.Nursery) -> None:
        """Run workers in this nursery from now on."""
        self._nursery = nursery

    def push(self, item: _T) -> None:
        """Attend to this item soon.  It must not be ready, or attended to, already."""
        self._ready.append(item)
        if not self._looking:
            self._send_for_one()

    def busy(self) -> list[Worker[_T]]:
        """The workers that attend to something."""
        return [worker for worker in self._all if worker.item is not None]

    def _send_for_one(self) -> None:
        self._looking = True
        if self._parked:
            trio.lowlevel.reschedule(self._parked.pop())
        else:
            assert self._nursery is not None
            self._context.run(self._nursery.start_soon, self._work)

    async def _work(self) -> None:
        self._looking = False
        worker: Worker[_T] = Worker()
        self._all[worker] = None
        try:
            while True:
                # One for many items, because to enter a scope costs something.
                with trio.CancelScope() as worker.scope:
                    if not await self._take_turns(worker):
                        return
                worker.item = None
        finally:
            del self._all[worker]

    async def _take_turns(self, worker: Worker[_T]) -> bool:
        """Attend to items until the scope is cancelled; False when there are workers enough."""
        until_checkpoint = CHECKPOINT_EVERY
        # Also when the cancellation came too late for the item that it was meant for.
        while not worker.scope.cancel_called:
            if not self._ready:
                if len(self._parked) >= MAX_PARKED:
                    return False
                until_checkpoint = CHECKPOINT_EVERY
                await self._park()
                continue
            item = self._ready.popleft()
            if self._ready and not self._looking:
                self._send_for_one()
            worker.item, worker.since = item, self.now
            if await self._attend(item):
                self._ready.append(item)
            worker.item = None
            until_checkpoint -= 1
            if until_checkpoint <= 0:
                until_checkpoint = CHECKPOINT_EVERY
                await trio.lowlevel.checkpoint()
        return True

    async def _park(self) -> None:
        task = trio.lowlevel.current_task()

        def abort(_: object) -> trio.lowlevel.Abort:
            self._parked.remove(task)
            return trio.lowlevel.Abort.SUCCEEDED

        self._parked.append(task)
        await trio.lowlevel.wait_task_rescheduled(abort)
        self._looking = False
