"""Peering: the members of the cluster as one node sees them, and its links to them.

    discovery ---- propose ----> Connections <-- keep_connected / let_go / end --+
                                   | connected, disconnected, refused, gossip    |
                                   v                                             |
                                 Peering ----> Driving: the membership engine ---+--> listener

The engine decides who is a member and who is a neighbour; `driving` does what it asks for, and this
module is where connections report and where the rest of the node asks.  Neighbours are kept
connected; another member has a connection while something is to be said to it; whoever is down
loses it, and with it everything that hung on it.  What comes from who is down waits (`early`).
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import partial
from typing import Protocol

import trio

from steinadler.config import Config, Minority
from steinadler.errors import (
    ConfigError,
    NodeClosed,
    NodeDown,
    RemoteProtocolError,
    SteinadlerError,
)
from steinadler.identity import Address, NodeId
from steinadler.membership import (
    Bar,
    Connected,
    Disconnected,
    Health,
    Leave,
    Member,
    ObserverConnected,
    ObserverDisconnected,
    Received,
    Refused,
    Relabel,
    RoundTrip,
    Swim,
    decode,
)
from steinadler.node.admitting import Admitting, member_of
from steinadler.node.driving import Driving, MembershipListener
from steinadler.node.early import Early
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


class Listener(MembershipListener, Protocol):
    """Who wants to know, also of what comes in.  All plain functions."""

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
        self._listener = listener
        self._observer = network.identity.is_observer
        self.connections = Connections(network, node, config, rng, self)
        me = Member(node, labels=labels)
        self._engine = Swim(
            me, config.membership, rng, observer=self._observer, vouched=self._may_be_so
        )
        self._driving = Driving(
            node, self._engine, self.connections, config, rng, listener, self._let_in
        )
        self._early = Early()
        self._admitting = Admitting(node, self._engine, self.fail)
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
            nursery.start_soon(self._close_idle_channels)
            task_status.started(addresses)
            await self._driving.run()

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

    def observers(self) -> tuple[NodeId, ...]:
        """The observers that are connected to this node."""
        return self._engine.observers()

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
        """Discovery found somebody there, who may be a node of this cluster."""
        self._driving.propose(address)

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
        self._driving.handle(Relabel(labels))
        self._driving.wake_waiters()  # the engine tells of others only

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
        return self._driving.partitions.in_minority

    @property
    def members_lost(self) -> int:
        """How many members are cut off, or silent for whatever reason."""
        return self._driving.partitions.lost

    def require_majority(self) -> None:
        """Raise `InMinority` in a minority, unless `Config.in_minority` says to carry on."""
        if self._config.in_minority is not Minority.CARRY_ON and self.in_minority:
            raise self._driving.minority()

    async def wait_for_change(self) -> None:
        """Wait until some member comes, goes or changes its labels.

        Raises `NodeClosed` when this node goes.
        """
        self.require_open()
        await self._driving.wait_for_change()
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
        self._driving.handle(Leave())
        with trio.move_on_after(patience_s):
            await self.connections.say_goodbye("left")

    def close(self) -> None:
        """Nothing comes or goes any more: whoever still waits is told."""
        self._closed = True
        self.connections.close("this node has closed")
        self._driving.wake_waiters()

    def bar(self, names: frozenset[str]) -> None:
        """Have no node of these names for a member: those that are are down, "revoked"."""
        self._driving.handle(Bar(names))

    def fail(self, failure: SteinadlerError) -> None:
        """End this node with an error, which comes out of its block."""
        self._driving.fail(failure)

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
            self._driving.handle(ObserverConnected(link.node))
        else:
            again = self._engine.is_neighbour(link.node)
            self._driving.handle(Connected(member_of(hello)))
            self._listener.role_seen(link.node)
            if link.connected and not self._driving.is_up(link.node):
                self._early.expect(link)
            if again and link.connected:
                self._listener.neighbour_connected(link.node)

    def link_disconnected(self, link: Link) -> None:
        self._listener.connection_changed(link.node)
        self._driving.handle(Disconnected(link.node, goodbye=False))

    def link_ended(self, link: Link, reason: str) -> None:
        self._early.take(link)
        if link.to_observer:
            self._driving.handle(ObserverDisconnected(link.node))
        self._listener.connection_changed(link.node)
        self._listener.peer_lost(link, reason)

    def session_lost(self, node: NodeId, reason: str) -> None:
        self._driving.session_lost(node, reason)

    def peer_refused(self, node: NodeId) -> None:
        self._driving.handle(Refused(node))

    def events(self, link: Link, events: Sequence[Event]) -> None:
        for event in events:
            if link.state is LinkState.ENDED:
                return  # by an event before this one: nothing of the peer's counts any more
            match event:
                case Arrived() if link in self._early:
                    self._early.keep(link, event)
                case Arrived():
                    self._listener.arrived(link, event)
                case Gossiped(data):
                    # An observer asks for tables; the engine believes nothing that it says.
                    self._driving.handle(Received(link.node, decode(data)))
                case RegistryTold(data):
                    self._listener.registry_told(link, data)
                case TrustTold(data):
                    self._listener.trust_told(link, data)
                case GoodbyeReceived(reason):
                    self._say_farewell(link, reason)
                case Granted():
                    pass  # the link wakes its senders by itself

    def _let_in(self, node: NodeId) -> None:
        """That node is a member: what came of it before."""
        link = self.connections.link(node)
        if link is not None:
            self.events(link, self._early.take(link))

    def _say_farewell(self, link: Link, reason: str) -> None:
        if not link.to_observer:
            self._driving.handle(Disconnected(link.node, goodbye=True))
        self.connections.end(link.node, reason)
