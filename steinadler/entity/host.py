"""The entities that are active on this node, and what is done for each: `turns` decides, this does.

    submit(key, work) -> Turns.arrive -> workers: activate, run, deactivate -> Turns.handle -> ...

An idle entity is an object in a table and nothing else: no task, no event, no timer.  Passivation
is one entry for each in a heap, looked at when it may be due and put back when there were turns in
between; so a turn pays nothing for it.

**Activation** asks the store who has the entity.  A living node that does is asked to let go of it
first, so that its turn can finish; then the next epoch is taken, which makes every earlier one
stale.  So whether that node answers decides how gently the entity moves, never whether its state
is whole (E1).

**What is held here may be wrong** once a write was refused or its outcome is not known.  Then the
turn is not acknowledged, whatever it returned, and the entity is thrown away: the next call reads
the store, under a new epoch that also keeps a late write out.
"""

from __future__ import annotations

import heapq
import itertools
import logging
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import trio

from steinadler.config import EntitySettings
from steinadler.entity import answers
from steinadler.entity.active import Entity, Work
from steinadler.entity.answers import Answer
from steinadler.entity.behaviour import Behaviour, Timer
from steinadler.entity.keeper import StoreKeeper
from steinadler.entity.store import Commit, Held, Reminder
from steinadler.entity.turns import Action, Input, State
from steinadler.entity.workers import Worker, Workers
from steinadler.errors import (
    ConfigError,
    EntityError,
    EntityHostFailed,
    EntityTimedOut,
    EntityUnavailable,
    StaleEpoch,
    StateTooLarge,
    StoreUnavailable,
)
from steinadler.identity import EntityKey, NodeId
from steinadler.wire.codec import Codec

logger = logging.getLogger("steinadler.entity")

# Beyond it, entities that are to leave or to be passivated wait: each holds a task meanwhile.
MAX_DEACTIVATING = 256
_LATE = answers.of_error(EntityUnavailable("its turn had not come in time; nothing ran"))
_TO_DO = (Action.ACTIVATE, Action.RUN, Action.DEACTIVATE, Action.DISCARD)
_RUN = Action.RUN
# A turn that waits for another within it must get its answer, wherever the entity is to go.
_IN_TURN = (State.RUNNING, State.LAST_TURN)


@dataclass(slots=True)
class HostCounters:
    """What was done since the node opened."""

    turns: int = 0
    activations: int = 0
    passivations: int = 0
    moved: int = 0  # entities that another node has, or was to have
    lost: int = 0  # entities thrown away: a stale epoch, or a write with an unknown outcome


class Host:
    """The active entities of one node.

    `owner` tells who is believed to own an entity; `make_way` asks the node that has one, as the
    store says, to let go of it, and returns when it has or when there is no use in waiting.
    """

    def __init__(
        self,
        node: NodeId,
        codec: Codec,
        settings: EntitySettings,
        keeper: StoreKeeper,
        clock: Callable[[], float],
        owner: Callable[[EntityKey], str | None],
        make_way: Callable[[EntityKey, Held], Awaitable[None]],
    ) -> None:
        self.node = node
        self.codec = codec
        self.clock = clock
        self.keeper = keeper
        self.counters = HostCounters()
        # Who runs timers, and wants to hear of reminders; `Schedule` puts itself here.
        self.on_timer: Callable[[Entity, Timer], None] = _nobody
        self.on_reminder: Callable[[EntityKey, Reminder], None] = _nobody
        self._settings = settings
        self._owner = owner
        self._make_way = make_way
        self._behaviours: dict[str, Behaviour] = {}
        self._entities: dict[EntityKey, Entity] = {}
        self._counts: Counter[str] = Counter()
        self._workers: Workers[Entity] = Workers(self._attend)
        self._sweep_s = min(1.0, settings.turn_timeout_s / 4, settings.drain_s / 4)
        # (when it may have been idle for long enough, a number to tell equals apart, the entity)
        self._idle: list[tuple[float, int, Entity]] = []
        self._numbers = itertools.count()
        self._nursery: trio.Nursery | None = None
        self._deactivating = 0
        self._gone = trio.lowlevel.ParkingLot()

    # -- what is here -------------------------------------------------------------------------

    def find(self, key: EntityKey) -> Entity | None:
        """The entity, when it is here in whatever state."""
        return self._entities.get(key)

    def entities(self) -> list[Entity]:
        """All that are here."""
        return list(self._entities.values())

    def count(self, type_: str) -> int:
        """How many of a type are here."""
        return self._counts[type_]

    def types(self) -> tuple[str, ...]:
        """The types that are hosted, sorted."""
        return tuple(sorted(self._behaviours))

    def waiting(self) -> int:
        """How many calls wait for their turn."""
        return sum(len(entity.turns) for entity in self._entities.values())

    def running(self) -> int:
        """How many entities are being attended to."""
        return len(self._workers.busy())

    # -- what comes from outside --------------------------------------------------------------

    def add(self, type_: str, behaviour: Behaviour) -> None:
        """Host a type from now on."""
        self._behaviours[type_] = behaviour

    def submit(self, key: EntityKey, work: Work) -> None:
        """Let work have its turn of an entity, which is activated if need be.

        It is answered, sooner or later, and exactly once unless it is withdrawn.
        """
        entity = self._entities.get(key)
        if entity is None:
            behaviour = self._behaviours.get(key.type)
            if behaviour is None:
                work.answer(answers.moved(self._owner(key)))
                return
            if len(self._entities) >= self._settings.max_active:
                text = f"{self.node} has {len(self._entities)} active entities (max_active)"
                work.answer(answers.of_error(EntityUnavailable(text)))
                return
            entity = self._entities[key] = Entity(key, behaviour, self)
            self._counts[key.type] += 1
        if entity.behaviour.reentrant and entity.turns.state in _IN_TURN:
            assert self._nursery is not None
            if entity.behaviour.reenters(entity, work.turn(entity)):
                self._nursery.start_soon(self._run_within, entity, work)
                return
        settings = self._settings
        action = entity.turns.arrive(work, settings.max_waiting_calls, settings.max_waiting_bytes)
        if action is Action.RUN or action is Action.ACTIVATE:
            entity.todo = action
            self._workers.push(entity)
        elif action is Action.SEND_ON:
            work.answer(answers.moved(self._owner(key)))
        elif action is Action.REFUSE:
            text = f"{len(entity.turns)} calls wait for {key} already; nothing ran"
            work.answer(answers.of_error(EntityUnavailable(text)))

    def withdraw(self, key: EntityKey, work: Work) -> None:
        """Nobody waits for this work any more: drop it if its turn has not begun."""
        entity = self._entities.get(key)
        if entity is not None:
            entity.turns.withdraw(work)

    def leave(self, entity: Entity) -> None:
        """The entity is not to be here: deactivate it when the turn that runs has ended."""
        self._begin_to_go(entity, Input.LEAVE)

    def lose(self, entity: Entity, error: EntityError) -> None:
        """What is held here of the entity cannot be relied on, because of `error`."""
        if entity.failure is None:
            entity.failure = error
            self.counters.lost += 1
        self._begin_to_go(entity, Input.LOSE)

    def _begin_to_go(self, entity: Entity, event: Input) -> None:
        if not entity.going_since:
            entity.going_since = trio.current_time()
        self._carry_out(entity, entity.turns.handle(event))

    async def let_go(self, key: EntityKey) -> None:
        """As `leave`, and return when this activation is over.

        One that has no epoch yet has nothing to let go of, and two nodes that activate the same
        entity must not wait for each other.
        """
        entity = self._entities.get(key)
        if entity is None or not entity.epoch:
            return
        epoch = entity.epoch
        self.leave(entity)
        while entity.epoch == epoch:
            await self._gone.park()

    async def leave_all(self, entities: list[Entity]) -> None:
        """As `leave`, for many, a few at a time.  Returns when all have begun to."""
        for number, entity in enumerate(entities):
            while self._deactivating >= MAX_DEACTIVATING:
                await self._gone.park()
            self.leave(entity)
            if number % 64 == 63:
                await trio.lowlevel.checkpoint()

    async def drain(self, types: tuple[str, ...]) -> None:
        """Host these types no longer, and return when none of their entities is here.

        Turns that run may finish, within `drain_s`.
        """
        for type_ in types:
            self._behaviours.pop(type_, None)
        await self.leave_all([e for e in self._entities.values() if e.key.type in types])
        while any(self._counts[type_] for type_ in types):
            await self._gone.park()

    # -- upkeep -------------------------------------------------------------------------------

    def open(self, nursery: trio.Nursery) -> None:
        """Run turns in this nursery from now on."""
        self._nursery = nursery
        self._workers.open(nursery)
        self._workers.now = trio.current_time()
        nursery.start_soon(self._sweep)

    async def _sweep(self) -> None:
        while True:
            await trio.sleep(self._sweep_s)
            now = self._workers.now = trio.current_time()
            for worker in self._workers.busy():
                if now > self._limit_of(worker):
                    worker.scope.cancel()
            self._passivate(now)

    def _limit_of(self, worker: Worker[Entity]) -> float:
        entity = worker.item
        assert entity is not None
        # `since` may be older than the work by as much as the clock that it was read from.
        since = worker.since + self._sweep_s
        match entity.turns.state:
            case State.UNWANTED | State.LAST_TURN | State.LOST_TURN:
                return entity.going_since + self._settings.drain_s
            case State.PASSIVATING | State.LEAVING:
                return since + self._settings.drain_s
            case _:
                return since + self._settings.turn_timeout_s

    def _passivate(self, now: float) -> None:
        while self._idle and self._idle[0][0] <= now and self._deactivating < MAX_DEACTIVATING:
            _, number, entity = heapq.heappop(self._idle)
            state = entity.turns.state
            if state is State.DORMANT:
                continue
            due = entity.used_at + entity.behaviour.idle_s
            if state is State.IDLE and due <= now:
                self.counters.passivations += 1
                self._carry_out(entity, entity.turns.handle(Input.IDLE_TIMEOUT))
            else:
                later = (max(due, now + self._sweep_s), number, entity)
                heapq.heappush(self._idle, later)

    # -- what is done for an entity -----------------------------------------------------------

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
            if self._follow(entity, ended):
                self._workers.push(entity)
            raise
        return self._follow(entity, ended)

    def _follow(self, entity: Entity, event: Input) -> bool:
        """Something was done; return whether there is more to do, at once."""
        action = entity.turns.handle(event)
        entity.todo = action
        if action is _RUN:
            return True
        if entity.turns.state is State.IDLE:
            entity.used_at = self._workers.now
            return False
        if event is Input.DEACTIVATED:
            self._deactivating -= 1
            self._gone.unpark_all()
        if action in _TO_DO:
            self._count(action)
            return True
        if action is Action.FAIL:
            self._answer_all(entity, answers.of_error(entity.failure or EntityHostFailed()))
        if entity.turns.state is State.DORMANT:
            self._remove(entity)
        return False

    def _carry_out(self, entity: Entity, action: Action) -> None:
        """Something happened from outside, which interrupts nothing."""
        if action is Action.SEND_ON:
            self._answer_all(entity, answers.moved(self._owner(entity.key)))
        elif action is not Action.NOTHING:
            self._count(action)
            entity.todo = action
            self._workers.push(entity)

    def _count(self, action: Action) -> None:
        if action is Action.DEACTIVATE or action is Action.DISCARD:
            self._deactivating += 1

    def _answer_all(self, entity: Entity, answer: Answer) -> None:
        for work in entity.turns.take_all():
            work.answer(answer)

    def _remove(self, entity: Entity) -> None:
        del self._entities[entity.key]
        self._counts[entity.key.type] -= 1
        entity.forget()
        self._gone.unpark_all()

    async def _run(self, entity: Entity) -> None:
        work, late = entity.turns.next(trio.current_time())
        for each in late:
            each.answer(_LATE)
        if work is not None:
            await self._run_turn(entity, work)

    async def _run_within(self, entity: Entity, work: Work) -> None:
        """Run a turn in the middle of another, which waits for it."""
        with trio.move_on_after(self._settings.turn_timeout_s):
            await self._run_turn(entity, work)

    async def _run_turn(self, entity: Entity, work: Work) -> None:
        self.counters.turns += 1
        try:
            answer = answers.of_value(await work.run(entity), self.codec)
        except Exception as error:
            if isinstance(error, StaleEpoch):
                self.lose(entity, error)
            answer = answers.of_error(error)
        except BaseException:
            self.lose(entity, EntityTimedOut(f"a turn of {entity.key} took too long, and was cut"))
            assert entity.failure is not None
            work.answer(answers.of_error(entity.failure))
            raise
        if entity.failure is not None and answer[0] == answers.ANSWERED:
            answer = answers.of_error(entity.failure)
        work.answer(answer)

    async def run_beside(self, entity: Entity, work: Work) -> None:
        """Do work for an active entity without waiting for its turn."""
        try:
            answer = answers.of_value(await work.run(entity), self.codec)
        except Exception as error:
            answer = answers.of_error(error)
        work.answer(answer)

    async def _activate(self, entity: Entity) -> Input:
        key = entity.key
        entity.failure = None
        entity.going_since = 0.0
        try:
            store = await self.keeper.ready()
            held = await store.look_up(key)
            if held is not None and held.owner is not None:
                await self._make_way(key, held)
            if entity.turns.state is State.UNWANTED:
                # Whoever waited was sent on: a new epoch here would end that of the owner.
                raise EntityUnavailable(f"{key} is another node's by now; nothing ran")
            owner = (self.node.name, self.node.incarnation)
            entity.begin(await store.activate(key, owner, self.clock()))
            await entity.behaviour.activate(entity)
            if entity.failure is not None:
                raise entity.failure
        except Exception as error:
            if not isinstance(error, EntityError):
                logger.error("%s cannot be activated: %s", key, error, exc_info=error)
            await self._release(entity)
            entity.failure = error
            return Input.ACTIVATION_FAILED
        except BaseException:
            entity.failure = EntityUnavailable(f"{key} was not active in time; nothing ran")
            raise
        self.counters.activations += 1
        now = self._workers.now
        entry = (now + entity.behaviour.idle_s, next(self._numbers), entity)
        heapq.heappush(self._idle, entry)
        return Input.ACTIVATED

    async def _deactivate(self, entity: Entity, *, release: bool) -> None:
        entity.timers = None
        if entity.turns.state is State.LEAVING:
            self.counters.moved += 1
        try:
            await entity.behaviour.deactivate(entity)
        except Exception as error:
            logger.error("the deactivation of %s failed: %s", entity.key, error, exc_info=error)
        if release:
            await self._release(entity)
        entity.epoch = 0

    async def _release(self, entity: Entity) -> None:
        """Whoever has the entity next need not ask us.  That it can be done without, it must."""
        if entity.epoch and entity.failure is None:
            try:
                store = await self.keeper.ready()
                await store.release(entity.key, entity.epoch)
            except EntityError as error:
                logger.warning("%s was not released in the store: %s", entity.key, error)

    # -- what entities ask --------------------------------------------------------------------

    async def commit(self, entity: Entity, commit: Commit) -> None:
        """See `Store.commit`.  Unless it is known to stand, the entity is lost."""
        if not commit.epoch:
            raise StaleEpoch(f"{entity.key} is not active here")
        store = await self.keeper.ready()
        try:
            await store.commit(commit)
        except (ConfigError, StateTooLarge):  # nothing was stored
            raise
        except StaleEpoch as error:
            self._lose_of(entity, commit, error)
            raise
        except BaseException as error:
            known = isinstance(error, EntityError)
            text = str(error) if known else f"a write of {entity.key} was cut short"
            self._lose_of(entity, commit, StoreUnavailable(text))
            raise

    def _lose_of(self, entity: Entity, commit: Commit, error: EntityError) -> None:
        if entity.epoch == commit.epoch:  # and not one of a later activation of the same object
            self.lose(entity, error)


def _nobody(*_: object) -> None:
    """There is no schedule."""


# Of each thing that is to be done, when it was cut short; or done, unless it says otherwise.
_RESULTS = {
    Action.NOTHING: Input.LEAVE,
    Action.ACTIVATE: Input.ACTIVATION_FAILED,
    Action.RUN: Input.TURN_ENDED,
    Action.DEACTIVATE: Input.DEACTIVATED,
    Action.DISCARD: Input.DEACTIVATED,
}
