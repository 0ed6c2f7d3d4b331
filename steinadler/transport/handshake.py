"""Shaking hands: from an authenticated stream to an attached link, on either side.

    accepting   hear -> Heard, or nothing         dialling   greet -> Greeted, or a Reject,
                answer -> Link                                        or nothing
                refuse

`steinadler.wire.handshake` says what a Hello is and which of two connections is kept; this module
says the words on a stream, compares what comes back with the certificate (X3), and has the
`Delegate` decide whom the cluster wants.  It holds no peers: it is handed the `Peer` that the
stream's certificate names.

On the accepting side hearing and answering are two steps, and nothing waits between finding the
peer and answering it: what was true of the peer before its Hello arrived, which may take as long
as `handshake_timeout_s`, need not be true after it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

import trio

from steinadler.config import WireSettings
from steinadler.errors import RemoteProtocolError, SecurityError
from steinadler.identity import Address, NodeId
from steinadler.transport.delegate import Delegate
from steinadler.transport.link import Link, LinkState
from steinadler.transport.network import DialError, PeerIdentity, SecureStream
from steinadler.transport.peer import Peer
from steinadler.wire.frames import MAX_FRAME_BYTES, Frame, FrameType, split_frame
from steinadler.wire.handshake import (
    Hello,
    Reject,
    RejectReason,
    SessionOffer,
    decode_hello,
    decode_reject,
    encode_hello,
    encode_reject,
    judge_hello,
)
from steinadler.wire.session import PeerLimits

logger = logging.getLogger("steinadler.transport")


@dataclass(frozen=True, slots=True)
class Heard:
    """A dialler's Hello, what is to be said against it, and what came in behind it."""

    hello: Hello
    reject: Reject | None
    rest: bytes


@dataclass(frozen=True, slots=True)
class Greeted:
    """The link that a stream was attached to, and what came in behind the peer's Hello."""

    link: Link
    rest: bytes


class Phase(Enum):
    """What becomes of a handshake."""

    OPEN = "open"
    DRAINING = "draining"  # whoever comes is turned away; members are dialled for what is queued
    CLOSED = "closed"  # nobody is let in, whoever dialled


# What happens between nodes that come and go, with nobody at fault.
_UNREMARKABLE = (RejectReason.SUPERSEDED, RejectReason.SELF, RejectReason.CLOSING)


class Handshakes:
    """How one node introduces itself, and what it makes of who answers or comes.

    `addresses` is what Hellos say about where this node listens; `judge_again` raises
    `SecurityError` for a stream whose peer is not to be let in any more.
    """

    def __init__(
        self,
        identity: PeerIdentity,
        node: NodeId,
        settings: WireSettings,
        delegate: Delegate,
        judge_again: Callable[[SecureStream], None] = lambda _: None,
    ) -> None:
        self._identity = identity
        self._node = node
        self._settings = settings
        self._delegate = delegate
        self._judge_again = judge_again
        self.addresses: tuple[Address, ...] = ()
        self.phase = Phase.OPEN

    def hello(self, session: SessionOffer) -> bytes:
        """The HELLO frame that offers this session.

        Raises `ConfigError` for labels or addresses that no peer would accept.
        """
        refutation, labels = self._delegate.hello_facts()
        settings = self._settings
        return encode_hello(
            Hello(
                cluster_id=self._identity.cluster_id,
                role=self._identity.role,
                node=self._node,
                refutation=refutation,
                addresses=self.addresses,
                labels=labels,
                features=(),
                limits=PeerLimits(
                    settings.window_bytes,
                    settings.max_message_bytes,
                    settings.reassembly_bytes,
                    settings.max_channels,
                ),
                session=session,
            )
        )

    def _judge(self, hello: Hello, stream: SecureStream) -> Reject | None:
        try:  # whom to trust may have changed since the handshake of TLS
            self._judge_again(stream)
        except SecurityError as error:
            return Reject(RejectReason.IDENTITY, str(error))
        return judge_hello(
            hello,
            cluster_id=stream.peer.cluster_id,
            role=stream.peer.role,
            name=stream.peer.name,
            ourselves=self._node,
        ) or self._delegate.admit(hello)

    # -- accepting ----------------------------------------------------------------------------

    async def hear(self, stream: SecureStream) -> Heard | None:
        """Wait for the Hello of somebody who dialled, and judge it.

        None when it does not come in time, or is none; then the reason is logged.  The stream is
        the caller's to close.
        """
        try:
            with trio.fail_after(self._settings.handshake_timeout_s):
                frame, rest = await first_frame(stream)
            hello = _hello_in(frame)
            if self.phase is Phase.OPEN:
                return Heard(hello, self._judge(hello, stream), rest)
            return Heard(hello, Reject(RejectReason.CLOSING, "this node is shutting down"), rest)
        except trio.BrokenResourceError as error:
            # A dialler that found a faster way to us; no more than that.
            logger.debug("%s at %s went away: %s", stream.peer, stream.remote, error)
        except (RemoteProtocolError, trio.TooSlowError) as error:
            what = "no Hello in time" if isinstance(error, trio.TooSlowError) else str(error)
            logger.warning("turned away %s at %s: %s", stream.peer, stream.remote, what)
        return None

    def answer(self, stream: SecureStream, peer: Peer, hello: Hello) -> Link | None:
        """Take this connection for the peer's, and attach it.

        None when it broke, or the peer broke a rule, which costs it the session.
        """
        if peer.dial is not None:
            peer.dial.cancel()  # this connection is the one to keep
        link, last_received = peer.settle(hello, peer.take_token())
        try:
            # The reply tells what has arrived so far, so it is made before anything new can.
            stream.write_nowait(self.hello(link.offer(hello.session.connection_number)))
            peer.attach(link, stream, hello, last_received, dialler=hello.node.name)
        except RemoteProtocolError as error:
            logger.warning("session with %s given up: %s", link.node, error)
            return None
        except trio.BrokenResourceError:
            peer.broke_early(link)
            return None
        return link

    async def refuse(self, stream: SecureStream, reject: Reject) -> None:
        """Tell a dialler why not, and wait until it has read that, or for too long.

        The stream is the caller's to close.
        """
        if reject.reason not in _UNREMARKABLE:
            logger.warning("turned away %s at %s: %s", stream.peer, stream.remote, reject.detail)
        try:
            stream.write_nowait(encode_reject(reject))
            with trio.move_on_after(self._settings.handshake_timeout_s):
                await stream.flush()
                # The peer closes when it has read the reason; closing first could reset the
                # connection under it.
                while await stream.receive_some():
                    pass
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass

    # -- dialling -----------------------------------------------------------------------------

    async def greet(self, stream: SecureStream, peer: Peer) -> Greeted | Reject | None:
        """Introduce this node to the peer that it dialled, and attach what they agree on.

        A `Reject` is the peer's refusal.  None is no failure: another connection is kept, or the
        peer did not answer in time, or this node closes.  Raises `DialError` when this node will
        not have the peer, `RemoteProtocolError` when the peer broke a rule, and
        `trio.BrokenResourceError`.  The stream is the caller's to close.
        """
        link, offered = peer.link, peer.link_to_offer()
        number = peer.next_number(self._node.name)
        with trio.move_on_after(self._settings.handshake_timeout_s) as scope:
            peer.dial = scope
            try:
                stream.write_nowait(self.hello(offered.offer(number)))
                await stream.flush()
                frame, rest = await first_frame(stream)
            finally:
                peer.dial = None
        if scope.cancel_called:  # also when the answer is here already: another was let in
            return None
        if frame.type == FrameType.REJECT:
            reject = decode_reject(frame.payload)
            if reject.reason is not RejectReason.SUPERSEDED:
                return reject
            peer.outnumbered(reject.connection_number)
            return None
        hello = _hello_in(frame)
        refusal = self._judge(hello, stream)
        if refusal is not None:
            raise DialError(f"{stream.peer}: {refusal.detail}", refused=False)
        overtaken = peer.link is not link and peer.link is not None and peer.link.peer_token
        # The peer may have gone on with what was given up here meanwhile: the next Hello tells it.
        given_up = link is not None and link.state is LinkState.ENDED
        if overtaken or given_up or self.phase is Phase.CLOSED:
            return None
        settled, last_received = peer.settle(hello, offered.token)
        peer.attach(settled, stream, hello, last_received, dialler=self._node.name)
        return Greeted(settled, rest)


def _hello_in(frame: Frame) -> Hello:
    if frame.type != FrameType.HELLO:
        raise RemoteProtocolError(f"a frame of type {frame.type:#04x} before the Hello")
    return decode_hello(frame.payload)


async def first_frame(stream: SecureStream) -> tuple[Frame, bytes]:
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
