"""Cancels a task at its n-th checkpoint.

The checkpoint is exact: Trio tells when the task has gone to sleep for the n-th time, and it is
cancelled there and then.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import trio

# More than any of these has; without an end a fault would be an endless test.
MOST_STEPS = 200


class Cutter(trio.abc.Instrument):
    """Cancels `scope` when `task` has gone to sleep for the `at`-th time."""

    def __init__(self, task: trio.lowlevel.Task, at: int, scope: trio.CancelScope) -> None:
        self._task, self._at, self._scope = task, at, scope
        self.steps = 0

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        if task is self._task:
            self.steps += 1
            if self.steps == self._at:
                self._scope.cancel()


async def cut(at: int, what: Callable[[], Awaitable[object]]) -> bool:
    """Run `what()`, cancelled at its `at`-th checkpoint (0: from the start); False when it has no
    so many."""
    with trio.CancelScope() as scope:
        cutter = Cutter(trio.lowlevel.current_task(), at, scope)
        if at == 0:
            scope.cancel()
        trio.lowlevel.add_instrument(cutter)
        try:
            await what()
        finally:
            trio.lowlevel.remove_instrument(cutter)
    return scope.cancel_called
