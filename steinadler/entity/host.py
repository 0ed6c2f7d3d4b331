"""The entities that are on this node: a table of them, and what comes to them from outside.

    submit(key, work) -> Turns.arrive -> `attendant`: activate, run, deactivate

An idle entity is an object in the table and nothing else: no task, no event, no timer.

**Work for an entity that is neither here nor ours is sent on**, whoever brings it: the view that
counts is this node's own, at the moment when the work arrives.  That the caller believed otherwise
must not start an activation that the members do not want.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial

import trio

from steinadler.config import EntitySettings
from steinadler.entity import answers
from steinadler.entity.active import Entity, Work
from steinadler.entity.attendant import Attendant
from steinadler.entity.behaviour import Behaviour, Timer
from steinadler.entity.keeper import StoreKeeper
from steinadler.entity.ownership import Ownership
from steinadler.entity.store import Commit, Held, Reminder
from steinadler.entity.turns import Action, Input, State
from steinadler.errors import EntityError, EntityUnavailable
from steinadler.identity import EntityKey, NodeId
from steinadler.wire.codec import Codec

# A turn that waits for another within it must get its answer, wherever the entity is to go.
_IN_TURN = (State.RUNNING, State.LAST_TURN)


@dataclass(frozen=True, slots=True)
class EntityStatistics:
    """What a node's entities do now, and did since it opened.

    `waiting` calls are in the queues of `active` entities, and `running` of these are being
    activated, run or deactivated.  `turns` were begun.  `activations` succeeded; entities went by
    `passivations` (nobody called), `moved` (another owner, or a drain) and `lost` (stale epochs,
    and writes with an unknown outcome).  `retried` counts the calls of this node's programs that
    were sent on, each time.
    """

    active: int = 0
    running: int = 0
    waiting: int = 0
    turns: int = 0
    activations: int = 0
    passivations: int = 0
    moved: int = 0
    lost: int = 0
    retried: int = 0


class Host:
    """The entities that are on one node.

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
        # Who runs timers, and wants to hear of reminders; `Schedule` puts itself here.
        self.on_timer: Callable[[Entity, Timer], None] = _nobody
        self.on_reminder: Callable[[EntityKey, Reminder], None] = _nobody
        self._settings = settings
        self._owner = owner
        self._behaviours: dict[str, Behaviour] = {}
        self._entities: dict[EntityKey, Entity] = {}
        self._counts: Counter[str] = Counter()
        self._ownership = Ownership(node, keeper, clock, make_way, self.lose)
        self._attendant = Attendant(codec, settings, self._ownership, owner, self._remove)
        self._nursery: trio.Nursery | None = None

    # -- what is here -------------------------------------------------------------------------

    def find(self, key: EntityKey) -> Entity | None:
        """The entity, when it is here in whatever state."""
        return self._entities.get(key)

    def owns(self, key: EntityKey) -> bool:
        """Whether this node is the owner of an entity, as far as it knows."""
        return self._owner(key) == self.node.name

    def count(self, type_: str) -> int:
        """How many of a type are here."""
        return self._counts[type_]

    def types(self) -> tuple[str, ...]:
        """The types that are hosted, sorted."""
        return tuple(sorted(self._behaviours))

    def statistics(self, retried: int) -> EntityStatistics:
        """Figures; takes a step for each entity."""
        counters = self._attendant.counters
        return EntityStatistics(
            active=len(self._entities),
            running=len(self._attendant.workers.busy()),
            waiting=sum(len(entity.turns) for entity in self._entities.values()),
            turns=counters.turns,
            activations=counters.activations,
            passivations=counters.passivations,
            moved=counters.moved,
            lost=counters.lost,
            retried=retried,
        )

    # -- work ---------------------------------------------------------------------------------

    def submit(self, key: EntityKey, work: Work) -> None:
        """Let work have its turn of an entity, which is activated if need be.

        It is answered, sooner or later, and exactly once unless it is withdrawn.
        """
        entity = self._entities.get(key) or self._place_for(key, work)
        if entity is None:
            return
        if entity.reentry is not None and entity.turns.state in _IN_TURN:
            run = partial(self._attendant.run_turn, entity, work)
            if entity.reentry.let_in(work.chain(entity), run):
                return
        settings = self._settings
        action = entity.turns.arrive(work, settings.max_waiting_calls, settings.max_waiting_bytes)
        if action is Action.RUN or action is Action.ACTIVATE:
            entity.todo = action
            self._attendant.workers.push(entity)
        elif action is Action.SEND_ON:
            work.answer(answers.moved(self._owner(key)))
        elif action is Action.REFUSE:
            text = f"{len(entity.turns)} calls wait for {key} already; nothing ran"
            work.answer(answers.of_error(EntityUnavailable(text)))

    def _place_for(self, key: EntityKey, work: Work) -> Entity | None:
        """Make an entity that is not here; or answer the work, when it must not be."""
        behaviour = self._behaviours.get(key.type)
        if behaviour is None or not self.owns(key):
            work.answer(answers.moved(self._owner(key)))
            return None
        if len(self._entities) >= self._settings.max_active:
            text = f"{self.node} has {len(self._entities)} active entities (max_active)"
            work.answer(answers.of_error(EntityUnavailable(text)))
            return None
        entity = self._entities[key] = Entity(key, behaviour, self)
        self._counts[key.type] += 1
        return entity

    def submit_beside(self, key: EntityKey, work: Work) -> None:
        """Do work that need not wait for a turn, when the entity is active; else it has one."""
        entity = self._entities.get(key)
        if entity is None or not entity.epoch or self._nursery is None:
            self.submit(key, work)
        else:
            self._nursery.start_soon(self._attendant.run_beside, entity, work)

    def withdraw(self, key: EntityKey, work: Work) -> None:
        """Nobody waits for this work any more: drop it if its turn has not begun."""
        entity = self._entities.get(key)
        if entity is not None:
            entity.turns.withdraw(work)

    # -- going --------------------------------------------------------------------------------

    def leave(self, entity: Entity) -> None:
        """The entity is not to be here: deactivate it when the turn that runs has ended."""
        self._begin_to_go(entity, Input.LEAVE)

    def lose(self, entity: Entity, error: EntityError) -> None:
        """What is held here of the entity cannot be relied on, because of `error`."""
        if entity.failure is None:
            entity.failure = answers.of_error(error)
            self._attendant.counters.lost += 1
        self._begin_to_go(entity, Input.LOSE)

    def _begin_to_go(self, entity: Entity, event: Input) -> None:
        if not entity.going_since:
            entity.going_since = trio.current_time()
        self._attendant.carry_out(entity, entity.turns.handle(event))

    def release(self, key: EntityKey, epoch: int, done: Callable[[], None]) -> None:
        """Another node wants the entity, which has that epoch by the store: let go of it, and call
        `done` when that is so.

        The epoch may be on its way from the store to us still.  Two nodes do not wait for each
        other in this: each waits for a later epoch than the one that it is asked for.
        """
        entity = self._entities.get(key)
        if entity is None or not entity.may_hold(epoch):
            done()
            return
        if entity.asked is None:
            entity.asked = []
        entity.asked.append((epoch, done))
        if entity.epoch:
            self.leave(entity)

    async def leave_to_others(self) -> None:
        """Let go of what others own by now.  Returns when all of it has begun to go."""
        going = []
        for number, entity in enumerate(list(self._entities.values())):
            if entity.key.type in self._behaviours and not self.owns(entity.key):
                going.append(entity)
            if number % 64 == 63:
                await trio.lowlevel.checkpoint()
        await self._leave_all(going)

    async def _leave_all(self, entities: list[Entity]) -> None:
        """A few at a time.  Returns when all have begun to."""
        for number, entity in enumerate(entities):
            await self._attendant.room_to_deactivate()
            self.leave(entity)
            if number % 64 == 63:
                await trio.lowlevel.checkpoint()

    async def drain(self, types: tuple[str, ...]) -> None:
        """Host these types no longer, and return when none of their entities is here.

        Turns that run may finish, within `drain_s`.
        """
        for type_ in types:
            self._behaviours.pop(type_, None)
        await self._leave_all([e for e in self._entities.values() if e.key.type in types])
        while any(self._counts[type_] for type_ in types):
            await self._attendant.something_went()

    def _remove(self, entity: Entity) -> None:
        del self._entities[entity.key]
        self._counts[entity.key.type] -= 1
        entity.forget()

    # -- what else its users ask ---------------------------------------------------------------

    def open(self, nursery: trio.Nursery) -> None:
        """Run turns in this nursery from now on."""
        self._nursery = nursery
        self._attendant.open(nursery)

    def add(self, type_: str, behaviour: Behaviour) -> None:
        """Host a type from now on."""
        self._behaviours[type_] = behaviour

    async def commit(self, entity: Entity, commit: Commit) -> None:
        """For an entity: see `Ownership.commit`."""
        await self._ownership.commit(entity, commit)


def _nobody(*_: object) -> None:
    """There is no schedule."""
