"""Stopping the tasks of one node while all others run: SIGSTOP inside one event loop.

A Trio instrument is told of each step of a task before the step is made.  For a task of a frozen
node it puts the step aside and lets the task go on waiting in its place; thawing puts all those
steps back, in their order.  So a frozen node runs no line of its code, its timers run out
unheeded, and it finds out at once when it is thawed, as a stopped process does.

Holding only the node's bytes back was refused: its clock would have gone on, it would have
declared everybody else dead, and a pause could never have tested what a real one does.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import trio
from trio._core._traps import WaitTaskRescheduled


class Freezer(trio.abc.Instrument):
    """Freezes tasks, each with all tasks below it.  Works on the run in which it is first used.

    A frozen task that is cancelled is so when it is thawed.
    """

    def __init__(self) -> None:
        # By frozen root: the steps put aside.
        self._steps: dict[trio.lowlevel.Task, list[tuple[trio.lowlevel.Task, Any, Any]]] = {}

    def freeze(self, root: trio.lowlevel.Task) -> None:
        """Stop `root` and everything that it, or what it started, starts."""
        if not self._steps:
            trio.lowlevel.add_instrument(self)
        self._steps.setdefault(root, [])

    def thaw(self, root: trio.lowlevel.Task) -> None:
        """Undo `freeze`; nothing happens when `root` is not frozen."""
        steps = self._steps.pop(root, [])
        for task, send_function, value in steps:
            trio.lowlevel.reschedule(task)
            _set_step(task, send_function, value)
        if not self._steps:
            try:
                trio.lowlevel.remove_instrument(self)
            except KeyError:
                return  # it was not installed: nothing had been frozen

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        """Trio's: put the step aside when the task is frozen."""
        steps = self._steps.get(self._frozen_root(task))  # type: ignore[arg-type]
        if steps is not None:
            step: Any = task
            steps.append((task, step._next_send_fn, step._next_send))
            _set_step(task, _wait_on, None)

    def _frozen_root(self, task: trio.lowlevel.Task) -> trio.lowlevel.Task | None:
        above: trio.lowlevel.Task | None = task
        while above is not None and above not in self._steps:
            nursery = above.parent_nursery
            above = nursery.parent_task if nursery is not None else None
        return above


def _set_step(task: trio.lowlevel.Task, send_function: Callable[[Any], Any], value: Any) -> None:
    step: Any = task
    step._next_send_fn, step._next_send = send_function, value


def _wait_on(_: object) -> WaitTaskRescheduled:
    return WaitTaskRescheduled(lambda _: trio.lowlevel.Abort.FAILED)
