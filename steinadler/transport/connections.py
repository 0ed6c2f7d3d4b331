"""One connection per peer: dialling, accepting, shaking hands, and choosing between two.

    keep_connected(member)  a task that re-dials, with backoff and jitter, until told to stop
    propose(address)        one dial to somebody that discovery saw
    incoming stream         the other end dialled

All three end in the same place: a Hello is judged, the session is resumed or begun, and the
stream is attached to the peer's `Link` if `ConnectionRank` says that it is the one to keep.
What the cluster makes of it (who may join, who is up) is the `Delegate`'s to decide.
"""

from __future__ import annotations

import logging
import random
from enum import Enum
from typing import Protocol

import trio

from steinadler.config import Config
from steinadler.errors import RemoteProtocolError
from steinadler.identity import Address, NodeId
from steinadler.transport.link import Link, LinkState
from steinadler.transport.network import DialError, Network, Role, SecureStream
from steinadler.wire.frames import MAX_FRAME_BYTES, Frame, FrameType, split_frame
from steinadler.wire.handshake import (
    MAX_ADDRESSES,
    ConnectionRank,
    Hello,
    Reject,
    RejectReason,
    decode_hello,
    decode_reject,
    encode_hello,
    encode_reject,
    judge_hello,
)
from steinadler.wire.session import Event, PeerLimits

logger = logging.getLogger("steinadler.transport")

# How many addresses' failures are remembered, so that discovery cannot make this grow.
MAX_COMPLAINTS = 1024


class Delegate(Protocol):
    """What `Connections` asks and tells its owner.  All plain functions: they must not wait."""

    def hello_facts(self) -> tuple[int, tuple[tuple[str, str], ...]]:
        """This node's present refutation number and labels."""

    def admit(self, hello: Hello) -> Reject | None:
        """May this life of this node connect?

        Raises `RemoteProtocolError` when what the Hello says cannot be.
        """

    def link_connected(self, link: Link, hello: Hello) -> None:
        """A connection is up (again)."""

    def link_disconnected(self, link: Link) -> None:
        """The connection broke; the session waits to be resumed."""

    def link_ended(self, link: Link, reason: str) -> None:
        """The session is over: nothing more goes to or comes from this link."""

    def session_lost(self, node: NodeId, reason: str) -> None:
        """After `link_ended`: the same life of the node goes on, with a new session."""

    def peer_refused(self, node: NodeId) -> None:
        """Where the peer used to listen, nobody listens, or somebody else does."""

    def rejected(self, reject: Reject, by: str) -> None:
        """The node called `by` would not have us."""

    def events(self, link: Link, events: list[Event]) -> None:
        """Something arrived."""


class DialOutcome(Enum):
    """How one attempt to reach a peer ended."""

    CONNECTED = "connected"
    REFUSED = "refused"
    FAILED = "failed"


class _Peer:
    """What is known of one peer name: its link, its dial, its addresses."""

    __slots__ = (
        "addresses",
        "dial_scope",
        "dialling",
        "found_at",
        "good_address",
        "keeper",
        "link",
        "offered",
    )

    def __init__(self) -> None:
        self.link: Link | None = None
        # What our Hellos offered while there was no link: the peer may have taken it up although
        # its answer was lost, so the next Hello offers the same.
        self.offered: Link | None = None
        self.dialling: ConnectionRank | None = None
        self.dial_scope: trio.CancelScope | None = None
        self.keeper: trio.CancelScope | None = None
        self.addresses: tuple[Address, ...] = ()
        # Where the peer was seen to be: only a refusal from there says something about it.
        self.good_address: Address | None = None
        # Where else the present link's peer was found, so that it is not dialled there for ever.
        self.found_at: set[Address] = set()


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
        self._node = node
        self._config = config
        self._rng = rng
        self._delegate = delegate
        self._peers: dict[str, _Peer] = {}
        self._dialling: set[Address] = set()  # of those that were proposed
        self._complaints: dict[Address, str] = {}  # the latest of each address, to log it once
        self._ourselves: set[Address] = set()  # where we found ourselves
        self._nursery: trio.Nursery | None = None
        self._closing = False
        self.addresses: tuple[Address, ...] = ()

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
                self.addresses = found[:MAX_ADDRESSES]
            # Here, or the first peer that comes would find out.
            encode_hello(self._hello(self._new_link(self._node, Role.NODE, 0), 0))
            task_status.started(self.addresses)
            await trio.sleep_forever()

    def links(self) -> list[Link]:
        """Every link that has not ended."""
        return [peer.link for peer in self._peers.values() if peer.link is not None]

    def link(self, node: NodeId) -> Link | None:
        """The link to this life of a node."""
        peer = self._peers.get(node.name)
        link = peer.link if peer is not None else None
        return link if link is not None and link.node == node else None

    def link_to_member(self, node: NodeId) -> Link:
        """The link to a member, made now if no connection did so yet."""
        peer = self._peer(node.name)
        if peer.link is None or peer.link.node != node:
            self._end(peer, "restarted")
            peer.link = self._new_link(node, Role.NODE, self._own_token(peer))
        return peer.link

    def keep_connected(self, node: NodeId, addresses: tuple[Address, ...]) -> None:
        """Be connected to this member from now on; also used when its addresses change."""
        peer = self._peer(node.name)
        peer.addresses = addresses
        self.link_to_member(node)
        if peer.keeper is None and self._nursery is not None:
            peer.keeper = trio.CancelScope()
            self._nursery.start_soon(self._keep, peer, node, peer.keeper)

    def end(self, node: NodeId, reason: str) -> None:
        """Give this life of a node up: its connection, its session, its re-dialling."""
        peer = self._peers.get(node.name)
        if peer is not None and peer.link is not None and peer.link.node == node:
            self._end(peer, reason)
            self._forget_unused(node.name)

    def propose(self, address: Address) -> None:
        """Dial `address` once, unless we are connected there or on the way."""
        if (
            self._closing
            or self._nursery is None
            or address in self.addresses
            or address in self._ourselves
            or address in self._dialling
            or len(self._dialling) >= self._config.dial.max_handshakes
            or any(self._is_connected_at(peer, address) for peer in self._peers.values())
        ):
            return
        self._dialling.add(address)
        self._nursery.start_soon(self._dial_proposed, address)

    async def drain(self) -> None:
        """Accept nothing more, and wait until every peer has what is queued for it.

        The caller bounds it.
        """
        self._closing = True
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
        self._closing = True
        for peer in list(self._peers.values()):
            self._end(peer, reason)
        self._peers.clear()

    # -- links --------------------------------------------------------------------------------

    def _peer(self, name: str) -> _Peer:
        return self._peers.setdefault(name, _Peer())

    def _forget_unused(self, name: str) -> None:
        """Observers come and go under ever new names: only who is linked or dialled is kept."""
        peer = self._peers.get(name)
        if peer is not None and not (peer.link or peer.dialling or peer.offered):
            del self._peers[name]

    @staticmethod
    def _is_connected_at(peer: _Peer, address: Address) -> bool:
        connected = peer.link is not None and peer.link.connected
        return connected and (
            address in peer.addresses or address == peer.good_address or address in peer.found_at
        )

    def _new_token(self) -> int:
        return self._rng.getrandbits(63) + 1  # never 0, which means "none"

    def _own_token(self, peer: _Peer) -> int:
        """The token for a new session: what our Hellos offered, if they did."""
        offered, peer.offered = peer.offered, None
        return self._new_token() if offered is None else offered.token

    def _new_link(self, node: NodeId, role: Role, token: int) -> Link:
        return Link(node, role, token, self._config.wire, self._delegate.events)

    def _end(self, peer: _Peer, reason: str) -> None:
        link = peer.link
        if link is not None:
            peer.link = None
            peer.found_at.clear()
            if peer.keeper is not None:
                # A handshake of it is left to end by itself: whoever is there may have taken it,
                # and have given up a dial of its own that we answered.
                if peer.dialling is None:
                    peer.keeper.cancel()
                peer.keeper = None
            link.end(reason)
            self._delegate.link_ended(link, reason)

    def _settle(self, peer: _Peer, hello: Hello, token: int) -> tuple[Link, int]:
        """The link that a Hello belongs to, and up to which frame the peer has what it sent.

        A session that the peer does not remember ends here, and a new one begins under `token`.
        """
        link = peer.link
        if link is not None and link.node == hello.node:
            if link.peer_token == 0:  # made for a member, and now connected for the first time
                link.token = token
                return link, 0
            if link.can_resume(hello.session):
                return link, hello.session.last_received
        addresses, keep = peer.addresses, peer.keeper is not None
        if link is not None:
            same_life = link.node == hello.node
            self._end(peer, "lost session" if same_life else "restarted")
            keep = keep and same_life
            if same_life and link.role is Role.NODE:
                self._delegate.session_lost(link.node, "lost session")
        peer.link = self._new_link(hello.node, Role(hello.role), token)
        if keep:
            self.keep_connected(hello.node, addresses)
        return peer.link, 0

    async def _carry(self, peer: _Peer, link: Link, stream: SecureStream, rest: bytes) -> None:
        """Run the attached connection to its end, and draw the consequences."""
        try:
            await link.run(stream, rest)
        except RemoteProtocolError as error:
            logger.warning("closed the connection to %s: protocol error: %s", link.node, error)
            if peer.link is link:
                self._lose_session(peer, link, f"protocol error: {error}")
        else:
            if peer.link is link and link.state is LinkState.WAITING:
                if link.role is Role.NODE:
                    self._delegate.link_disconnected(link)
                else:  # an observer that comes back comes back as another one
                    self._end(peer, "connection closed")
        self._forget_unused(link.node.name)

    def _lose_session(self, peer: _Peer, link: Link, reason: str) -> None:
        addresses, keep = peer.addresses, peer.keeper is not None
        self._delegate.link_disconnected(link)
        if peer.link is link:
            self._end(peer, reason)
            self._delegate.session_lost(link.node, reason)
            if keep:
                self.keep_connected(link.node, addresses)

    # -- shaking hands ------------------------------------------------------------------------

    def _hello(self, session_of: Link, number: int) -> Hello:
        refutation, labels = self._delegate.hello_facts()
        wire = self._config.wire
        identity = self._network.identity
        return Hello(
            cluster_id=identity.cluster_id,
            role=identity.role.value,
            node=self._node,
            refutation=refutation,
            addresses=self.addresses,
            labels=labels,
            features=(),
            limits=PeerLimits(
                wire.window_bytes,
                wire.max_message_bytes,
                wire.reassembly_bytes,
                wire.max_channels,
            ),
            session=session_of.offer(number),
        )

    def _judge(self, hello: Hello, stream: SecureStream) -> Reject | None:
        if self._closing:
            return Reject(RejectReason.CLOSING, "this node is shutting down")
        return judge_hello(
            hello,
            cluster_id=stream.peer.cluster_id,
            role=stream.peer.role.value,
            name=stream.peer.name,
            ourselves=self._node,
        ) or self._delegate.admit(hello)

    async def _accept(self, stream: SecureStream) -> None:
        try:
            with trio.fail_after(self._config.wire.handshake_timeout_s):
                frame, rest = await _first_frame(stream)
            if frame.type != FrameType.HELLO:
                raise RemoteProtocolError(f"a frame of type {frame.type:#04x} before the Hello")
            hello = decode_hello(frame.payload)
            reject = self._judge(hello, stream)
        except trio.BrokenResourceError as error:
            # A dialler that found a faster way to us; no more than that.
            logger.debug("%s at %s went away: %s", stream.peer, stream.remote, error)
            stream.close_nowait()
            return
        except (RemoteProtocolError, trio.TooSlowError) as error:
            what = "no Hello in time" if isinstance(error, trio.TooSlowError) else str(error)
            logger.warning("turned away %s at %s: %s", stream.peer, stream.remote, what)
            stream.close_nowait()
            return
        except BaseException:
            stream.close_nowait()
            raise
        peer = self._peer(stream.peer.name)
        reject = reject or self._outranked(peer, hello)
        if reject is not None:
            self._forget_unused(stream.peer.name)
            await self._refuse(stream, reject)
            return
        if peer.dial_scope is not None:
            peer.dial_scope.cancel()  # this connection is the one to keep
        link, last_received = self._settle(peer, hello, self._own_token(peer))
        link.peer_token = hello.session.token
        # The reply tells what has arrived so far, so it is made before anything new can.
        reply = encode_hello(self._hello(link, hello.session.connection_number))
        try:
            stream.write_nowait(reply)
            self._attach(peer, link, stream, hello, last_received, dialler=hello.node.name)
        except RemoteProtocolError as error:
            logger.warning("session with %s given up: %s", link.node, error)
            self._lose_session(peer, link, f"protocol error: {error}")
            stream.close_nowait()
            return
        except trio.BrokenResourceError:
            stream.close_nowait()
            return
        await self._carry(peer, link, stream, rest)

    def _outranked(self, peer: _Peer, hello: Hello) -> Reject | None:
        """Another connection to the same life that is the one to keep."""
        rank = ConnectionRank(hello.session.connection_number, hello.node.name)
        link = peer.link
        rivals = [peer.dialling] if peer.dialling is not None else []
        if link is not None and link.node == hello.node and link.connected:
            rivals.append(link.rank)
        for rival in rivals:
            if not rank.beats(rival):
                return Reject(RejectReason.SUPERSEDED, "another connection is kept", rival.number)
        return None

    async def _refuse(self, stream: SecureStream, reject: Reject) -> None:
        if reject.reason not in (RejectReason.SUPERSEDED, RejectReason.SELF):
            logger.warning("turned away %s at %s: %s", stream.peer, stream.remote, reject.detail)
        try:
            stream.write_nowait(encode_reject(reject))
            with trio.move_on_after(self._config.wire.handshake_timeout_s):
                await stream.flush()
                # The peer closes when it has read the reason; closing first could reset the
                # connection under it.
                while await stream.receive_some():
                    pass
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        finally:
            stream.close_nowait()

    def _attach(
        self,
        peer: _Peer,
        link: Link,
        stream: SecureStream,
        hello: Hello,
        last_received: int,
        *,
        dialler: str,
    ) -> None:
        link.peer_token = hello.session.token
        rank = ConnectionRank(hello.session.connection_number, dialler)
        link.attach(stream, rank, hello.limits, last_received)
        peer.addresses = hello.addresses
        if dialler == hello.node.name:
            peer.good_address = next(
                (a for a in hello.addresses if a.host == stream.remote.host),
                hello.addresses[0] if hello.addresses else None,
            )
        else:
            peer.good_address = stream.remote
        self._delegate.link_connected(link, hello)

    # -- dialling -----------------------------------------------------------------------------

    async def _keep(self, peer: _Peer, node: NodeId, scope: trio.CancelScope) -> None:
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

    async def _dial_member(self, peer: _Peer, node: NodeId) -> DialOutcome:
        good = peer.good_address
        addresses = sorted(peer.addresses, key=lambda address: address != good)
        if good is not None and good not in addresses:
            addresses.insert(0, good)
        result = DialOutcome.FAILED
        for address in addresses:
            outcome = await self._dial(address, node.name)
            if outcome is DialOutcome.CONNECTED:
                return outcome
            if outcome is DialOutcome.REFUSED and (good is None or address == good):
                result = outcome
        return result

    async def _dial_proposed(self, address: Address) -> None:
        try:
            await self._dial(address, None)
        finally:
            self._dialling.discard(address)

    async def _dial(self, address: Address, expected: str | None) -> DialOutcome:
        """Connect to `address` and shake hands, as whoever turns out to be there, or only if it
        is `expected`.  On success a task of its own carries the connection."""
        stream: SecureStream | None = None
        with trio.move_on_after(self._config.dial.dial_timeout_s) as scope:
            try:
                stream = await self._network.dial(address)
            except DialError as error:
                self._complain(address, str(error))
                return DialOutcome.REFUSED if error.refused else DialOutcome.FAILED
        if scope.cancelled_caught or stream is None:
            self._complain(address, "no answer in time")
            return DialOutcome.FAILED
        try:
            outcome = await self._greet(stream, address, expected)
        except (RemoteProtocolError, trio.BrokenResourceError) as error:
            self._complain(address, f"the handshake failed: {error}")
            outcome = DialOutcome.FAILED
        except BaseException:
            stream.close_nowait()
            raise
        if outcome is DialOutcome.CONNECTED:
            self._complaints.pop(address, None)
        else:
            stream.close_nowait()
            self._forget_unused(stream.peer.name)
        return outcome

    def _complain(self, address: Address, text: str) -> None:
        """Log a failure, once per address and kind of failure."""
        if self._complaints.get(address) != text:
            if len(self._complaints) >= MAX_COMPLAINTS:
                self._complaints.clear()
            self._complaints[address] = text
            logger.info("cannot connect to %s: %s", address, text)

    async def _greet(
        self, stream: SecureStream, address: Address, expected: str | None
    ) -> DialOutcome:
        name = stream.peer.name
        if stream.peer.role is not Role.NODE or expected not in (None, name):
            self._complain(address, f"{stream.peer} listens there now")
            return DialOutcome.REFUSED
        peer = self._peer(name)
        if peer.link is not None and peer.link.connected:
            if len(peer.found_at) < MAX_ADDRESSES:
                peer.found_at.add(address)
            return DialOutcome.FAILED
        if peer.dialling is not None:
            return DialOutcome.FAILED  # somebody else in here is faster
        link = peer.link
        # Before anything is agreed a link of no node in particular stands for the new session.
        offered = link or peer.offered
        if offered is None:
            offered = peer.offered = self._new_link(NodeId(name, 0), Role.NODE, self._new_token())
        rank = ConnectionRank(offered.rank.number + 1, self._node.name)
        with trio.move_on_after(self._config.wire.handshake_timeout_s) as scope:
            peer.dialling, peer.dial_scope = rank, scope
            try:
                stream.write_nowait(encode_hello(self._hello(offered, rank.number)))
                await stream.flush()
                frame, rest = await _first_frame(stream)
            finally:
                peer.dialling = peer.dial_scope = None
        if scope.cancel_called:  # also when the answer is here already: another was let in
            return DialOutcome.FAILED
        if frame.type == FrameType.REJECT:
            self._turned_away(offered, name, address, decode_reject(frame.payload))
            return DialOutcome.FAILED
        if frame.type != FrameType.HELLO:
            raise RemoteProtocolError(f"a frame of type {frame.type:#04x} before the Hello")
        hello = decode_hello(frame.payload)
        reject = self._judge(hello, stream)
        if reject is not None:
            self._complain(address, f"{stream.peer}: {reject.detail}")
            return DialOutcome.FAILED
        overtaken = peer.link is not link and peer.link is not None and peer.link.peer_token
        if overtaken or self._closing:
            return DialOutcome.FAILED
        settled, last_received = self._settle(peer, hello, offered.token)
        peer.offered = None
        try:
            self._attach(peer, settled, stream, hello, last_received, dialler=self._node.name)
        except RemoteProtocolError as error:
            self._lose_session(peer, settled, f"protocol error: {error}")
            raise
        assert self._nursery is not None
        self._nursery.start_soon(self._carry, peer, settled, stream, rest)
        return DialOutcome.CONNECTED

    def _turned_away(self, offered: Link, name: str, address: Address, reject: Reject) -> None:
        match reject.reason:
            case RejectReason.SUPERSEDED:
                # Our next dial must count as a newer connection than the one they hold on to.
                number = max(offered.rank.number, reject.connection_number)
                offered.rank = ConnectionRank(number, offered.rank.dialler)
            case RejectReason.SELF:
                self._ourselves.add(address)
            case _:
                self._complain(address, f"turned away ({reject.reason}): {reject.detail}")
                self._delegate.rejected(reject, name)


async def _first_frame(stream: SecureStream) -> tuple[Frame, bytes]:
    """The frame that a handshake begins with, and what came in behind it."""
    data = b""
    while True:
        split = split_frame(data)
        if split is not None:
            return split
        more = await stream.receive_some()
        if not more:
            raise trio.BrokenResourceError("the connection closed before the Hello was complete")
        data += more
        if len(data) > 2 * MAX_FRAME_BYTES and split_frame(data) is None:
            raise RemoteProtocolError("no frame in all that data")
