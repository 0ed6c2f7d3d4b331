"""The connections of one node: who is linked, dialled, proposed, and let go.

    keep_connected(member)    a neighbour: connected from now on, and dialled again when that breaks
    link_to_member(member)    any other: connected when something is to be sent to it
    let_go(member)            a neighbour no longer
    propose(address)          one dial to all that discovery saw there
    dial_again(address)       one dial to whoever was there and is down: these may all be silent,
                              and leave the places of those that were never met alone
    incoming stream           the other end dialled, or has a third node carry it here (`welcome`)

All of these end in the same place: `Handshakes` has a Hello judged, and the stream is attached to
the link of the one `Peer` that the certificate names, if `ConnectionRank` says that it is the one
to keep.  One record per name is what makes it one connection per peer; a pool of streams with the
choice made at each message was refused, because order (M1) would then need a second rule.
What the cluster makes of it (who may join, who is up) is the `Delegate`'s to decide.

**On demand.**  A peer that lacks a connection and should have one (`Peer.lacks_connection`) has a
task that dials, with backoff and jitter, until there is a connection, or no more need for one, or
the peer is given up.  A refused dial ends nothing: only membership says that a member is down.
Tasks are started where a need arises (something is sent, a connection broke) and are gone when it
has been met, so a peer with which nothing goes on costs its session and no task.

**Relayed connections.**  Where a member is not reached directly its connection goes through a
third one (`dialling`).  It is one like any other, and keeps others from being dialled; so whoever
is connected so, and has an address, is dialled directly once in each `direct_again_s`, and a
connection that comes of it takes the relayed one's place, as the newer one.

**Idle connections.**  One task for all of them looks a few times in each `link_idle_s` which
connections carried no numbered frame for so long and are of no use at this end; those of peers
that are no neighbours it closes.  Neither end asks the other first: a session outlives its
connections, so a message that was under way is sent again on the next one, which the sender dials
because it is not acknowledged (M1-M3).  An agreement to close was refused: it would be one more
exchange with races of its own, to save a handshake in the rare case.
"""

from __future__ import annotations

import logging
import random
from contextlib import nullcontext
from typing import Generic, TypeVar

import trio

from steinadler.config import Config
from steinadler.errors import SecurityError
from steinadler.identity import Address, NodeId
from steinadler.transport.carrier import Carrier, Via
from steinadler.transport.delegate import Delegate
from steinadler.transport.dialling import Dialler, Relays
from steinadler.transport.handshake import Handshakes, Phase
from steinadler.transport.link import Link
from steinadler.transport.network import Network, PeerIdentity, SecureStream
from steinadler.transport.peer import NO_CONNECTION, Latest, Peer
from steinadler.wire.handshake import MAX_ADDRESSES, SessionOffer

logger = logging.getLogger("steinadler.transport")

# Proposed addresses that are dialled at once, and as many where somebody was; what is proposed
# beyond comes again.
MAX_PROPOSED = 16
# Looks at each connection in `link_idle_s`.
_LOOKS = 4
# Names with whose lives a session ended here that are remembered, in case they come back.
MAX_ENDED = 16_384


_T = TypeVar("_T")


class Remembered(Generic[_T]):
    """Something about each of the last MAX_ENDED names that it was put here for."""

    def __init__(self) -> None:
        self._by_name: dict[str, _T] = {}

    def put(self, name: str, what: _T) -> None:
        self._by_name.pop(name, None)  # to stand last
        self._by_name[name] = what
        if len(self._by_name) > MAX_ENDED:
            del self._by_name[next(iter(self._by_name))]

    def pop(self, name: str) -> _T | None:
        return self._by_name.pop(name, None)


class Connections:
    """All links of one node."""

    def __init__(
        self,
        network: Network,
        node: NodeId,
        config: Config,
        rng: random.Random,
        delegate: Delegate,
    ) -> None:
        self.identity = network.identity
        self._network = network
        self._config = config
        self._rng = rng
        self._delegate = delegate
        self._handshakes = Handshakes(
            network.identity, node, config.wire, delegate, network.judge_again
        )
        self._dialler = Dialler(
            network,
            self._handshakes,
            config.dial,
            rng,
            delegate,
            peer_called=self._peer,
            carry=self._start_carrying,
            forget_unused=self._forget_unused,
        )
        self._peers: dict[str, Peer] = {}
        # Addresses that are being dialled.
        self._proposed: set[Address] = set()
        self._again: set[Address] = set()
        self._dials_on_demand = trio.Semaphore(config.dial.max_handshakes)
        # The lives whose session this end gave up, in a life that they may go on with.
        self._given_up = Remembered[NodeId]()
        # The latest connections to those of whom there is no other record any more.
        self._latest = Remembered[Latest]()
        self._nursery: trio.Nursery | None = None

    # -- owner's side -------------------------------------------------------------------------

    async def run(
        self,
        host: str | None,
        port: int,
        *,
        listen: bool = True,
        task_status: trio.TaskStatus[tuple[Address, ...]] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Accept and dial until cancelled.  Started when the port is open.

        Raises `ConfigError` for a port that cannot be had, or labels that no peer would accept.
        """
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            if listen:
                found = await nursery.start(self._network.serve, host, port, self._accept)
                self._handshakes.addresses = found[:MAX_ADDRESSES]
            # Here, or the first peer that comes would find out.
            self._handshakes.hello(SessionOffer(0, 0, 0, 0))
            task_status.started(self._handshakes.addresses)
            nursery.start_soon(self._seek_direct_ways)
            try:
                await self._close_idle_connections()
            finally:  # whoever still sends must not start a task here
                self._handshakes.phase = Phase.CLOSED

    def use_relays(self, relays: Relays) -> None:
        """Reach members through others too, from now on."""
        self._dialler.relays = relays

    def welcome(self, carrier: Carrier) -> None:
        """Somebody has reached this node through a third one.  Takes ownership of the carrier."""
        if self._nursery is None or self._handshakes.phase is Phase.CLOSED:
            carrier.close()
        else:
            self._nursery.start_soon(self._network.welcome, carrier, self._accept)

    def is_direct(self, node: NodeId) -> bool:
        """Whether there is a connection to this life of a node that goes through nobody."""
        return self.link(node) is not None and self._peers[node.name].is_direct

    def links(self) -> list[Link]:
        """Every link that has not ended."""
        return [peer.link for peer in self._peers.values() if peer.link is not None]

    def peers(self) -> list[Peer]:
        """Every peer that there is a record of, linked or not."""
        return list(self._peers.values())

    def link(self, node: NodeId) -> Link | None:
        """The link to this life of a node."""
        peer = self._peers.get(node.name)
        link = peer.link if peer is not None else None
        return link if link is not None and link.node == node else None

    def remote_of(self, node: NodeId) -> Address | Via | None:
        """The far end of the latest connection to this life of a node."""
        return self._peers[node.name].remote if self.link(node) is not None else None

    def link_to_member(self, node: NodeId, addresses: tuple[Address, ...]) -> Link:
        """The link to a member, made now if there is none.

        It is connected by itself once something is to be sent on it, until `end`.
        """
        peer = self._peer(node.name)
        link = peer.link_to(node)
        peer.addresses = addresses
        return link

    def moved(self, node: NodeId, addresses: tuple[Address, ...]) -> None:
        """Dial a member there from now on, whenever there is a reason to."""
        if self.link(node) is not None:
            self._peer(node.name).moved(addresses)

    def keep_connected(self, node: NodeId, addresses: tuple[Address, ...]) -> None:
        """Be connected to this member from now on."""
        self.link_to_member(node, addresses)
        peer = self._peer(node.name)
        if not peer.neighbour:
            peer.neighbour = True
            peer.stop_dialling()  # it may wait behind others that are no neighbours
        self._dial_if_wanted(peer)

    def let_go(self, node: NodeId) -> None:
        """Be connected to this member only as long as that is of use."""
        if self.link(node) is not None:
            self._peer(node.name).let_go()

    def came_back(self, node: NodeId, addresses: tuple[Address, ...]) -> None:
        """A member that was given up is one again.

        Its end may have gone on with the session that ended here, and hold monitors that nobody
        here knows of.  So it is connected once, which tells it (D1).
        """
        if self._given_up.pop(node.name) == node:
            self.link_to_member(node, addresses).ask_for_connection()

    def end(self, node: NodeId, reason: str) -> None:
        """Give this life of a node up: its connection, its session, its re-dialling."""
        peer = self._peers.get(node.name)
        if peer is not None and peer.link is not None and peer.link.node == node:
            if peer.link.peer_token and not peer.link.to_observer:
                self._given_up.put(node.name, node)
            peer.end(reason)
            self._forget_unused(node.name)

    def identity_of(self, node: NodeId) -> PeerIdentity | None:
        """Who that life of a node is by its certificate, while it is connected."""
        link = self.link(node)
        return None if link is None or link.stream is None else link.stream.peer

    def judge_again(self) -> None:
        """Whom to trust has changed: connections whose peer would not be let in by what it showed
        are closed.

        Sessions stay: whoever has something better to show goes on with the next connection.
        """
        for link in self.links():
            if link.stream is not None:
                try:
                    self._network.judge_again(link.stream)
                except SecurityError as error:
                    logger.info("closed the connection to %s: %s", link.node, error)
                    link.close_connection()

    def propose(self, address: Address) -> None:
        """Dial `address` once, unless we are connected there or on the way, or MAX_PROPOSED others
        are being dialled.

        A host name stands for everybody behind it, and each is dialled: the one that answers
        first may be this node, or already connected.
        """
        self._dial_once(address, self._proposed)

    def dial_again(self, address: Address) -> None:
        """As `propose`, among MAX_PROPOSED places of its own."""
        self._dial_once(address, self._again)

    def _dial_once(self, address: Address, places: set[Address]) -> None:
        if (
            self._handshakes.phase is not Phase.OPEN
            or self._nursery is None
            or self._dialler.is_ourselves(address)
            or address in self._proposed | self._again
            or len(places) >= MAX_PROPOSED
            or any(peer.is_connected_at(address) for peer in self._peers.values())
        ):
            return
        places.add(address)
        self._nursery.start_soon(self._dial_proposed, address, places)

    async def drain(self) -> None:
        """Accept nothing more, and wait until every peer has what is queued for it.

        The caller bounds it: somebody may be out of reach.
        """
        if self._handshakes.phase is Phase.CLOSED:
            return
        self._handshakes.phase = Phase.DRAINING
        async with trio.open_nursery() as nursery:
            for link in self.links():
                nursery.start_soon(link.drain)

    async def say_goodbye(self, reason: str) -> None:
        """Tell every peer that this node leaves.

        The caller bounds it; cancellation leaves the rest unsaid.
        """
        async with trio.open_nursery() as nursery:
            for link in self.links():
                nursery.start_soon(link.say_goodbye, reason)

    def close(self, reason: str) -> None:
        """End every link, so that nobody waits for one any longer."""
        self._handshakes.phase = Phase.CLOSED
        for peer in list(self._peers.values()):
            peer.end(reason)
        self._peers.clear()

    # -- peers --------------------------------------------------------------------------------

    def _peer(self, name: str) -> Peer:
        peer = self._peers.get(name)
        if peer is None:
            latest = self._latest.pop(name) or NO_CONNECTION
            peer = self._peers[name] = Peer(
                name, self._config.wire, self._rng, self._delegate, self._dial_if_wanted, latest
            )
        return peer

    def _forget_unused(self, name: str) -> None:
        """Observers come and go under ever new names: only who is linked or dialled is kept."""
        peer = self._peers.get(name)
        if peer is not None and peer.unused:
            del self._peers[name]
            if peer.latest.highest:
                self._latest.put(name, peer.latest)

    def _start_carrying(self, peer: Peer, link: Link, stream: SecureStream, rest: bytes) -> None:
        assert self._nursery is not None
        self._nursery.start_soon(self._carry, peer, link, stream, rest)

    async def _carry(self, peer: Peer, link: Link, stream: SecureStream, rest: bytes) -> None:
        self._given_up.pop(peer.name)  # the handshake has told it
        await peer.carry(link, stream, rest)
        self._forget_unused(peer.name)

    # -- accepting ----------------------------------------------------------------------------

    async def _accept(self, stream: SecureStream) -> None:
        name = stream.peer.name
        try:
            heard = await self._handshakes.hear(stream)
            if heard is None:
                return
            if heard.reject is None:
                name = heard.hello.node.name  # an observer may go by more than its certificate's
            peer = self._peer(name)
            reject = heard.reject or peer.outranking(heard.hello)
            if reject is not None:
                await self._handshakes.refuse(stream, reject)
                return
            link = self._handshakes.answer(stream, peer, heard.hello)
            if link is not None:
                await self._carry(peer, link, stream, heard.rest)
        finally:
            stream.close_nowait()
            self._forget_unused(name)

    # -- dialling -----------------------------------------------------------------------------

    def _dial_if_wanted(self, peer: Peer) -> None:
        if (
            peer.dialler is None
            and self._nursery is not None
            and self._handshakes.phase is not Phase.CLOSED
            and peer.lacks_connection
        ):
            peer.dialler = trio.CancelScope()
            self._nursery.start_soon(self._dial, peer, peer.dialler)

    async def _dial(self, peer: Peer, scope: trio.CancelScope) -> None:
        """Dial until the peer is connected, or need not be, or is given up."""
        dial = self._config.dial
        failures = 0
        with scope:
            while peer.dialler is scope and peer.lacks_connection:
                link = peer.link
                assert link is not None
                changed = link.changed
                # Neighbours first: what membership makes of them cannot wait.
                async with nullcontext() if peer.neighbour else self._dials_on_demand:
                    connected = await self._dialler.dial_member(peer)
                if not connected:
                    delay = min(dial.first_backoff_s * 2**failures, dial.longest_backoff_s)
                    failures = min(failures + 1, 30)
                    with trio.move_on_after(delay * self._rng.uniform(0.5, 1)):
                        await changed.wait()
        if peer.dialler is scope:
            peer.dialler = None

    async def _seek_direct_ways(self) -> None:
        while True:
            await trio.sleep(self._config.dial.direct_again_s * self._rng.uniform(0.75, 1.25))
            for peer in self.peers():
                if peer.is_relayed and peer.addresses:
                    assert self._nursery is not None
                    self._nursery.start_soon(self._dial_directly, peer)

    async def _dial_directly(self, peer: Peer) -> None:
        async with self._dials_on_demand:
            if peer.is_relayed:
                await self._dialler.dial_directly(peer)

    async def _dial_proposed(self, address: Address, places: set[Address]) -> None:
        try:
            found = await self._dialler.dial_proposed(address)
        finally:
            places.discard(address)
        for each in found:
            self._dial_once(each, places)

    # -- idle connections ---------------------------------------------------------------------

    async def _close_idle_connections(self) -> None:
        idle_s = self._config.dial.link_idle_s
        while True:
            await trio.sleep(idle_s / _LOOKS)
            now = trio.current_time()
            for peer in self.peers():
                if peer.is_idle(idle_s, now):
                    assert peer.link is not None
                    peer.link.close_connection()
