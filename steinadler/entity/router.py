"""The router: an entity call finds the one node that runs it, or says why not.

    call -> who owns it, as far as we know -> here:  `host`, without a hop
                                           -> there: `peers`, who ask the process `$entities`
         <- the answer, an error, or "not here: ask that one" (nothing ran): `search` goes on

The owner is picked by hash among the members that host the type (`steinadler.delivery.placement`).
Two nodes may see different members for a moment, so whoever is asked looks by himself, and sends
the call on when he does not own the entity.  The caller's node then asks again, for as long as
`wait_for_host_s`.

**A node that stops hosting** first takes its label away, and waits until the others have heard it,
while its entities finish their turns; so calls that are on their way to it still find it there.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

import trio

from steinadler.config import EntitySettings
from steinadler.delivery.placement import LABEL, Placement, label_of
from steinadler.entity import answers
from steinadler.entity.active import Work
from steinadler.entity.answers import Answer, Status
from steinadler.entity.behaviour import Active, Behaviour, Kind
from steinadler.entity.host import EntityStatistics, Host
from steinadler.entity.keeper import StoreKeeper
from steinadler.entity.local import LocalReminderWork, LocalWork, wait_for
from steinadler.entity.peers import HEARD_PATIENCE_S, Cluster, Peers
from steinadler.entity.schedule import Schedule
from steinadler.entity.search import Search
from steinadler.entity.service import ReminderWork
from steinadler.entity.store import Reminder, Store
from steinadler.errors import (
    ConfigError,
    EntityTimedOut,
    EntityUnavailable,
    NodeClosed,
    NoSuchEntityType,
)
from steinadler.identity import EntityKey, check_entity_type
from steinadler.security.policy import Action
from steinadler.wire.codec import Codec

logger = logging.getLogger("steinadler.entity")

_NEVER = float("inf")


class Entities:
    """The entities of the cluster, as one node sees them: those it hosts, and the way to others.

    Made by the node, as `node.entities`.  `store` is None on a node that cannot host; with
    `owns_store` it is opened when the first type is hosted, and closed with the node.  `clock`
    tells the seconds since 1970.
    """

    def __init__(
        self,
        cluster: Cluster,
        codec: Codec,
        settings: EntitySettings,
        rng: random.Random,
        store: Store | None,
        *,
        owns_store: bool,
        clock: Callable[[], float],
    ) -> None:
        self._cluster = cluster
        self._name = cluster.id.name
        self._codec = codec
        self._settings = settings
        self._rng = rng
        self.guard = guard = cluster.guard
        self._placement = Placement(
            cluster.members, lambda node, type_: guard.may(node, Action.HOST, type_)
        )
        self._peers = Peers(cluster, settings)
        self._keeper: StoreKeeper | None = None
        self._host: Host | None = None
        if store is not None:
            self._keeper = StoreKeeper(store, owns_store=owns_store)
            owner, make_way = self._placement.owner, self._peers.make_way
            self._host = Host(cluster.id, codec, settings, self._keeper, clock, owner, make_way)
        self._nursery: trio.Nursery | None = None
        self._hosting = False
        self._changed = trio.Event()
        self._retried = 0

    # -- hosting ------------------------------------------------------------------------------

    def host(self, type: str, behaviour: Behaviour) -> None:
        """Host a type of entities from now on: see `host_all`."""
        self.host_all({type: behaviour})

    def host_all(self, behaviours: Mapping[str, Behaviour]) -> None:
        """Host these types of entities from now on, all or none: this node owns its share of them.

        The others know within a moment; until then they send no calls here.  Raises `ConfigError`
        for what is no type, one that is hosted here already, more types than a label holds, or on
        a node that only observes; `NotAuthorized` for a type that this node, by its role, may not
        host; `NodeClosed` outside of the node's block.
        """
        for type_ in behaviours:
            check_entity_type(type_)
        if self._host is None:
            raise ConfigError("a node that observes, or has no store, cannot host entities")
        if self._nursery is None:
            raise NodeClosed("entities are hosted only while the node is open")
        hosted = self._host.types()
        for type_ in behaviours:
            self.guard.require_of_us(Action.HOST, type_)
            if type_ in hosted:
                raise ConfigError(f"{type_} is hosted here already")
        self._publish((*hosted, *behaviours))
        for type_, behaviour in behaviours.items():
            self._host.add(type_, behaviour)
        if not self._hosting:
            self._hosting = True
            assert self._keeper is not None
            self._host.open(self._nursery)
            self._nursery.start_soon(self._keeper.run)
            self._nursery.start_soon(self._move, self._host)
            self._nursery.start_soon(Schedule(self._host, self._settings.reminder_poll_s).run)

    async def stop_hosting(self, *types: str) -> None:
        """Hand the entities of these types over (of all, when none is named), and own no more.

        No new turns begin; those that run may finish, within `drain_s`; then all are deactivated
        and let go of.  Returns when that is done and the other members know.  Cancelled, the types
        are hosted no longer, and the rest goes on by itself.
        """
        if self._host is None or self._nursery is None:
            await trio.lowlevel.checkpoint()
            return
        hosted = self._host.types()
        leaving = tuple(type_ for type_ in (types or hosted) if type_ in hosted)
        self._publish(tuple(type_ for type_ in hosted if type_ not in leaving))
        done = trio.Event()
        self._nursery.start_soon(self._stop, self._host, leaving, done)
        await done.wait()

    async def _stop(self, host: Host, types: tuple[str, ...], done: trio.Event) -> None:
        try:
            with trio.move_on_after(2 * self._settings.drain_s + HEARD_PATIENCE_S) as scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(host.drain, types)
                    nursery.start_soon(self._peers.until_heard)
            if scope.cancelled_caught:
                logger.warning("entities of %s could not be deactivated in time", ", ".join(types))
        finally:
            done.set()

    def _publish(self, types: tuple[str, ...]) -> None:
        self._cluster.set_own_label(LABEL, label_of(types))
        self.members_changed()

    async def _move(self, host: Host) -> None:
        """Let go of what others own, whenever the members change."""
        while True:
            await self._changed.wait()
            self._changed = trio.Event()
            await host.leave_to_others()

    # -- what there is ------------------------------------------------------------------------

    def hosted(self) -> tuple[str, ...]:
        """The types that this node hosts, sorted."""
        return self._host.types() if self._host is not None else ()

    def owner(self, key: EntityKey) -> str | None:
        """The name of the node that owns an entity, as far as this one knows now; None when no
        member hosts its type."""
        return self._placement.owner(key)

    def active(self, key: EntityKey) -> Active | None:
        """The activation of an entity, when it is active on this node."""
        entity = self._host.find(key) if self._host is not None else None
        return entity if entity is not None and entity.epoch else None

    def active_count(self, type: str) -> int:
        """How many entities of a type are active on this node."""
        return self._host.count(type) if self._host is not None else 0

    def statistics(self) -> EntityStatistics:
        """Figures; takes a step for each active entity."""
        if self._host is None:
            return EntityStatistics(retried=self._retried)
        return self._host.statistics(self._retried)

    # -- calls --------------------------------------------------------------------------------

    async def call(
        self, key: EntityKey, method: str, argument: Any, *, timeout_s: float | None = None
    ) -> Any:
        """Have the entity's owner run one turn, and return its answer.

        Waits up to `timeout_s`, and the caller's own Trio deadline is known to the owner too: a
        call that has not begun by then does not run.  Cancelled, one that waits is withdrawn, and
        one that runs goes on.

        Raises what the turn raised (`RemoteError`, or an `EntityError` of its kind),
        `NoSuchEntityType`, `EntityUnavailable` (nothing ran), `EntityHostFailed` (it may have),
        `EntityTimedOut`, `StaleEpoch`, `StoreUnavailable`; `NotAuthorized` when the owner's policy
        does not let this node call entities of the type (nothing ran); `NotEncodable` and
        `MessageTooLarge` before anything was sent; `NodeClosed`.
        """
        body = self._codec.encode(argument)
        if timeout_s is None:
            return await self._call(key, method, body)
        with trio.move_on_after(timeout_s):
            return await self._call(key, method, body)
        raise EntityTimedOut(f"{key} did not answer {method!r} within {timeout_s:g} s")

    async def _call(self, key: EntityKey, method: str, body: bytes) -> Any:
        deadline = trio.current_effective_deadline()
        answer = await self._route(key, method, body, deadline)
        if answer[0] is Status.ENTITY and trio.current_time() >= deadline:
            # The host knows the deadline too, and may be faster to say so than Trio is.
            await trio.lowlevel.checkpoint()
        return answers.read(answer, self._codec)

    async def _route(self, key: EntityKey, method: str, body: bytes, deadline: float) -> Answer:
        host = self._host
        if host is not None and host.find(key) is not None:
            work = LocalWork(Kind.CALL, method, body, deadline)
            answer = await wait_for(key, work, host, host.submit)
            if answer[0] is not Status.MOVED:
                return answer

        async def ask(owner: str) -> Answer:
            if owner == self._name and host is not None:
                work = LocalWork(Kind.CALL, method, body, deadline)
                return await wait_for(key, work, host, host.submit)
            remaining = None if deadline == _NEVER else max(0.0, deadline - trio.current_time())
            request = ("call", key.type, key.id, method, body, remaining)
            return await self._peers.ask(owner, request)

        return await self._find(key, ask)

    async def _find(self, key: EntityKey, ask: Callable[[str], Awaitable[Answer]]) -> Answer:
        """Ask whoever owns the entity, until somebody does more than send us on."""
        search = Search(self._settings.wait_for_host_s, self._rng)
        while True:
            owner = search.hint or self._placement.owner(key)
            if owner is None:
                await self._wait_for_host(key)
                continue
            answer = await ask(owner)
            if answer[0] is not Status.MOVED:
                return answer
            self._retried += 1
            named = answer[1].decode(errors="replace")
            pause_s = search.sent_on(owner, named, self._peers.is_member, trio.current_time())
            if pause_s is None:
                raise EntityUnavailable(f"{key} has no settled owner; nothing ran")
            if pause_s:
                await trio.sleep(pause_s)

    async def _wait_for_host(self, key: EntityKey) -> None:
        left_s = trio.current_effective_deadline() - trio.current_time()
        # Ends before the caller's time is up: then it would not hear why.
        with trio.move_on_after(min(self._settings.wait_for_host_s, max(0.0, 0.9 * left_s))):
            while self._placement.owner(key) is None:
                await self._cluster.wait_for_change()
            return
        raise NoSuchEntityType(f"no member hosts {key.type}; nothing ran")

    # -- reminders ----------------------------------------------------------------------------

    async def set_reminder(
        self, key: EntityKey, reminder: Reminder, *, timeout_s: float | None = None
    ) -> None:
        """Set a reminder of an entity, in place of the one of that name.  Durable on return.

        Acts beside the entity's turns, and so may be called from within one.  Waits up to
        `timeout_s`; then, or cancelled, it may or may not stand.  Raises as `call`.
        """
        await self._beside(key, "set_reminder", reminder.as_tuple(), timeout_s)

    async def delete_reminder(
        self, key: EntityKey, name: str, *, timeout_s: float | None = None
    ) -> None:
        """Delete a reminder; nothing happens when there is none of that name.  As above."""
        await self._beside(key, "delete_reminder", name, timeout_s)

    async def get_reminder(
        self, key: EntityKey, name: str, *, timeout_s: float | None = None
    ) -> Reminder | None:
        """The reminder of that name, with when it is due next.  As above."""
        fields = await self._beside(key, "get_reminder", name, timeout_s)
        return Reminder(*fields) if fields is not None else None

    async def _beside(
        self, key: EntityKey, method: str, argument: Any, timeout_s: float | None
    ) -> Any:
        body = self._codec.encode(argument)
        host = self._host

        async def ask(owner: str) -> Answer:
            if owner != self._name or host is None:
                return await self._peers.ask(owner, (method, key.type, key.id, body))
            work = LocalReminderWork(Kind.REMINDER, method, body)
            return await wait_for(key, work, host, host.submit_beside)

        limit_s = _NEVER if timeout_s is None else timeout_s
        with trio.move_on_after(limit_s):
            return answers.read(await self._find(key, ask), self._codec)
        raise EntityTimedOut(f"{key} did not answer {method!r} within {limit_s:g} s")

    # -- what peers ask, by way of `service` ---------------------------------------------------

    def arrived(self, key: EntityKey, work: Work) -> None:
        """Run work of a peer if the entity is here or ours; else send it on."""
        if self._host is None:
            work.answer(answers.moved(self._placement.owner(key)))
        elif isinstance(work, ReminderWork):
            self._host.submit_beside(key, work)
        else:
            self._host.submit(key, work)

    def withdrawn(self, key: EntityKey, work: Work) -> None:
        """The peer does not wait any more."""
        if self._host is not None:
            self._host.withdraw(key, work)

    def release(self, key: EntityKey, epoch: int, done: Callable[[], None]) -> None:
        """A peer wants the entity: let go of it, and say so when that is done."""
        if self._host is None:
            done()
        else:
            self._host.release(key, epoch, done)

    # -- life ---------------------------------------------------------------------------------

    def members_changed(self) -> None:
        """The node's: somebody came, went or changed its labels."""
        self._placement.members_changed()
        self._changed.set()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """The node's: run turns until cancelled.  Raises `ConfigError` for a store that cannot be
        used."""
        async with trio.open_nursery() as self._nursery:
            self._peers.opened()
            task_status.started()
            try:
                await trio.sleep_forever()
            finally:
                # A node that fails hands nothing over: who would do it is cancelled, too.
                self._nursery = None

    async def aclose(self) -> None:
        """The node's: hand everything over, and close the store."""
        if self._hosting:
            await self.stop_hosting()
        if self._nursery is not None:
            self._nursery.cancel_scope.cancel()
        if self._keeper is not None:
            await self._keeper.aclose()


@dataclass(frozen=True, slots=True)
class EntityRef:
    """An entity to call, wherever it is.  Made by `Node.entity`."""

    key: EntityKey
    _entities: Entities

    def __repr__(self) -> str:
        return f"<EntityRef {self.key}>"

    @property
    def owner(self) -> str | None:
        """The node that the next call goes to: see `Entities.owner`."""
        return self._entities.owner(self.key)

    async def call(self, command: str, *args: Any, timeout_s: float | None = None) -> Any:
        """Run a command of the entity, and return what it returns: see `Entities.call`."""
        return await self._entities.call(self.key, command, args, timeout_s=timeout_s)
