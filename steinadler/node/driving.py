"""Driving the membership engine: what it is told, what it asks for, and when it wakes.

    Peering ---- handle ----> Swim ---- effects: Send, Up, Down, NeighbourAdded ... --+
                               ^ tick                                                 |
                               +--- deadlines          Connections <-- carried out ---+--> listener
                                                       Partitions <-- told of them ---+

The engine decides; everything that it asks for is done here and nowhere else, at once and in its
order.  One task wakes when the engine, the partitions or the strangers want to be woken; another
dials those who are down again, because a partition may have healed, and ends links to the dead.
"""

from __future__ import annotations

import logging
import math
import random
from collections.abc import Callable
from typing import Protocol, assert_never

import trio

from steinadler.config import Config, Minority
from steinadler.errors import InMinority, NameConflict, SteinadlerError
from steinadler.identity import Address, NodeId
from steinadler.membership import (
    Blocked,
    Cleared,
    Disconnected,
    Down,
    Effect,
    Input,
    Member,
    MembersLost,
    NeighbourAdded,
    NeighbourRemoved,
    Partitions,
    PathLost,
    Reach,
    Send,
    SidesMerged,
    Suspected,
    Swim,
    Up,
    Updated,
    Usurped,
    encode,
)
from steinadler.node.strangers import Strangers
from steinadler.node.strays import Strays
from steinadler.transport.connections import Connections

logger = logging.getLogger("steinadler.node")

# How often members that are down are dialled again, in case they were only cut off.
RECONNECT_INTERVAL_S = 2.0


class MembershipListener(Protocol):
    """Who wants to know of members.  All plain functions."""

    def node_up(self, member: Member) -> None: ...
    def node_down(self, member: Member, reason: str) -> None: ...
    def node_updated(self, member: Member) -> None: ...
    def sides_changed(self, event: MembersLost | SidesMerged) -> None: ...
    def neighbour_connected(self, node: NodeId) -> None: ...


class Driving:
    """One node's engine, driven by Trio's clock until the node fails or is cancelled."""

    def __init__(
        self,
        node: NodeId,
        engine: Swim,
        connections: Connections,
        config: Config,
        rng: random.Random,
        listener: MembershipListener,
        is_up: Callable[[NodeId], None],
    ) -> None:
        self._node = node
        self._engine = engine
        self._connections = connections
        self._config = config
        self._rng = rng
        self._listener = listener
        self._tell_up = is_up  # after everybody else
        self.partitions = Partitions(engine, config.membership)
        self._strangers = Strangers(rng)
        self._strays = Strays()
        self._watches_until = -math.inf
        self._deadline_moved = trio.Event()
        self._failure: SteinadlerError | None = None
        self._failed = trio.Event()
        self._changed = trio.Event()

    async def run(self) -> None:
        """Keep watch until cancelled, or until `fail`: raises that failure."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._keep_watch)
            nursery.start_soon(self._reconnect)
            await self._failed.wait()
            assert self._failure is not None
            raise self._failure

    def handle(self, event: Input) -> None:
        """Something happened: tell the engine, and do what it asks for."""
        self._apply(self._engine.handle(event, trio.current_time()))
        self._keep_watch_sooner()

    def fail(self, failure: SteinadlerError) -> None:
        """End this node with an error, which comes out of its block."""
        if self._failure is None:
            self._failure = failure
            self._failed.set()

    def propose(self, address: Address) -> None:
        """Discovery found somebody there, who may be a node of this cluster.

        In a large cluster all members would be found again and again: one that is known there is
        not dialled, unless everybody is to be connected to everybody; and others take turns.
        """
        if self._engine.is_mesh:
            self._connections.propose(address)
        elif not self._engine.is_address_of_member(address):
            members = len(self._engine.members())
            self._strangers.heard(address, members, trio.current_time())
            self._keep_watch_sooner()

    def session_lost(self, node: NodeId, reason: str) -> None:
        """A member lives, but what was between it and this node is lost: down, and up again."""
        member = self._engine.find(node.name)
        if member is not None and self.is_up(node):
            self._announce_down(member, reason)
            self._announce_up(member)

    async def wait_for_change(self) -> None:
        """Wait until some member comes, goes or changes its labels, or somebody wakes us."""
        await self._changed.wait()

    def wake_waiters(self) -> None:
        """Let everybody who waits for a change look again."""
        self._changed.set()
        self._changed = trio.Event()

    def minority(self) -> InMinority:
        """What to raise where a minority refuses."""
        return InMinority(
            f"{self._node.name} is in a minority: {self.partitions} (its in_minority is "
            f"{self._config.in_minority.value!r})"
        )

    # -- time ---------------------------------------------------------------------------------

    def _due(self) -> float:
        return min(
            self._engine.next_deadline(),
            self.partitions.next_deadline(),
            self._strangers.next_deadline(),
        )

    def _keep_watch_sooner(self) -> None:
        # Most of what is heard puts deadlines off: the watch finds that out when it wakes.
        if self._due() < self._watches_until:
            self._deadline_moved.set()

    async def _keep_watch(self) -> None:
        while True:
            self._deadline_moved = trio.Event()
            self._watches_until = self._due()
            with trio.move_on_at(max(self._watches_until, 0)):
                await self._deadline_moved.wait()
            now = trio.current_time()
            if now >= self._engine.next_deadline():
                self._apply(self._engine.tick(now))
            for event in self.partitions.tick(now):
                self._sides_changed(event)
            for address in self._strangers.due(now):
                if not self._engine.is_address_of_member(address):
                    self._connections.propose(address)

    async def _reconnect(self) -> None:
        while True:
            await trio.sleep(RECONNECT_INTERVAL_S * self._rng.uniform(0.75, 1.25))
            for member in self._engine.reconnectable():
                for address in member.addresses:
                    self._connections.dial_again(address)
            self._end_strays()

    def _end_strays(self) -> None:
        strays = {
            peer.link: peer.connected_at
            for peer in self._connections.peers()
            if peer.link is not None
            and not peer.link.to_observer
            and not self.is_up(peer.link.node)
        }
        for link in self._strays.over(strays, trio.current_time()):
            logger.info("gave %s up: it is down, and does not say that it lives", link.node)
            self._connections.end(link.node, "it is down, and does not say that it lives")
            self.handle(Disconnected(link.node, goodbye=False))

    def is_up(self, node: NodeId) -> bool:
        """Whether that very life of a node is a member."""
        record = self._engine.find(node.name)
        return record is not None and record.node == node and record.state.is_member

    # -- effects ------------------------------------------------------------------------------

    def _apply(self, effects: list[Effect]) -> None:
        self.partitions.handle(effects, trio.current_time())
        for effect in effects:
            match effect:
                case Send(to, message):
                    link = self._connections.link(to)
                    if link is not None and link.connected:
                        link.session.gossip(encode(message))
                        link.flush()
                case Up(member):
                    self._connections.came_back(member.node, member.addresses)
                    self._announce_up(member)
                case NeighbourAdded(member):
                    self._connections.keep_connected(member.node, member.addresses)
                    link = self._connections.link(member.node)
                    if link is not None and link.connected:
                        self._listener.neighbour_connected(member.node)
                case NeighbourRemoved(node):
                    self._connections.let_go(node)
                case Reach(member):
                    for address in member.addresses:
                        self._connections.propose(address)
                case PathLost(node):
                    link = self._connections.link(node)
                    if link is not None:
                        logger.info(
                            "closed the way to %s: others hear it, this node does not", node
                        )
                        link.close_connection()
                case Down(member, reason):
                    logger.info("%s is down: %s", member.node, reason)
                    self._connections.end(member.node, reason)
                    self._announce_down(member, reason)
                case Updated(member):
                    self._connections.moved(member.node, member.addresses)
                    self._listener.node_updated(member)
                    self.wake_waiters()
                case Suspected(member):
                    logger.info("%s is suspected", member.node)
                case Cleared(member):
                    logger.info("%s is fine", member.node)
                case Blocked(seconds):
                    logger.warning(
                        "this node's loop was blocked for %.1f s, or its process did not run: "
                        "others declare a node down that is silent for %.1f s or more",
                        seconds,
                        self._config.membership.earliest_verdict_s,
                    )
                case Usurped(by):
                    text = (
                        f"the cluster holds the name {self._node.name!r} for another life of it "
                        f"(incarnation {by.incarnation}): two nodes have one name"
                    )
                    self.fail(NameConflict(text))
                case _:
                    assert_never(effect)

    def _announce_up(self, member: Member) -> None:
        logger.info("%s is up", member.node)
        self._listener.node_up(member)
        self.wake_waiters()
        self._tell_up(member.node)

    def _announce_down(self, member: Member, reason: str) -> None:
        self._listener.node_down(member, reason)
        self.wake_waiters()

    def _sides_changed(self, event: MembersLost | SidesMerged) -> None:
        names = ", ".join(member.node.name for member in event.members)
        match event:
            case MembersLost(()):
                logger.warning("members went while others are lost: this side is a minority now")
            case MembersLost():
                size = "a minority" if event.minority else "no minority"
                logger.warning("lost together: %s; this side is %s", names, size)
            case SidesMerged(()):
                logger.info("this side is a minority no more: %s", self.partitions)
            case SidesMerged():
                logger.info("back, as they were: %s", names)
        self._listener.sides_changed(event)
        if event.minority and self._config.in_minority is Minority.STOP:
            self.fail(self.minority())
