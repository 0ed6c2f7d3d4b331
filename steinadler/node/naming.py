"""Cluster-wide names and groups of one node: the registry's hands and ears.

    register_global ---> the arbiter's $names: may it?  ---> own replica
    a change            --> news, in the next turn of the scheduler   --+
    now and then        --> compare, with one neighbour               --+--> links, as gossip
    a neighbour connects, a member goes --> what the engine makes of it +
    NameContested       --> the other's $names: does it hold it?  ---> ours loses it
    NameLost            --> the process is told to exit, and events tell everybody

What travels is dropped with a broken connection, as membership's gossip is: comparing finds it.
Reliable messages were refused for it, because a member that does not read would hold up the rest,
or make their queues grow.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, assert_never

import trio

from steinadler.delivery.rendezvous import pick
from steinadler.errors import (
    ConfigError,
    InMinority,
    NodeDown,
    NoSuchProcess,
    ProcessExited,
    RemoteError,
    SteinadlerError,
)
from steinadler.identity import (
    Destination,
    NodeId,
    ProcessId,
    ProcessName,
    check_process_name,
)
from steinadler.node.events import EventHub
from steinadler.node.events import NameConflict as NameConflictEvent
from steinadler.node.guard import Guard
from steinadler.node.peering import Peering
from steinadler.process.table import Processes
from steinadler.registry import (
    Effect,
    NameContested,
    NameLost,
    NameSettled,
    Registry,
    Tell,
    refuse_for,
)
from steinadler.registry.claims import RESERVED_S, Claim
from steinadler.registry.index import OlderClaim
from steinadler.registry.messages import Summary, Want, decode, encode
from steinadler.security.policy import Action
from steinadler.transport.link import Link
from steinadler.wire.frames import FrameType

# Every member compares with a neighbour at random about so often.
COMPARE_INTERVAL_S = 2.0
# A node that closes answers no more, and is a member for a moment yet; then it is asked again.
GOING_S = 1.0
# When halves merge, whoever had names first is asked about so many at a time, so long; and again
# after so long about those that it has no more, until news of that have come.
CONTESTS_TOGETHER = 100
CONTEST_PATIENCE_S = 5.0
CONTEST_AGAIN_S = 0.5
# Before the arbiter forgets it, the name is to be known.
MARGIN_S = 2.0


class Naming:
    """Names and groups of the whole cluster, at one node."""

    def __init__(
        self,
        me: NodeId,
        observer: bool,
        processes: Processes,
        peering: Peering,
        guard: Guard,
        hub: EventHub,
        call: Callable[[Destination, object], Any],
        rng: random.Random,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.me = me
        self._observer = observer
        self._processes = processes
        self._peering = peering
        self._guard = guard
        self._hub = hub
        self._call = call
        self._rng = rng
        self._clock = clock
        self._changed = trio.Event()
        self._nursery: trio.Nursery | None = None  # while it runs
        self._rivals: set[NodeId] = set()  # who is being asked whether names are theirs
        self.registry = Registry(
            me,
            rng,
            peering.neighbours,
            None if observer else peering.observers,
            lambda node, name: node == me or guard.may(node, Action.REGISTER, name),
            lambda node, group: node == me or guard.may(node, Action.JOIN, group),
        )
        self._roles: dict[NodeId, str] = {}  # by which the members' entries count
        self.find = self.registry.find

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Tell what changes, and compare, until cancelled."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            nursery.start_soon(self._compare)
            task_status.started()
            try:
                while True:
                    await self._changed.wait()
                    self._changed = trio.Event()
                    self._carry_out(self.registry.news())
            finally:
                self._nursery = None  # which takes nothing more

    async def _compare(self) -> None:
        while True:
            await trio.sleep(COMPARE_INTERVAL_S * self._rng.uniform(0.75, 1.25))
            self._carry_out(self.registry.compare(trio.current_time()))

    # -- names --------------------------------------------------------------------------------

    async def register(self, name: str, process: ProcessId) -> None:
        """See `Node.register_global`."""
        self._require_ours(process)
        check_process_name(name)
        if name.startswith("$"):
            raise ConfigError(f"{name!r}: names that begin with '$' belong to the runtime")
        self._guard.require_of_us(Action.REGISTER, name)
        self._peering.require_majority()
        claim = self.registry.begin_claim(name, process)
        asked: set[str] = set()
        try:
            await self._ask_arbiters(claim, asked)
            self._require_ours(process)  # it may have ended meanwhile
            self._peering.require_majority()
            self.registry.register(name, process.number, int(self._clock() * 1_000_000))
        except BaseException:
            if asked and self._nursery is not None:
                self._nursery.start_soon(self._release, claim, asked)
            raise
        finally:
            self.registry.end_claim(claim)
        self._changed.set()

    async def _ask_arbiters(self, claim: Claim, asked: set[str]) -> None:
        """Raise `NameConflict` when somebody has the name already, or is just about to."""
        arbiter, until = "", 0.0
        while (
            arbiter != self._arbiter(claim.name)  # another one would not know who was let pass
            or claim.is_stale  # nor this one, perhaps
            or trio.current_time() >= until
        ):
            self.registry.asks(claim)
            until = trio.current_time() + RESERVED_S - MARGIN_S
            request = ("reserve", claim.name, claim.process, claim.number, claim.version)
            arbiter, found = await self._ask_arbiter(claim.name, request, asked)
            if isinstance(found, ProcessId):
                asked.discard(arbiter)  # which holds nothing for this claim
                refuse_for(found, claim.process, claim.name)

    async def _ask_arbiter(
        self, name: str, request: tuple[object, ...], asked: set[str]
    ) -> tuple[str, object]:
        """Who is the arbiter of a name, and what it answers; all who were asked go to `asked`."""
        while True:
            arbiter = self._arbiter(name)
            asked.add(arbiter)
            try:
                return arbiter, await self._call(ProcessName("$names", arbiter), request)
            except RemoteError as error:
                if error.type_name == InMinority.__name__:
                    raise InMinority(error.text) from None
                raise
            except (NodeDown, NoSuchProcess, ProcessExited):  # it goes, or is gone
                await trio.lowlevel.checkpoint()
                with trio.move_on_after(GOING_S):
                    while self._arbiter(name) == arbiter:
                        await self._peering.wait_for_change()

    async def _release(self, claim: Claim, arbiters: set[str]) -> None:
        """Tell those who may hold the name for a claim that came to nothing."""
        request = ("release", claim.name, claim.process, claim.number)
        with trio.move_on_after(RESERVED_S):
            for arbiter in arbiters:
                with suppress(SteinadlerError):
                    await self._call(ProcessName("$names", arbiter), request)

    async def _contest(self, rival: NodeId) -> None:
        """Have processes of ours lose names to whoever had them first, and has them: that it gave
        one back may be news which others had before us, and let ours have it."""
        try:
            while claims := self.registry.older_claims(rival):
                asked = self._rng.sample(claims, min(len(claims), CONTESTS_TOGETHER))
                held = await self._ask_which_it_holds(rival, asked)
                for claim in held:
                    self._carry_out(self.registry.lose(rival, claim))
                if not held:
                    await trio.sleep(CONTEST_AGAIN_S)
        finally:
            self._rivals.discard(rival)

    async def _ask_which_it_holds(
        self, rival: NodeId, claims: list[OlderClaim]
    ) -> list[OlderClaim]:
        held: object = None
        with trio.move_on_after(CONTEST_PATIENCE_S), suppress(SteinadlerError):
            held = await self._call(ProcessName("$names", rival.name), ("holds", claims))
        if not isinstance(held, list) or len(held) != len(claims):
            return []
        return [claim for claim, is_so in zip(claims, held, strict=True) if is_so is True]

    def reserve(self, name: str, process: ProcessId, number: int, version: int) -> ProcessId | None:
        """As the arbiter: let `process` have the name, or say who has it (`Registry.reserve`).

        Raises `InMinority` when this node is in one and minds.
        """
        self._peering.require_majority()
        return self.registry.reserve(name, process, number, version, trio.current_time())

    def _arbiter(self, name: str) -> str:
        """Who lets one claim to a name pass: a member that may have it itself."""
        nodes = [member.node for member in self._peering.members()]
        able = [node.name for node in nodes if self._guard.may(node, Action.REGISTER, name)]
        return pick(able, name) or self.me.name

    def unregister(self, name: str) -> None:
        """See `Node.unregister_global`."""
        if self.registry.unregister(name) is None:
            raise NoSuchProcess(f"{name}@{self.me.name}")
        self._changed.set()

    async def whereis(self, name: str) -> ProcessId | None:
        """Whose the name is; an observer, which holds nothing, asks a member."""
        if not self._observer:
            await trio.lowlevel.checkpoint()
            return self.find(name)
        members = self._peering.members()
        if not members:
            raise NodeDown("*", "no member is connected")
        _, found = await self._ask_arbiter(name, ("whereis_global", name), set())
        return found if isinstance(found, ProcessId) else None

    # -- groups -------------------------------------------------------------------------------

    def join(self, group: str, process: ProcessId) -> None:
        """Put a process of this node into a group."""
        self._require_ours(process)
        check_process_name(group)
        self._guard.require_of_us(Action.JOIN, group)
        self.registry.join(group, process.number)
        self._changed.set()

    def leave(self, group: str, process: ProcessId) -> None:
        """Take it out again; of another node's, or another life's, nothing is in it here."""
        if process.node == self.me and self.registry.leave(group, process.number):
            self._changed.set()

    def process_ended(self, process: ProcessId) -> None:
        """It has names no more, and is in no group."""
        self.registry.process_ended(process.number)
        if self.registry.has_news:
            self._changed.set()

    def _require_ours(self, process: ProcessId) -> None:
        if self._observer:
            raise ConfigError("an observer is no member: its processes have no name in the cluster")
        self._processes.require(process)

    # -- members ------------------------------------------------------------------------------

    def member_up(self, node: NodeId) -> None:
        self._roles[node] = self._peering.role_of(node)
        self.registry.member_up(node)

    def role_seen(self, node: NodeId) -> bool:
        """Its role may be another than was thought: then what it has counts by what it is.

        Returns whether it is another.
        """
        role = self._peering.role_of(node)
        if self._roles.get(node, role) == role:
            return False
        self._roles[node] = role
        self._carry_out(self.registry.role_changed(node))
        return True

    def neighbour_connected(self, node: NodeId) -> None:
        self._carry_out(self.registry.neighbour_connected(node))

    def member_down(self, node: NodeId) -> None:
        self._roles.pop(node, None)
        self._carry_out(self.registry.member_down(node))

    def received(self, link: Link, data: bytes) -> None:
        """A peer's message.  Raises `RemoteProtocolError` for what is none."""
        message = decode(data)
        if message is None:
            return
        if link.to_observer and not isinstance(message, (Summary, Want)):
            return  # it may ask, and has nothing to tell
        self._carry_out(self.registry.received(link.node, message, trio.current_time()))

    def _carry_out(self, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case Tell(to, message):
                    link = self._peering.connections.link(to)
                    if link is not None and link.connected:
                        link.session.gossip(encode(message), FrameType.REGISTRY)
                        link.flush()
                case NameContested(node):
                    if node not in self._rivals and self._nursery is not None:
                        self._rivals.add(node)
                        self._nursery.start_soon(self._contest, node)
                case NameLost(name, number, winner):
                    self._changed.set()
                    process = self._processes.by_number(number)
                    if process is not None:
                        reason = f"NameConflict: the name {name!r} belongs to {winner}"
                        process.exit_signal(winner, reason, linked=False)
                case NameSettled(name, winner, loser):
                    self._hub.publish(NameConflictEvent(name, winner, loser))
                case _:
                    assert_never(effect)
