"""What is done for the entities of a node: `turns` decides, this does, and reports back.

    Turns -> Action -> workers: activate, run, deactivate -> Input -> Turns -> ...

One worker attends to an entity at a time, so its turns follow each other (E1); only turns that are
nested in another, and work that needs no turn, run beside.  What takes too long is cut by a sweep
over the workers and not by a deadline for each turn, which would cost every turn a scope.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable
from dataclasses import dataclass

import trio

from steinadler.config import EntitySettings
from steinadler.entity import answers
from steinadler.entity.active import Entity, Work
from steinadler.entity.answers import Answer, Status
from steinadler.entity.ownership import Ownership
from steinadler.entity.reentrancy import open_chain
from steinadler.entity.sweeping import IdleEntities, limit_of
from steinadler.entity.turns import Action, Input, State
from steinadler.entity.workers import Workers
from steinadler.errors import (
    EntityError,
    EntityHostFailed,
    EntityTimedOut,
    EntityUnavailable,
    StaleEpoch,
)
from steinadler.identity import EntityKey
from steinadler.wire.codec import Codec

logger = logging.getLogger("steinadler.entity")

# Beyond it, entities that are to leave or to be passivated wait: each holds a task meanwhile.
MAX_DEACTIVATING = 256
_LATE = answers.of_error(EntityUnavailable("its turn had not come in time; nothing ran"))
_TO_DO = (Action.ACTIVATE, Action.RUN, Action.DEACTIVATE, Action.DISCARD)
_RUN = Action.RUN


@dataclass(slots=True)
class Counters:
    """What was done since the node opened."""

    turns: int = 0
    activations: int = 0
    passivations: int = 0
    moved: int = 0  # entities that another node has, or was to have
    lost: int = 0  # entities thrown away: a stale epoch, or a write with an unknown outcome


class Attendant:
    """Attends to the entities of one host.

    `owner` tells to whom those are sent on who wait for an entity that goes; `gone` is told when
    one is not here any more.
    """

    def __init__(
        self,
        codec: Codec,
        settings: EntitySettings,
        ownership: Ownership,
        owner: Callable[[EntityKey], str | None],
        gone: Callable[[Entity], None],
    ) -> None:
        self.counters = Counters()
        self.workers: Workers[Entity] = Workers(self._attend)
        self._codec = codec
        self._settings = settings
        self._ownership = ownership
        self._owner = owner
        self._gone = gone
        self._sweep_s = min(1.0, settings.turn_timeout_s / 4, settings.drain_s / 4)
        self._idle = IdleEntities(self._sweep_s)
        self._deactivating = 0
        self._went = trio.lowlevel.ParkingLot()

    def open(self, nursery: trio.Nursery) -> None:
        """Work in this nursery from now on."""
        self.workers.open(nursery)
        self.workers.now = trio.current_time()
        nursery.start_soon(self._sweep)

    async def something_went(self) -> None:
        """Wait until an activation has ended."""
        await self._went.park()

    async def room_to_deactivate(self) -> None:
        """Wait until not too many are being deactivated."""
        while self._deactivating >= MAX_DEACTIVATING:
            await self._went.park()

    # -- what turns decide --------------------------------------------------------------------

    def carry_out(self, entity: Entity, action: Action) -> None:
        """Something happened from outside, which interrupts nothing."""
        if action is Action.SEND_ON:
            self._answer_all(entity, answers.moved(self._owner(entity.key)))
        elif action is not Action.NOTHING:
            self._count(action)
            entity.todo = action
            self.workers.push(entity)

    async def _attend(self, entity: Entity) -> bool:
        todo = entity.todo
        ended = _RESULTS[todo]
        try:
            if todo is _RUN:
                await self._run(entity)
            elif todo is Action.ACTIVATE:
                ended = await self._activate(entity)
            else:
                await self._deactivate(entity, release=todo is Action.DEACTIVATE)
        except BaseException:  # cut short
            if self._end(entity, todo, ended):
                self.workers.push(entity)
            raise
        return self._end(entity, todo, ended)

    def _end(self, entity: Entity, todo: Action, event: Input) -> bool:
        more = self._follow(entity, event)
        if todo is not _RUN and entity.asked is not None:
            asked, entity.asked = entity.asked, None
            for epoch, done in asked:
                entity.host.release(entity.key, epoch, done)
        return more

    def _follow(self, entity: Entity, event: Input) -> bool:
        """Something was done; return whether there is more to do, at once."""
        action = entity.turns.handle(event)
        entity.todo = action
        if action is _RUN:
            return True
        if entity.turns.state is State.IDLE:
            entity.used_at = self.workers.now
            return False
        if event is Input.DEACTIVATED:
            self._deactivating -= 1
            self._went.unpark_all()
        if action in _TO_DO:
            self._count(action)
            return True
        if action is Action.FAIL:
            self._answer_all(entity, entity.failure or answers.of_error(EntityHostFailed()))
        if entity.turns.state is State.DORMANT:
            self._gone(entity)
            self._went.unpark_all()
        return False

    def _count(self, action: Action) -> None:
        if action is Action.DEACTIVATE or action is Action.DISCARD:
            self._deactivating += 1

    def _answer_all(self, entity: Entity, answer: Answer) -> None:
        for work in entity.turns.take_all():
            work.answer(answer)

    # -- turns --------------------------------------------------------------------------------

    async def _run(self, entity: Entity) -> None:
        work, late = entity.turns.next(trio.current_time())
        for each in late:
            each.answer(_LATE)
        if work is None:
            return
        if entity.behaviour.max_depth is None:
            await self.run_turn(entity, work)
        else:
            await self._run_chain(entity, work, entity.behaviour.max_depth)

    async def _run_chain(self, entity: Entity, work: Work, max_depth: int) -> None:
        """Run a turn, and those that are nested in it."""
        name = work.chain(entity) or uuid.uuid4().hex
        try:
            async with open_chain(name, max_depth) as entity.reentry:
                await self.run_turn(entity, work)
        finally:
            entity.reentry = None

    async def run_turn(self, entity: Entity, work: Work) -> None:
        """Run a turn of an entity, and answer who asked for it."""
        self.counters.turns += 1
        try:
            answer = answers.of_value(await work.run(entity), self._codec)
        except Exception as error:
            if isinstance(error, StaleEpoch):
                entity.host.lose(entity, error)
            answer = answers.of_error(error)
        except BaseException:
            text = f"a turn of {entity.key} took too long, and was cut"
            entity.host.lose(entity, EntityTimedOut(text))
            assert entity.failure is not None
            work.answer(entity.failure)
            raise
        if entity.failure is not None and answer[0] is Status.ANSWERED:
            answer = entity.failure
        work.answer(answer)

    async def run_beside(self, entity: Entity, work: Work) -> None:
        """Do work for an active entity without waiting for its turn."""
        try:
            answer = answers.of_value(await work.run(entity), self._codec)
        except Exception as error:
            answer = answers.of_error(error)
        work.answer(answer)

    # -- before the first and after the last ---------------------------------------------------

    async def _activate(self, entity: Entity) -> Input:
        entity.failure = None
        entity.going_since = 0.0
        try:
            await self._ownership.take(entity)
            await entity.behaviour.activate(entity)
        except Exception as error:
            if not isinstance(error, EntityError):
                logger.error("%s cannot be activated: %s", entity.key, error, exc_info=error)
            await self._ownership.release(entity)
            entity.failure = entity.failure or answers.of_error(error)
        except BaseException:
            text = f"{entity.key} was not active in time; nothing ran"
            entity.failure = answers.of_error(EntityUnavailable(text))
            raise
        if entity.failure is not None:
            return Input.ACTIVATION_FAILED
        self.counters.activations += 1
        self._idle.add(entity, self.workers.now)
        return Input.ACTIVATED

    async def _deactivate(self, entity: Entity, *, release: bool) -> None:
        entity.timers = None
        if entity.turns.state is State.LEAVING:
            self.counters.moved += 1
        try:
            await entity.behaviour.deactivate(entity)
        except Exception as error:
            trace = None if isinstance(error, EntityError) else error
            logger.error("the deactivation of %s failed: %s", entity.key, error, exc_info=trace)
        if release:
            await self._ownership.release(entity)
        entity.epoch = 0

    # -- time ---------------------------------------------------------------------------------

    async def _sweep(self) -> None:
        while True:
            await trio.sleep(self._sweep_s)
            now = self.workers.now = trio.current_time()
            for worker in self.workers.busy():
                assert worker.item is not None
                # `since` may be older than the work by as much as the clock it was read from.
                if now > limit_of(worker.item, worker.since + self._sweep_s, self._settings):
                    worker.scope.cancel()
            for entity in self._idle.due(now, MAX_DEACTIVATING - self._deactivating):
                self.counters.passivations += 1
                self.carry_out(entity, entity.turns.handle(Input.IDLE_TIMEOUT))


# Of each thing that is to be done, when it was cut short; or done, unless it says otherwise.
_RESULTS = {
    Action.NOTHING: Input.LEAVE,
    Action.ACTIVATE: Input.ACTIVATION_FAILED,
    Action.RUN: Input.TURN_ENDED,
    Action.DEACTIVATE: Input.DEACTIVATED,
    Action.DISCARD: Input.DEACTIVATED,
}
