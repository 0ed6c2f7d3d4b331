"""The connections of one node: who is linked, kept connected, proposed and dialled.

    keep_connected(member)  a task that re-dials, with backoff and jitter, until told to stop
    propose(address)        one dial to all that discovery saw there
    incoming stream         the other end dialled

All three end in the same place: `Handshakes` has a Hello judged, and the stream is attached to the
link of the one `Peer` that the certificate names, if `ConnectionRank` says that it is the one to
keep.  One record per name is what makes it one connection per peer; a pool of streams with the
choice made at each message was refused, because order (M1) would then need a second rule.
What the cluster makes of it (who may join, who is up) is the `Delegate`'s to decide.
"""

from __future__ import annotations

import logging
import random
from enum import Enum

import trio

from steinadler.config import Config
from steinadler.errors import RemoteProtocolError, SecurityError
from steinadler.identity import Address, NodeId
from steinadler.transport.delegate import Delegate
from steinadler.transport.handshake import Greeted, Handshakes
from steinadler.transport.link import Link
from steinadler.transport.network import DialError, Network, SecureStream
from steinadler.transport.peer import Peer
from steinadler.wire.handshake import MAX_ADDRESSES, Reject, RejectReason, SessionOffer

logger = logging.getLogger("steinadler.transport")

# How many addresses are remembered for their failures, or as our own, so that neither discovery
# nor a peer's records can make this grow.
MAX_REMEMBERED = 1024
# How many of the addresses behind one name are dialled in one go; which ones, is drawn.
MAX_BEHIND_A_NAME = 16


class DialOutcome(Enum):
    """How one attempt to reach a peer ended."""

    CONNECTED = "connected"
    REFUSED = "refused"
    FAILED = "failed"


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
        self._network = network
        self._config = config
        self._rng = rng
        self._delegate = delegate
        self._handshakes = Handshakes(network.identity, node, config.wire, delegate)
        self._peers: dict[str, Peer] = {}
        self._dialling: set[Address] = set()  # of those that were proposed
        self._complaints: dict[Address, str] = {}  # the latest of each address, to log it once
        self._ourselves: set[Address] = set()  # where we found ourselves
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
            await trio.sleep_forever()

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

    def link_to_member(self, node: NodeId) -> Link:
        """The link to a member, made now if no connection did so yet."""
        return self._peer(node.name).link_to(node)

    def keep_connected(self, node: NodeId, addresses: tuple[Address, ...]) -> None:
        """Be connected to this member from now on; also used when its addresses change."""
        peer = self._peer(node.name)
        peer.addresses = addresses
        peer.link_to(node)
        if peer.keeper is None and self._nursery is not None:
            peer.keeper = trio.CancelScope()
            self._nursery.start_soon(self._keep, peer, node, peer.keeper)

    def end(self, node: NodeId, reason: str) -> None:
        """Give this life of a node up: its connection, its session, its re-dialling."""
        peer = self._peers.get(node.name)
        if peer is not None and peer.link is not None and peer.link.node == node:
            peer.end(reason)
            self._forget_unused(node.name)

    def propose(self, address: Address) -> None:
        """Dial `address` once, unless we are connected there or on the way.

        A host name stands for everybody behind it, and each is dialled: the one that answers
        first may be this node, or already connected.
        """
        if (
            self._handshakes.closing
            or self._nursery is None
            or address in self._handshakes.addresses
            or address in self._ourselves
            or address in self._dialling
            or len(self._dialling) >= self._config.dial.max_handshakes
            or any(peer.is_connected_at(address) for peer in self._peers.values())
        ):
            return
        self._dialling.add(address)
        self._nursery.start_soon(self._dial_proposed, address)

    async def drain(self) -> None:
        """Accept nothing more, and wait until every peer has what is queued for it.

        The caller bounds it.
        """
        self._handshakes.closing = True
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
        self._handshakes.closing = True
        for peer in list(self._peers.values()):
            peer.end(reason)
        self._peers.clear()

    # -- peers --------------------------------------------------------------------------------

    def _peer(self, name: str) -> Peer:
        peer = self._peers.get(name)
        if peer is None:
            peer = Peer(name, self._config.wire, self._rng, self._delegate)
            self._peers[name] = peer
        return peer

    def _forget_unused(self, name: str) -> None:
        """Observers come and go under ever new names: only who is linked or dialled is kept."""
        peer = self._peers.get(name)
        if peer is not None and peer.unused:
            del self._peers[name]

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
                await peer.carry(link, stream, heard.rest)
        finally:
            stream.close_nowait()
            self._forget_unused(name)

    # -- dialling -----------------------------------------------------------------------------

    async def _keep(self, peer: Peer, node: NodeId, scope: trio.CancelScope) -> None:
        """Dial until connected; dial again when the connection breaks; until told to stop."""
        dial = self._config.dial
        failures = 0
        with scope:
            while True:
                link = peer.link
                if link is None or link.node != node or peer.keeper is not scope:
                    return
                changed = link.changed
                if link.connected:
                    failures = 0
                    await changed.wait()
                    continue
                outcome = await self._dial_member(peer, node)
                if outcome is DialOutcome.REFUSED:
                    self._delegate.peer_refused(node)
                if outcome is not DialOutcome.CONNECTED:
                    delay = min(dial.first_backoff_s * 2**failures, dial.longest_backoff_s)
                    failures = min(failures + 1, 30)
                    with trio.move_on_after(delay * self._rng.uniform(0.5, 1)):
                        await changed.wait()

    async def _dial_member(self, peer: Peer, node: NodeId) -> DialOutcome:
        good = peer.good_address
        result = DialOutcome.FAILED
        for address in peer.addresses_to_dial():
            outcome = await self._dial(address, node.name)
            if outcome is DialOutcome.CONNECTED:
                return outcome
            if outcome is DialOutcome.REFUSED and (good is None or address == good):
                result = outcome
        return result

    async def _dial_proposed(self, address: Address) -> None:
        try:
            found = await self._look_up(address)
            if found == (address,):
                await self._dial(address, None)
        finally:
            self._dialling.discard(address)
        if found != (address,):
            for each in found:
                self.propose(each)

    async def _look_up(self, address: Address) -> tuple[Address, ...]:
        """What a proposed address stands for; nothing when that cannot be told."""
        try:
            found: tuple[Address, ...] | None = None
            with trio.move_on_after(self._config.dial.dial_timeout_s):
                found = await self._network.look_up(address)
            if found is None:
                raise DialError("the name was not found in time", refused=False)
        except DialError as error:
            self._complain(address, str(error))
            return ()
        if found != (address,):
            self._complaints.pop(address, None)
        if len(found) > MAX_BEHIND_A_NAME:
            return tuple(self._rng.sample(found, MAX_BEHIND_A_NAME))
        return found

    async def _dial(self, address: Address, expected: str | None) -> DialOutcome:
        """Connect to `address` and shake hands, as whoever turns out to be there, or only if it
        is `expected`.  On success a task of its own carries the connection."""
        stream: SecureStream | None = None
        connected = False
        try:
            with trio.move_on_after(self._config.dial.dial_timeout_s):
                stream = await self._network.dial(address)
            if stream is None:
                raise DialError("no answer in time", refused=False)
            connected = await self._greet(stream, address, expected)
        except DialError as error:
            unlike = isinstance(error.__cause__, SecurityError)  # somebody has to do something
            self._complain(address, str(error), logging.WARNING if unlike else logging.INFO)
            if error.refused:
                return DialOutcome.REFUSED
        except (RemoteProtocolError, trio.BrokenResourceError) as error:
            self._complain(address, f"the handshake failed: {error}")
        finally:
            if stream is not None and not connected:
                stream.close_nowait()
                self._forget_unused(stream.peer.name)
        if not connected:
            return DialOutcome.FAILED
        self._complaints.pop(address, None)
        return DialOutcome.CONNECTED

    async def _greet(self, stream: SecureStream, address: Address, expected: str | None) -> bool:
        """Shake hands with whoever is there, unless we are connected to it or about to be."""
        name = stream.peer.name
        if stream.peer.is_observer or expected not in (None, name):
            raise DialError(f"{stream.peer} listens there now", refused=True)
        peer = self._peer(name)
        if peer.connected:
            peer.was_found_at(address)
            return False
        if peer.dial is not None:
            return False  # somebody else in here is faster
        match await self._handshakes.greet(stream, peer):
            case Greeted(link, rest):
                assert self._nursery is not None
                self._nursery.start_soon(self._carry, peer, link, stream, rest)
                return True
            case Reject(RejectReason.SELF):
                if len(self._ourselves) >= MAX_REMEMBERED:
                    self._ourselves.clear()
                self._ourselves.add(address)
            case Reject() as reject:
                self._complain(address, f"turned away ({reject.reason}): {reject.detail}")
                self._delegate.rejected(reject, name)
            case None:
                pass
        return False

    async def _carry(self, peer: Peer, link: Link, stream: SecureStream, rest: bytes) -> None:
        await peer.carry(link, stream, rest)
        self._forget_unused(peer.name)

    def _complain(self, address: Address, text: str, level: int = logging.INFO) -> None:
        """Log a failure, once per address and kind of failure."""
        if self._complaints.get(address) != text:
            if len(self._complaints) >= MAX_REMEMBERED:
                self._complaints.clear()
            self._complaints[address] = text
            logger.log(level, "cannot connect to %s: %s", address, text)
