"""Timers, which live with an activation, and reminders, which are in the store.

One task and one agenda serve all of them.  A timer is due by Trio's clock, a reminder by the wall
clock.  Every node that hosts a type asks the store for its reminders that are due soon, and only
the owner acts on one: ownership moves without anybody handing reminders over.

**A reminder's occurrence is taken before its turn runs**: the reminder is advanced to its next
occurrence (or deleted, after the last) under the activation's epoch, and only then the turn runs.
So no occurrence is run twice (E3), whoever believes to be the owner.  The price: when the node
dies between the two, that occurrence is lost, and with it a reminder that was due once.  Taking
it afterwards was refused: a turn that ran, and whose node died before it said so, would run again.

**One that cannot be taken rests.**  When an entity cannot be activated, its reminders stay due for
as long as that lasts.  So each poll goes on from where the last one ended, page by page and type by
type, and the entity is tried again after a pause that doubles: however many are stuck, all others
have their turn.  To ask for the earliest alone was refused: those that are stuck are the earliest.

Occurrences that were missed, because nobody hosted the type or the entity was busy, are run once,
not once each, and the next keeps to the grid: all of them count as repeats.
"""

from __future__ import annotations

import logging
import math
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import trio

from steinadler.entity import answers
from steinadler.entity.active import Entity, Work
from steinadler.entity.agenda import Agenda
from steinadler.entity.answers import Answer
from steinadler.entity.behaviour import Kind, Timer, Turn
from steinadler.entity.host import Host
from steinadler.entity.store import DeleteReminder, Due, Reminder, SetReminder
from steinadler.entity.turns import State
from steinadler.errors import EntityError, StoreUnavailable
from steinadler.identity import EntityKey

logger = logging.getLogger("steinadler.entity")

# What is due within so many polls is kept in memory; and so much of each type at most.
LOOK_AHEAD_POLLS = 2
MAX_TAKEN = 10_000
# What one poll reads of each type, and how much of it at a time.
PAGES_PER_POLL = 10
PAGE = 1000
# The pauses of an entity that cannot be activated: in polls, and in seconds.
FIRST_REST_POLLS = 2
LONGEST_REST_S = 60.0
MAX_RESTING = 100_000


def after(due_at: float, period_s: float, repeats: int | None, now: float) -> tuple[float, int]:
    """The first occurrence after `now`, and how many repeats were used up to get there."""
    steps = max(1, math.floor((now - due_at) / period_s) + 1)
    if repeats is not None:
        steps = min(steps, repeats + 1)  # one more than there are: it is over
    return due_at + steps * period_s, steps


def advanced(reminder: Reminder, now: float) -> Reminder | None:
    """What is left of a reminder once its occurrence was taken at `now`; None when nothing is."""
    if reminder.period_s is None:
        return None
    due_at, steps = after(reminder.due_at, reminder.period_s, reminder.repeats, now)
    repeats = None if reminder.repeats is None else reminder.repeats - steps
    if repeats is not None and repeats < 0:
        return None
    if reminder.expires_at is not None and due_at >= reminder.expires_at:
        return None
    return replace(reminder, due_at=due_at, repeats=repeats)


class RunningTimer:
    """A timer of an activation.  It is stopped by taking it out of the entity's table."""

    __slots__ = ("argument", "due_at", "ends_at", "entity", "epoch", "repeats", "timer")

    def __init__(self, entity: Entity, timer: Timer, argument: bytes, now: float) -> None:
        self.entity = entity
        self.timer = timer
        self.argument = argument
        self.epoch = entity.epoch
        self.due_at = now + timer.due_s
        self.repeats = timer.repeats
        self.ends_at = math.inf if timer.ttl_s is None else now + timer.ttl_s

    @property
    def stands(self) -> bool:
        """Whether it was not stopped or replaced, and its activation goes on."""
        entity = self.entity
        timers = entity.timers
        return (
            timers is not None
            and timers.get(self.timer.name) is self
            and entity.epoch == self.epoch
            and entity.turns.state in (State.ACTIVATING, State.IDLE, State.RUNNING)
        )


class _TimerTurn(Work):
    """A turn that a timer asks for; when it has been run, `done` is called."""

    __slots__ = ("_done", "_running")

    def __init__(self, running: RunningTimer, done: Callable[[RunningTimer], None]) -> None:
        super().__init__(Kind.TIMER, running.timer.method, running.argument)
        self._running = running
        self._done = done

    async def run(self, entity: Entity) -> Any:
        # It may have been stopped while this waited.
        return await super().run(entity) if self._running.stands else None

    def answer(self, answer: Answer) -> None:
        _log_failure(f"timer {self._running.timer.name!r}", self._running.entity.key, answer)
        self._done(self._running)


class _ReminderTurn(Work):
    """A turn that a reminder asks for, and the taking of the occurrence before it."""

    __slots__ = ("_done", "_key", "_looked", "_reminder")

    def __init__(
        self, key: EntityKey, reminder: Reminder, done: Callable[[EntityKey, Reminder, bool], None]
    ) -> None:
        super().__init__(Kind.REMINDER, reminder.name, reminder.data)
        self._key = key
        self._reminder = reminder
        self._done = done
        self._looked = False

    async def run(self, entity: Entity) -> Any:
        is_due = await entity.exclusively(lambda: self._take(entity))
        self._looked = True
        if is_due:
            turn = Turn(Kind.REMINDER, self.method, self.argument, math.inf)
            await entity.behaviour.run(entity, turn)

    async def _take(self, entity: Entity) -> bool:
        """Take the occurrence; False when the reminder was changed, or its time is over."""
        reminder = self._reminder
        if await entity.get_reminder(reminder.name) != reminder:
            return False
        now = entity.now()
        rest = advanced(reminder, now)
        change = DeleteReminder(reminder.name) if rest is None else SetReminder(rest)
        await entity.commit([change])
        if rest is not None:
            entity.host.on_reminder(entity.key, rest)
        return reminder.expires_at is None or now < reminder.expires_at

    def answer(self, answer: Answer) -> None:
        _log_failure(f"reminder {self._reminder.name!r}", self._key, answer)
        stuck = not self._looked and answers.error_in(answer) is not None
        self._done(self._key, self._reminder, stuck)


def _log_failure(what: str, key: EntityKey, answer: Answer) -> None:
    error = answers.error_in(answer)
    if error is not None:
        logger.warning("the %s of %s: its turn failed: %s", what, key, error)


@dataclass(frozen=True, slots=True)
class _Rest:
    """How long an entity is left alone by its reminders."""

    until: float  # by Trio's clock
    pause_s: float


class Schedule:
    """Submits turns to a host when they are due."""

    def __init__(self, host: Host, poll_s: float) -> None:
        self._host = host
        self._poll_s = poll_s
        # By Trio's time.
        self._agenda: Agenda[RunningTimer | Due] = Agenda(self._stands)
        # By type, the reminders in the agenda, or whose turn waits or runs: the store tells of them
        # again.
        self._taken: defaultdict[str, dict[tuple[EntityKey, str], Reminder]] = defaultdict(dict)
        # By type, where the next poll goes on.
        self._read: dict[str, Due] = {}
        self._resting: dict[EntityKey, _Rest] = {}
        self._sooner = trio.Event()
        host.on_timer = self._timer_started
        host.on_reminder = self._reminder_set

    async def run(self) -> None:
        """Run what is due, until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._poll)
            while True:
                self._sooner = trio.Event()
                with trio.move_on_at(self._agenda.next_at):
                    await self._sooner.wait()
                now = trio.current_time()
                while (due := self._agenda.take(now)) is not None:
                    if isinstance(due, RunningTimer):
                        self._fire_timer(due)
                    else:
                        self._fire_reminder(*due)

    def _push(self, at: float, due: RunningTimer | Due) -> None:
        self._agenda.add(at, due)
        if self._agenda.next_at == at:
            self._sooner.set()

    def _stands(self, due: RunningTimer | Due) -> bool:
        if isinstance(due, RunningTimer):
            return due.stands
        key, reminder = due
        return self._is_taken(key, reminder)  # else it was set anew

    def _is_taken(self, key: EntityKey, reminder: Reminder) -> bool:
        return self._taken[key.type].get((key, reminder.name)) == reminder

    # -- timers -------------------------------------------------------------------------------

    def _timer_started(self, entity: Entity, timer: Timer) -> None:
        argument = self._host.codec.encode(timer.argument)
        running = RunningTimer(entity, timer, argument, trio.current_time())
        if entity.timers is None:
            entity.timers = {}
        entity.timers[timer.name] = running
        self._push(running.due_at, running)

    def _fire_timer(self, running: RunningTimer) -> None:
        if running.due_at >= running.ends_at:
            self._end_timer(running)
        else:
            self._host.submit(running.entity.key, _TimerTurn(running, self._timer_ran))

    def _timer_ran(self, running: RunningTimer) -> None:
        """Its next turn is due only once this one has ended: a slow one must not pile up."""
        if not running.stands:
            return
        timer = running.timer
        if timer.period_s is None:
            self._end_timer(running)
            return
        now = trio.current_time()
        # A period of nothing means as soon as this has ended.
        period_s = max(timer.period_s, 1e-3)
        running.due_at, steps = after(running.due_at, period_s, running.repeats, now)
        if running.repeats is not None:
            running.repeats -= steps
        if (running.repeats is not None and running.repeats < 0) or (
            running.due_at >= running.ends_at
        ):
            self._end_timer(running)
        else:
            self._push(running.due_at, running)

    def _end_timer(self, running: RunningTimer) -> None:
        running.entity.stop_timer(running.timer.name)

    # -- reminders ----------------------------------------------------------------------------

    async def _poll(self) -> None:
        while True:
            try:
                for type_ in self._host.types():
                    await self._read_due(type_)
            except StoreUnavailable as error:
                logger.debug("the store cannot be asked for reminders: %s", error)
            except EntityError as error:
                logger.warning("the store cannot be asked for reminders: %s", error)
            await trio.sleep(self._poll_s)

    async def _read_due(self, type_: str) -> None:
        store = await self._host.keeper.ready()
        horizon = self._host.clock() + LOOK_AHEAD_POLLS * self._poll_s
        last = self._read.pop(type_, None)
        for _ in range(PAGES_PER_POLL):
            if len(self._taken[type_]) >= MAX_TAKEN:
                return  # from the earliest again, once there is room
            page = await store.due(type_, horizon, PAGE, last)
            now = trio.current_time()
            for key, reminder in page:
                rest = self._resting.get(key)
                if rest is None or rest.until <= now:
                    self._take(key, reminder)
            if len(page) < PAGE:
                return
            last = page[-1]
        assert last is not None
        self._read[type_] = last

    def _reminder_set(self, key: EntityKey, reminder: Reminder) -> None:
        """There is this reminder, and its entity is active."""
        self._resting.pop(key, None)
        self._take(key, reminder)

    def _take(self, key: EntityKey, reminder: Reminder) -> None:
        """Run this reminder when it is due; the poll finds it again, if that is not soon."""
        wait_s = reminder.due_at - self._host.clock()
        if wait_s > LOOK_AHEAD_POLLS * self._poll_s or self._is_taken(key, reminder):
            return
        taken, name = self._taken[key.type], (key, reminder.name)
        if self._host.owns(key) and (len(taken) < MAX_TAKEN or name in taken):
            taken[name] = reminder
            self._push(trio.current_time() + max(wait_s, 0.0), (key, reminder))

    def _fire_reminder(self, key: EntityKey, reminder: Reminder) -> None:
        if self._host.owns(key) and key.type in self._host.types():
            self._host.submit(key, _ReminderTurn(key, reminder, self._reminder_ran))
        else:
            self._reminder_ran(key, reminder, stuck=False)

    def _reminder_ran(self, key: EntityKey, reminder: Reminder, stuck: bool) -> None:
        if self._is_taken(key, reminder):
            del self._taken[key.type][key, reminder.name]
        now, rest = trio.current_time(), self._resting.get(key)
        if not stuck:
            self._resting.pop(key, None)
            return
        if rest is not None and rest.until > now:
            return  # another one of it was as stuck
        pause_s = FIRST_REST_POLLS * self._poll_s if rest is None else 2 * rest.pause_s
        pause_s = min(pause_s, LONGEST_REST_S)
        self._resting[key] = _Rest(now + pause_s, pause_s)
        if len(self._resting) > MAX_RESTING:
            del self._resting[next(iter(self._resting))]
