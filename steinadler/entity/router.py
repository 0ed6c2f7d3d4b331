"""The router: an entity call finds the one node that runs it, or says why not.

    call -> who owns it, as far as we know -> here:  the host, without a hop
                                           -> there: the process `$entities` of that node
         <- the answer, an error, or "not here: ask that one" (nothing ran)

The owner is picked by hash among the members that host the type, as their labels tell (see
`steinadler.delivery.placement`); a suspected member still counts.  Two nodes may see different
members for a moment, so whoever is asked looks by himself, and sends the call on when he does not
own the entity.  The caller's node then asks again, for as long as `wait_for_host_s`.

**What is tried again and what is not (E3).**  An answer that says that nothing ran is; everything
else is the caller's to decide.  When the owner's node goes down after the call was sent, the turn
may have run, and the caller is told so with `EntityHostFailed`.  A queue of calls kept at the
caller's node for such cases was refused: it would have to run a turn again to be of use.

**A node that stops hosting** first takes its label away, and waits until the others have heard it,
while its entities finish their turns; so calls that are on their way to it still find it there.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import trio

from steinadler.config import EntitySettings
from steinadler.delivery.placement import owner_of
from steinadler.entity import answers
from steinadler.entity.active import Work
from steinadler.entity.answers import Answer
from steinadler.entity.behaviour import Active, Behaviour, Kind
from steinadler.entity.host import Host
from steinadler.entity.keeper import StoreKeeper
from steinadler.entity.schedule import Schedule
from steinadler.entity.service import SERVICE, ReminderWork, reminder_fields
from steinadler.entity.store import Held, Reminder, Store
from steinadler.errors import (
    ConfigError,
    DeliveryError,
    EntityHostFailed,
    EntityTimedOut,
    EntityUnavailable,
    NodeClosed,
    NodeDown,
    NoSuchEntityType,
    NoSuchProcess,
    ProcessExited,
    RemoteError,
    SteinadlerError,
)
from steinadler.identity import Destination, EntityKey, NodeId, ProcessName, check_entity_type
from steinadler.membership import Member
from steinadler.wire.codec import Codec

logger = logging.getLogger("steinadler.entity")

# The label that names the types that a node hosts, with commas between.
LABEL = "$entities"
# After the n-th answer "not here": min(first * 2**n, longest), times a random 0.5 to 1.
FIRST_BACKOFF_S, LONGEST_BACKOFF_S = 0.005, 0.25
# How long a node that stops hosting waits for the others to have heard of it.
HEARD_PATIENCE_S = 1.0


class Cluster(Protocol):
    """What entities ask of their node."""

    @property
    def id(self) -> NodeId: ...
    def members(self) -> tuple[Member, ...]: ...
    def record(self, name: str) -> Member | None: ...
    def set_own_label(self, name: str, value: str | None) -> None: ...
    async def wait_for_change(self) -> None: ...
    async def call(self, destination: Destination, request: object) -> Any: ...


@dataclass(frozen=True, slots=True)
class EntityStatistics:
    """What a node's entities do now, and did since it opened.

    `waiting` calls are in the queues of `active` entities, and `running` of these are being
    activated, run or deactivated.  `turns` were begun.  `activations` succeeded; entities went by
    `passivations` (nobody called), `moved` (another owner, or a drain) and `lost` (stale epochs,
    and writes with an unknown outcome).  `retried` counts the calls of this node's programs that
    were sent on, each time.
    """

    active: int
    running: int
    waiting: int
    turns: int
    activations: int
    passivations: int
    moved: int
    lost: int
    retried: int


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


class _LocalWork(Work):
    """A turn for a caller on this node."""

    __slots__ = ("waiting",)

    waiting: _Waiting

    def answer(self, answer: Answer) -> None:
        self.waiting.resolve(answer)


class _LocalReminderWork(_LocalWork, ReminderWork):
    """Something to do with reminders, for a caller on this node."""

    __slots__ = ()


class Entities:
    """The entities of the cluster, as one node sees them: those it hosts, and the way to others.

    Made by the node, as `node.entities`.  `store` is None on a node that cannot host; with `ours`
    it is opened when the first type is hosted, and closed with the node.  `clock` tells the
    seconds since 1970.
    """

    def __init__(
        self,
        cluster: Cluster,
        codec: Codec,
        settings: EntitySettings,
        rng: random.Random,
        store: Store | None,
        *,
        ours: bool,
        clock: Callable[[], float],
    ) -> None:
        self._cluster = cluster
        self._name = cluster.id.name
        self._codec = codec
        self._settings = settings
        self._rng = rng
        self._keeper = StoreKeeper(store, ours=ours) if store is not None else None
        self._host: Host | None = None
        self._schedule: Schedule | None = None
        if self._keeper is not None:
            self._host = Host(
                cluster.id, codec, settings, self._keeper, clock, self._owner, self._make_way
            )
            self._schedule = Schedule(self._host, self._owns, settings.reminder_poll_s)
        self._nursery: trio.Nursery | None = None
        self._opened_at = 0.0
        self._hosting = False
        self._hosts: dict[str, list[str]] | None = None  # by type; None when members changed
        self._changed = trio.Event()
        self._retried = 0

    # -- hosting ------------------------------------------------------------------------------

    def host(self, type: str, behaviour: Behaviour) -> None:
        """Host a type of entities from now on: this node owns its share of them.

        The others know within a moment; until then they send no calls here.  Raises `ConfigError`
        for what is no type, one that is hosted here already, more types than a label holds, or on
        a node that only observes; `NodeClosed` outside of the node's block.
        """
        check_entity_type(type)
        if self._host is None:
            raise ConfigError("a node that observes, or has no store, cannot host entities")
        if self._nursery is None:
            raise NodeClosed("entities are hosted only while the node is open")
        if type in self._host.types():
            raise ConfigError(f"{type} is hosted here already")
        self._publish((*self._host.types(), type))
        self._host.add(type, behaviour)
        if not self._hosting:
            self._hosting = True
            assert self._keeper is not None
            assert self._schedule is not None
            self._host.open(self._nursery)
            self._nursery.start_soon(self._keeper.run)
            self._nursery.start_soon(self._move)
            self._nursery.start_soon(self._schedule.run)

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
        self._nursery.start_soon(self._stop, leaving, done)
        await done.wait()

    async def _stop(self, types: tuple[str, ...], done: trio.Event) -> None:
        assert self._host is not None
        with trio.move_on_after(2 * self._settings.drain_s + HEARD_PATIENCE_S) as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._host.drain, types)
                nursery.start_soon(self._wait_until_heard)
        if scope.cancelled_caught:
            logger.warning("entities of %s could not be deactivated in time", ", ".join(types))
        done.set()

    def hosted(self) -> tuple[str, ...]:
        """The types that this node hosts, sorted."""
        return self._host.types() if self._host is not None else ()

    def owner(self, key: EntityKey) -> str | None:
        """The name of the node that owns an entity, as far as this one knows now; None when no
        member hosts its type."""
        return self._owner(key)

    def active(self, key: EntityKey) -> Active | None:
        """The activation of an entity, when it is active on this node."""
        entity = self._host.find(key) if self._host is not None else None
        return entity if entity is not None and entity.epoch else None

    def active_count(self, type: str) -> int:
        """How many entities of a type are active on this node."""
        return self._host.count(type) if self._host is not None else 0

    def statistics(self) -> EntityStatistics:
        """Figures; takes a step for each active entity."""
        host = self._host
        if host is None:
            return EntityStatistics(0, 0, 0, 0, 0, 0, 0, 0, self._retried)
        counters = host.counters
        return EntityStatistics(
            active=len(host.entities()),
            running=host.running(),
            waiting=host.waiting(),
            turns=counters.turns,
            activations=counters.activations,
            passivations=counters.passivations,
            moved=counters.moved,
            lost=counters.lost,
            retried=self._retried,
        )

    def _publish(self, types: tuple[str, ...]) -> None:
        self._cluster.set_own_label(LABEL, ",".join(sorted(types)) or None)
        self.members_changed()

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
        `EntityTimedOut`, `StaleEpoch`, `StoreUnavailable`; `NotEncodable` and `MessageTooLarge`
        before anything was sent; `NodeClosed`.
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
        if answer[0] == answers.ENTITY and trio.current_time() >= deadline:
            # The host knows the deadline too, and may be faster to say so than Trio is.
            await trio.lowlevel.checkpoint()
        return answers.read(answer, self._codec)

    async def _route(self, key: EntityKey, method: str, body: bytes, deadline: float) -> Answer:
        host = self._host
        if host is not None and host.find(key) is not None:
            answer = await self._run_here(host, key, method, body, deadline)
            if answer[0] != answers.MOVED:
                return answer

        async def ask(owner: str) -> Answer:
            if owner == self._name and host is not None:
                return await self._run_here(host, key, method, body, deadline)
            remaining = None if deadline == _NEVER else max(0.0, deadline - trio.current_time())
            return await self._ask(owner, ("call", key.type, key.id, method, body, remaining))

        return await self._find(key, ask)

    async def _run_here(
        self, host: Host, key: EntityKey, method: str, body: bytes, deadline: float
    ) -> Answer:
        work = _LocalWork(Kind.CALL, method, body, deadline)
        work.waiting = waiting = _Waiting()
        host.submit(key, work)
        return await waiting.wait(lambda: host.withdraw(key, work))

    async def _find(self, key: EntityKey, ask: Callable[[str], Any]) -> Answer:
        """Ask whoever owns the entity, until somebody does more than send us on."""
        give_up_at: float | None = None
        backoff_s = FIRST_BACKOFF_S
        hint: str | None = None
        while True:
            owner = hint or self._owner(key)
            if owner is None:
                await self._wait_for_host(key)
                continue
            answer: Answer = await ask(owner)
            if answer[0] != answers.MOVED:
                return answer
            self._retried += 1
            now = trio.current_time()
            if give_up_at is None:
                give_up_at = now + self._settings.wait_for_host_s
            elif now >= give_up_at:
                raise EntityUnavailable(f"{key} has no settled owner; nothing ran")
            named = answer[1].decode(errors="replace")
            # Believed once: two that name each other must not keep us from looking ourselves.
            hint = named if hint is None and named != owner and self._is_member(named) else None
            if hint is None:
                await trio.sleep(backoff_s * self._rng.uniform(0.5, 1.0))
                backoff_s = min(2 * backoff_s, LONGEST_BACKOFF_S)

    async def _ask(self, owner: str, request: tuple[Any, ...]) -> Answer:
        """Ask another node.  What is certain not to have run there is answered as `MOVED`."""
        if not self._is_member(owner):
            await trio.lowlevel.checkpoint()
            return answers.moved(None)
        try:
            reply = await self._cluster.call(ProcessName(SERVICE, owner), request)
        except NoSuchProcess:
            return answers.moved(None)  # it is closing, and all its entities are gone
        except (NodeDown, ProcessExited, RemoteError) as error:
            raise EntityHostFailed(f"{error}; the turn may have run") from error
        match reply:
            case (int(status), bytes(body)) if answers.ANSWERED <= status <= answers.MOVED:
                return status, body
        raise EntityHostFailed(f"{owner} answered with what is no answer; the turn may have run")

    async def _wait_for_host(self, key: EntityKey) -> None:
        with trio.move_on_after(self._settings.wait_for_host_s):
            while self._owner(key) is None:
                await self._cluster.wait_for_change()
            return
        raise NoSuchEntityType(f"no member hosts {key.type}; nothing ran")

    # -- reminders ----------------------------------------------------------------------------

    async def set_reminder(self, key: EntityKey, reminder: Reminder) -> None:
        """Set a reminder of an entity, in place of the one of that name.  Durable on return.

        Acts beside the entity's turns, and so may be called from within one.  Raises as `call`.
        """
        await self._beside(key, "set_reminder", reminder_fields(reminder))

    async def delete_reminder(self, key: EntityKey, name: str) -> None:
        """Delete a reminder; nothing happens when there is none of that name.  As above."""
        await self._beside(key, "delete_reminder", name)

    async def get_reminder(self, key: EntityKey, name: str) -> Reminder | None:
        """The reminder of that name, with when it is due next.  As above."""
        fields = await self._beside(key, "get_reminder", name)
        return Reminder(*fields) if fields is not None else None

    async def _beside(self, key: EntityKey, method: str, argument: Any) -> Any:
        body = self._codec.encode(argument)
        host = self._host

        async def ask(owner: str) -> Answer:
            if owner != self._name or host is None:
                return await self._ask(owner, (method, key.type, key.id, body))
            work = _LocalReminderWork(Kind.REMINDER, method, body)
            work.waiting = waiting = _Waiting()
            self.arrived_beside(key, work)
            return await waiting.wait(lambda: host.withdraw(key, work))

        return answers.read(await self._find(key, ask), self._codec)

    # -- what peers ask, by way of `service` ---------------------------------------------------

    def arrived(self, key: EntityKey, work: Work) -> None:
        """Run work of a peer if the entity is here or ours; else send it on."""
        host = self._host
        if host is None or (host.find(key) is None and self._owner(key) != self._name):
            work.answer(answers.moved(self._owner(key)))
        else:
            host.submit(key, work)

    def withdrawn(self, key: EntityKey, work: Work) -> None:
        """The peer does not wait any more."""
        if self._host is not None:
            self._host.withdraw(key, work)

    def arrived_beside(self, key: EntityKey, work: ReminderWork) -> None:
        """Do work that need not wait for a turn, when the entity is active; else it has one."""
        host, nursery = self._host, self._nursery
        entity = host.find(key) if host is not None else None
        if entity is None or not entity.epoch or host is None or nursery is None:
            self.arrived(key, work)
        else:
            nursery.start_soon(host.run_beside, entity, work)

    def release(self, key: EntityKey, done: Callable[[], None]) -> None:
        """Another node believes to own the entity: let go of it, and say so when that is done."""
        entity = self._host.find(key) if self._host is not None else None
        if entity is None or self._nursery is None:
            done()
        else:
            self._nursery.start_soon(self._release, key, done)

    async def _release(self, key: EntityKey, done: Callable[[], None]) -> None:
        assert self._host is not None
        await self._host.let_go(key)
        done()

    # -- owners -------------------------------------------------------------------------------

    def members_changed(self) -> None:
        """The node's: somebody came, went or changed its labels."""
        self._hosts = None
        self._changed.set()

    def _owner(self, key: EntityKey) -> str | None:
        if self._hosts is None:
            self._hosts = {}
            for member in self._cluster.members():
                for type_ in (member.label(LABEL) or "").split(","):
                    self._hosts.setdefault(type_, []).append(member.node.name)
        return owner_of(key, self._hosts.get(key.type, ()))

    def _owns(self, key: EntityKey) -> bool:
        return self._owner(key) == self._name

    def _is_member(self, name: str) -> bool:
        record = self._cluster.record(name)
        return record is not None and record.state.is_member

    async def _move(self) -> None:
        """Let go of what others own, whenever the members change."""
        host = self._host
        assert host is not None
        while True:
            await self._changed.wait()
            self._changed = trio.Event()
            going = []
            for number, entity in enumerate(host.entities()):
                if entity.key.type in host.types() and not self._owns(entity.key):
                    going.append(entity)
                if number % 64 == 63:
                    await trio.lowlevel.checkpoint()
            await host.leave_all(going)

    async def _make_way(self, key: EntityKey, held: Held) -> None:
        """Have the node that holds an entity let go of it.

        Returns when it has, when its life is over, or when it does not answer within `drain_s` and
        a second: the next epoch shuts it out then.
        """
        assert held.owner is not None
        holder = NodeId(*held.owner)
        if holder.name == self._name:
            return
        settled_at = self._opened_at + self._settings.settle_s
        with trio.move_on_at(settled_at):
            while (record := self._cluster.record(holder.name)) is None or record.node < holder:
                await self._cluster.wait_for_change()
        record = self._cluster.record(holder.name)
        if record is None or record.node != holder or not record.state.is_member:
            return
        with trio.move_on_after(self._settings.drain_s + 1):
            try:
                request = ("release", key.type, key.id)
                await self._cluster.call(ProcessName(SERVICE, holder.name), request)
            except (DeliveryError, RemoteError) as error:
                logger.info("%s does not let go of %s: %s", holder, key, error)

    async def _wait_until_heard(self) -> None:
        """Wait until the members know what this node last said of itself."""
        with trio.move_on_after(HEARD_PATIENCE_S):
            async with trio.open_nursery() as nursery:
                for member in self._cluster.members():
                    if member.node.name != self._name:
                        nursery.start_soon(self._ask_if_heard, member.node.name)

    async def _ask_if_heard(self, name: str) -> None:
        try:
            await self._cluster.call(ProcessName(SERVICE, name), ("here",))
        except SteinadlerError as error:
            logger.debug("%s may not have heard: %s", name, error)

    # -- life ---------------------------------------------------------------------------------

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """The node's: run turns until cancelled.  Raises `ConfigError` for a store that cannot be
        used."""
        async with trio.open_nursery() as self._nursery:
            self._opened_at = trio.current_time()
            task_status.started()
            await trio.sleep_forever()

    async def aclose(self) -> None:
        """The node's: hand everything over, and close the store."""
        if self._hosting:
            await self.stop_hosting()
        if self._nursery is not None:
            self._nursery.cancel_scope.cancel()
            self._nursery = None
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


_NEVER = float("inf")
