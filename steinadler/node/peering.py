"""Peering: the membership engine's hands and ears.

    discovery ---- propose ----> Connections <-- keep_connected / let_go / end --+
                                   | connected, disconnected, refused,         |
                                   v gossip                                    |
                                 Swim engine ---- effects: Send, Up, Down, ----+--> listener
                                   ^ tick                  NeighbourAdded ...

The engine decides who is a member and who is a neighbour; this module only carries: what happens
on connections goes in, with the time; what the engine asks for comes out, in its order.  Neighbours
are kept connected; another member has a connection while something is to be said to it; whoever is
down loses it, and with it everything that hung on it.
"""

from __future__ import annotations

import logging
import math
import random
from functools import partial
from typing import Protocol, assert_never

import trio

from steinadler.config import Config, Minority
from steinadler.errors import (
    ConfigError,
    InMinority,
    NameConflict,
    NodeClosed,
    NodeDown,
    RemoteProtocolError,
    SteinadlerError,
)
from steinadler.identity import Address, NodeId
from steinadler.membership import (
    Bar,
    Blocked,
    Cleared,
    Connected,
    Disconnected,
    Down,
    Effect,
    Health,
    Input,
    Leave,
    Member,
    MembersLost,
    NeighbourAdded,
    NeighbourRemoved,
    ObserverConnected,
    ObserverDisconnected,
    Partitions,
    PathLost,
    Reach,
    Received,
    Refused,
    Relabel,
    RoundTrip,
    Send,
    SidesMerged,
    Suspected,
    Swim,
    Up,
    Updated,
    Usurped,
    decode,
    encode,
)
from steinadler.node.admitting import Admitting, member_of
from steinadler.node.strangers import Strangers
from steinadler.node.strays import Strays
from steinadler.transport.connections import Connections
from steinadler.transport.link import Link, LinkState
from steinadler.transport.network import Network
from steinadler.wire.handshake import Hello, Reject, decode_labels
from steinadler.wire.session import (
    Arrived,
    Event,
    GoodbyeReceived,
    Gossiped,
    Granted,
    RegistryTold,
    TrustTold,
)

logger = logging.getLogger("steinadler.node")

# How often members that are down are dialled again, in case they were only cut off.
RECONNECT_INTERVAL_S = 2.0


class Listener(Protocol):
    """Who wants to know.  All plain functions."""

    def node_up(self, member: Member) -> None: ...
    def node_down(self, member: Member, reason: str) -> None: ...
    def node_updated(self, member: Member) -> None: ...
    def sides_changed(self, event: MembersLost | SidesMerged) -> None: ...
    def neighbour_connected(self, node: NodeId) -> None: ...
    def connection_changed(self, node: NodeId) -> None: ...
    def role_seen(self, node: NodeId) -> None: ...
    def peer_lost(self, link: Link, reason: str) -> None: ...
    def arrived(self, link: Link, items: Arrived) -> None: ...
    def registry_told(self, link: Link, data: bytes) -> None: ...
    def trust_told(self, link: Link, data: bytes) -> None: ...


class Peering:
    """The members of the cluster as this node sees them, and its links to them."""

    def __init__(
        self,
        network: Network,
        node: NodeId,
        labels: tuple[tuple[str, str], ...],
        config: Config,
        rng: random.Random,
        listener: Listener,
    ) -> None:
        self._node = node
        self._config = config
        self._rng = rng
        self._listener = listener
        self._observer = network.identity.is_observer
        self.connections = Connections(network, node, config, rng, self)
        me = Member(node, labels=labels)
        self._engine = Swim(
            me, config.membership, rng, observer=self._observer, vouched=self._may_be_so
        )
        self._admitting = Admitting(node, self._engine, self.fail)
        self._partitions = Partitions(self._engine)
        self._strangers = Strangers(rng)
        self._strays = Strays()
        self._watches_until = -math.inf
        self._deadline_moved = trio.Event()
        self._failure: SteinadlerError | None = None
        self._failed = trio.Event()
        self._changed = trio.Event()
        self._closed = False

    # -- for the node -------------------------------------------------------------------------

    async def run(
        self,
        host: str | None,
        port: int,
        *,
        listen: bool = True,
        task_status: trio.TaskStatus[tuple[Address, ...]] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Listen (an observer never does), connect and keep watch until cancelled.

        Raises `NameConflict` when the cluster has another living node of this name, and
        `InMinority` when this node is to stop in one and is in one.
        """
        async with trio.open_nursery() as nursery:
            run = partial(self.connections.run, listen=listen and not self._observer)
            addresses = await nursery.start(run, host, port)
            self._engine.listen_at(addresses)
            nursery.start_soon(self._keep_watch)
            nursery.start_soon(self._reconnect)
            nursery.start_soon(self._close_idle_channels)
            task_status.started(addresses)
            await self._failed.wait()
            assert self._failure is not None
            raise self._failure

    def members(self) -> tuple[Member, ...]:
        """All members, this node included unless it only observes, by name."""
        return self._engine.members()

    def member(self, name: str) -> Member | None:
        """The member of that name."""
        record = self._engine.find(name)
        return record if record is not None and record.state.is_member else None

    def record(self, name: str) -> Member | None:
        """What is held about the node of that name, also when it is down or has left."""
        return self._engine.find(name)

    def role_of(self, node: NodeId) -> str:
        """The role of a node: as its certificate said, where this node has seen that, or as its
        record says.  Empty for one that is not known."""
        if node == self._node:
            return self.connections.identity.role
        link = self.connections.link(node)
        if link is not None and link.has_met:
            return link.role
        record = self.record(node.name)
        return record.role if record is not None and record.node == node else ""

    def _may_be_so(self, record: Member) -> bool:
        link = self.connections.link(record.node)
        return link is None or not link.has_met or link.role == record.role

    def neighbours(self) -> tuple[NodeId, ...]:
        """The neighbours that are connected now: who is talked to regularly."""
        return tuple(node for node in self._engine.neighbours() if self._is_connected(node))

    def neighbours_of(self, name: str) -> tuple[NodeId, ...]:
        """The neighbours of any member, as far as this node knows the members."""
        return self._engine.neighbours_of(name)

    def _is_connected(self, node: NodeId) -> bool:
        link = self.connections.link(node)
        return link is not None and link.connected

    @property
    def is_mesh(self) -> bool:
        """Whether every member keeps connected to every other."""
        return self._engine.is_mesh

    def propose(self, address: Address) -> None:
        """Discovery found somebody there, who may be a node of this cluster.

        In a large cluster all members would be found again and again: one that is known there is
        not dialled, unless everybody is to be connected to everybody; and others take turns.
        """
        if self._engine.is_mesh:
            self.connections.propose(address)
        elif not self._engine.is_address_of_member(address):
            members = len(self._engine.members())
            self._strangers.heard(address, members, trio.current_time())
            self._keep_watch_sooner()

    @property
    def labels(self) -> tuple[tuple[str, str], ...]:
        """This node's labels."""
        return self._engine.me.labels

    def relabel(self, labels: tuple[tuple[str, str], ...]) -> None:
        """Change this node's labels, and tell everybody.

        Raises `ConfigError`, and changes nothing, for labels that no peer would accept.
        """
        try:
            decode_labels(dict(labels))
        except RemoteProtocolError as error:
            raise ConfigError(f"no peer would accept these labels: {error}") from error
        self._handle(Relabel(labels))
        self._wake_waiters()  # the engine tells of others only

    def round_trip(self, node: NodeId) -> RoundTrip | None:
        """The time to that life of a member and back, once it was measured."""
        return self._engine.round_trip(node)

    @property
    def health(self) -> Health:
        """How well this node itself runs: how often and how long it was blocked."""
        return self._engine.health

    @property
    def in_minority(self) -> bool:
        """Whether this node's side of a partition is the smaller one."""
        return self._partitions.in_minority

    @property
    def members_lost(self) -> int:
        """How many members are cut off, or silent for whatever reason."""
        return self._partitions.lost

    def require_majority(self) -> None:
        """Raise `InMinority` in a minority, unless `Config.in_minority` says to carry on."""
        if self._config.in_minority is not Minority.CARRY_ON and self.in_minority:
            raise self._minority()

    def _minority(self) -> InMinority:
        return InMinority(
            f"{self._node.name} is in a minority: {self._partitions} (its in_minority is "
            f"{self._config.in_minority.value!r})"
        )

    async def wait_for_change(self) -> None:
        """Wait until some member comes, goes or changes its labels.

        Raises `NodeClosed` when this node goes.
        """
        self.require_open()
        await self._changed.wait()
        self.require_open()

    def require_open(self) -> None:
        """Raise `NodeClosed` when this node has closed."""
        if self._closed:
            raise NodeClosed(f"{self._node.name} has closed")

    def link_to(self, name: str) -> Link:
        """The link to a member; raises `NodeDown` when there is no such member, `NodeClosed`."""
        self.require_open()
        member = self.member(name)
        if member is None:
            known = ", ".join(m.node.name for m in self.members()) or "none"
            raise NodeDown(name, f"it is not a member; the members are: {known}")
        return self.connections.link_to_member(member.node, member.addresses)

    def link_to_life(self, node: NodeId) -> Link:
        """The link to this very life of a node, observers included; raises `NodeDown`."""
        link = self.connections.link(node)
        if link is not None and link.to_observer:
            return link
        link = self.link_to(node.name)
        if link.node != node:
            raise NodeDown(node.name, "that life of the node is over")
        return link

    async def leave(self, patience_s: float) -> None:
        """Let what is queued arrive, then tell everybody that this node leaves for good.

        In this order, because whoever hears that we left, from us or from others, drops what
        still comes from us.  Takes up to `patience_s` for each of the two.
        """
        with trio.move_on_after(patience_s):
            await self.connections.drain()
        self._handle(Leave())
        with trio.move_on_after(patience_s):
            await self.connections.say_goodbye("left")

    def close(self) -> None:
        """Nothing comes or goes any more: whoever still waits is told."""
        self._closed = True
        self.connections.close("this node has closed")
        self._wake_waiters()

    # -- the engine ---------------------------------------------------------------------------

    def _handle(self, event: Input) -> None:
        self._apply(self._engine.handle(event, trio.current_time()))
        self._keep_watch_sooner()

    def _due(self) -> float:
        return min(
            self._engine.next_deadline(),
            self._partitions.next_deadline(),
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
            for event in self._partitions.tick(now):
                self._sides_changed(event)
            for address in self._strangers.due(now):
                if not self._engine.is_address_of_member(address):
                    self.connections.propose(address)

    def _apply(self, effects: list[Effect]) -> None:
        self._partitions.handle(effects, trio.current_time())
        for effect in effects:
            match effect:
                case Send(to, message):
                    link = self.connections.link(to)
                    if link is not None and link.connected:
                        link.session.gossip(encode(message))
                        link.flush()
                case Up(member):
                    self.connections.came_back(member.node, member.addresses)
                    self._announce_up(member)
                case NeighbourAdded(member):
                    self.connections.keep_connected(member.node, member.addresses)
                    if self._is_connected(member.node):
                        self._listener.neighbour_connected(member.node)
                case NeighbourRemoved(node):
                    self.connections.let_go(node)
                case Reach(member):
                    for address in member.addresses:
                        self.connections.propose(address)
                case PathLost(node):
                    link = self.connections.link(node)
                    if link is not None:
                        logger.info("nothing comes from %s, though others hear it", node)
                        link.close_connection()
                case Down(member, reason):
                    logger.info("%s is down: %s", member.node, reason)
                    self.connections.end(member.node, reason)
                    self._announce_down(member, reason)
                case Updated(member):
                    self.connections.moved(member.node, member.addresses)
                    self._listener.node_updated(member)
                    self._wake_waiters()
                case Suspected(member):
                    logger.info("%s is suspected", member.node)
                case Cleared(member):
                    logger.info("%s is fine", member.node)
                case Blocked(seconds):
                    logger.warning(
                        "this node's loop was blocked for %.1f s, or its process did not run: "
                        "others hold a node that is silent for 2 s or more for down",
                        seconds,
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
        self._wake_waiters()

    def _announce_down(self, member: Member, reason: str) -> None:
        self._listener.node_down(member, reason)
        self._wake_waiters()

    def _sides_changed(self, event: MembersLost | SidesMerged) -> None:
        names = ", ".join(member.node.name for member in event.members)
        match event:
            case MembersLost():
                size = "a minority" if event.minority else "no minority"
                logger.warning("lost together: %s; this side is %s", names, size)
            case SidesMerged():
                logger.info("back, as they were: %s", names)
        self._listener.sides_changed(event)
        if event.minority and self._config.in_minority is Minority.STOP:
            self.fail(self._minority())

    def _wake_waiters(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    def bar(self, names: frozenset[str]) -> None:
        """Have no node of these names for a member: those that are are down, "revoked"."""
        self._handle(Bar(names))

    def fail(self, failure: SteinadlerError) -> None:
        """End this node with an error, which comes out of its block."""
        if self._failure is None:
            self._failure = failure
            self._failed.set()

    # -- upkeep -------------------------------------------------------------------------------

    async def _reconnect(self) -> None:
        """Dial those who are down: a partition may have healed."""
        while True:
            await trio.sleep(RECONNECT_INTERVAL_S * self._rng.uniform(0.75, 1.25))
            for member in self._engine.reconnectable():
                for address in member.addresses:
                    self.connections.propose(address)
            self._end_strays()

    def _end_strays(self) -> None:
        strays = {
            peer.link: peer.connected_at
            for peer in self.connections.peers()
            if peer.link is not None
            and not peer.link.to_observer
            and not self._is_up(peer.link.node)
        }
        for link in self._strays.over(strays, trio.current_time()):
            logger.info("gave %s up: it is down, and does not say that it lives", link.node)
            self.connections.end(link.node, "it is down, and does not say that it lives")
            self._handle(Disconnected(link.node, goodbye=False))

    def _is_up(self, node: NodeId) -> bool:
        member = self.member(node.name)
        return member is not None and member.node == node

    async def _close_idle_channels(self) -> None:
        while True:
            await trio.sleep(self._config.wire.channel_idle_s)
            for link in self.connections.links():
                # Not worth a connection.
                if link.connected and link.session.close_idle_channels():
                    link.flush()

    # -- what connections ask and tell --------------------------------------------------------

    def hello_facts(self) -> tuple[int, tuple[tuple[str, str], ...]]:
        return self._engine.me.refutation, self._engine.me.labels

    def admit(self, hello: Hello) -> Reject | None:
        return self._admitting.admit(hello, trio.current_time())

    def rejected(self, reject: Reject, by: str) -> None:
        wanted_by = sum(
            not link.to_observer and link.connected for link in self.connections.links()
        )
        self._admitting.rejected(reject, by, wanted_by, trio.current_time())

    def link_connected(self, link: Link, hello: Hello) -> None:
        self._admitting.met(link.node.name)
        self._listener.connection_changed(link.node)
        if link.to_observer:
            self._handle(ObserverConnected(link.node))
        else:
            again = self._engine.is_neighbour(link.node)
            self._handle(Connected(member_of(hello)))
            self._listener.role_seen(link.node)
            if again and link.connected:
                self._listener.neighbour_connected(link.node)

    def link_disconnected(self, link: Link) -> None:
        self._listener.connection_changed(link.node)
        self._handle(Disconnected(link.node, goodbye=False))

    def link_ended(self, link: Link, reason: str) -> None:
        if link.to_observer:
            self._handle(ObserverDisconnected(link.node))
        self._listener.connection_changed(link.node)
        self._listener.peer_lost(link, reason)

    def session_lost(self, node: NodeId, reason: str) -> None:
        member = self.member(node.name)
        if member is not None and member.node == node:
            self._announce_down(member, reason)
            self._announce_up(member)

    def peer_refused(self, node: NodeId) -> None:
        self._handle(Refused(node))

    def events(self, link: Link, events: list[Event]) -> None:
        for event in events:
            if link.state is LinkState.ENDED:
                return  # by an event before this one: nothing of the peer's counts any more
            match event:
                case Arrived():
                    self._listener.arrived(link, event)
                case Gossiped(data):
                    # An observer asks for tables; the engine believes nothing that it says.
                    self._handle(Received(link.node, decode(data)))
                case RegistryTold(data):
                    self._listener.registry_told(link, data)
                case TrustTold(data):
                    self._listener.trust_told(link, data)
                case GoodbyeReceived(reason):
                    self._say_farewell(link, reason)
                case Granted():
                    pass  # the link wakes its senders by itself

    def _say_farewell(self, link: Link, reason: str) -> None:
        if not link.to_observer:
            self._handle(Disconnected(link.node, goodbye=True))
        self.connections.end(link.node, reason)
