"""Work for callers on this node: they wait for its answer without a hop.

A task's own wake-up is used in place of an event: a local call is to cost little beside its turn.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import trio

from steinadler.entity.active import Work
from steinadler.entity.answers import Answer
from steinadler.entity.service import ReminderWork
from steinadler.identity import EntityKey


class _Host(Protocol):
    def withdraw(self, key: EntityKey, work: Work) -> None: ...


class LocalWork(Work):
    """A turn for a caller on this node, who waits for it with `wait_for`."""

    __slots__ = ("waiting",)

    waiting: _Waiting

    def answer(self, answer: Answer) -> None:
        self.waiting.resolve(answer)


class LocalReminderWork(LocalWork, ReminderWork):
    """Something to do with reminders, for a caller on this node."""

    __slots__ = ()


async def wait_for(
    key: EntityKey, work: LocalWork, host: _Host, submit: Callable[[EntityKey, Work], None]
) -> Answer:
    """Submit work and wait for its answer.  Cancelled, it is withdrawn if it has not begun."""
    work.waiting = waiting = _Waiting()
    submit(key, work)
    return await waiting.wait(lambda: host.withdraw(key, work))


class _Waiting:
    """A task of this node that waits for work to be answered."""

    __slots__ = ("_task", "answer")

    def __init__(self) -> None:
        self._task: trio.lowlevel.Task | None = None
        self.answer: Answer | None = None

    def resolve(self, answer: Answer) -> None:
        self.answer = answer
        task, self._task = self._task, None
        if task is not None:
            trio.lowlevel.reschedule(task)

    async def wait(self, give_up: Callable[[], None]) -> Answer:
        """Wait for the answer.  Cancelled, it calls `give_up` first."""
        if self.answer is None:

            def abort(_: object) -> trio.lowlevel.Abort:
                self._task = None
                give_up()
                return trio.lowlevel.Abort.SUCCEEDED

            self._task = trio.lowlevel.current_task()
            await trio.lowlevel.wait_task_rescheduled(abort)
        else:
            await trio.lowlevel.checkpoint()
        assert self.answer is not None
        return self.answer
