"""An entity's epoch: taken before its first turn, shown with every write, given back at the end.

**Taking** asks the store who has the entity.  A living node that does is asked to let go of it
first, so that its turn can finish; then the epoch after the one that was seen is taken, which makes
every earlier one stale.  So whether that node answers decides how gently the entity moves, never
whether its state is whole (E1).  When somebody took that epoch meanwhile, we look again: to take
one more in any case would end the rightful owner's turn with `StaleEpoch` whenever a former owner's
activation is slow to arrive.

**What is held here may be wrong** once a write was refused or its outcome is not known.  Then the
entity is lost: the turn is not acknowledged, whatever it returned, and the next call reads the
store, under a new epoch that also keeps a late write out.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

from steinadler.entity.active import Entity
from steinadler.entity.keeper import StoreKeeper
from steinadler.entity.store import Commit, Held
from steinadler.entity.turns import State
from steinadler.errors import (
    ConfigError,
    EntityError,
    EntityUnavailable,
    StaleEpoch,
    StateTooLarge,
    StoreUnavailable,
)
from steinadler.identity import EntityKey, NodeId

logger = logging.getLogger("steinadler.entity")

_NOBODY = Held(0, None)


class Ownership:
    """What one node asks of the store for its entities.

    `make_way` has the node that holds an entity let go of it; `lose` throws one away.
    """

    def __init__(
        self,
        node: NodeId,
        keeper: StoreKeeper,
        clock: Callable[[], float],
        make_way: Callable[[EntityKey, Held], Awaitable[None]],
        lose: Callable[[Entity, EntityError], None],
    ) -> None:
        self._owner = (node.name, node.incarnation)
        self._keeper = keeper
        self._clock = clock
        self._make_way = make_way
        self._lose = lose

    async def take(self, entity: Entity) -> None:
        """Take an entity over.  Raises what the store raises, and `EntityUnavailable` when it is
        not wanted here any more."""
        store = await self._keeper.ready()
        key = entity.key
        while True:
            held = await store.look_up(key) or _NOBODY
            if held.owner is not None:
                await self._make_way(key, held)
            if entity.turns.state is State.UNWANTED:
                # Whoever waited was sent on: a new epoch here would end that of the owner.
                raise EntityUnavailable(f"{key} is another node's by now; nothing ran")
            try:
                taken = await store.activate(key, self._owner, self._clock(), held.epoch)
            except StaleEpoch:
                continue  # each time, somebody else got on with it
            entity.begin(taken)
            return

    async def release(self, entity: Entity) -> None:
        """Whoever has the entity next need not ask us.  That it can be done without, it must."""
        if entity.epoch and entity.failure is None:
            try:
                store = await self._keeper.ready()
                await store.release(entity.key, entity.epoch)
            except EntityError as error:
                logger.warning("%s was not released in the store: %s", entity.key, error)

    async def commit(self, entity: Entity, commit: Commit) -> None:
        """See `Store.commit`.  Unless it is known to stand, the entity is lost."""
        if not commit.epoch:
            raise StaleEpoch(f"{entity.key} is not active here")
        store = await self._keeper.ready()
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
            self._lose(entity, error)
