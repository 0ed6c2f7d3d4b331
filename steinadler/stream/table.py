"""The directions of streams that are open at one node, by peer and target.

    arrived       data and ends of peers, to their inlets
    signalled     a peer reads one no more, or gave up opening one
    peer_lost     the end of every one with that peer (M4)

A direction is in the table from its making until it has ended, or its end here was closed; what
comes later for it means nothing, and is answered with a stop, once, in case the peer does not know.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable, Container
from dataclasses import dataclass
from typing import Protocol

import trio

from steinadler.errors import ClaimError, NodeDown, RemoteError, RemoteProtocolError
from steinadler.identity import NodeId
from steinadler.stream.inlet import Inlet
from steinadler.stream.outlet import LocalOutlet, Outlet, PeerOutlet, SendingEnd, failure_from
from steinadler.stream.statistics import StreamStatistics
from steinadler.transport.link import Link
from steinadler.wire import plain
from steinadler.wire.channels import CONTROL, InboundChannel, Target, ToStream
from steinadler.wire.frames import FrameType
from steinadler.wire.session import Arrived
from steinadler.wire.signals import Failure, Signal, StreamAbort, StreamStop, failure_of

Post = Callable[[NodeId, Target, Signal], None]

_GIVEN_UP: Failure = ("Cancelled", "whoever opened the stream gave up")


class Links(Protocol):
    """Where the way to a peer is found."""

    def link_to_life(self, node: NodeId) -> Link: ...


class _ChannelSource:
    """What a stream's channel brings, and where its credit goes back to."""

    __slots__ = ("channel", "inlet", "link")

    def __init__(self, link: Link, channel: InboundChannel, inlet: Inlet) -> None:
        self.link = link
        self.channel = channel
        self.inlet = inlet

    def consumed(self, body_bytes: int, items: int) -> None:
        if self.link.session.consumed(self.channel, body_bytes, items):
            self.link.flush()


class StreamTable:
    """Inlets and sending ends.  One of each for a stream within the node: it is its own peer."""

    def __init__(self, me: NodeId, links: Links, post: Post, window_bytes: int) -> None:
        self._me = me
        self._links = links
        self._post = post
        self._window_bytes = window_bytes
        self._inlets: dict[tuple[NodeId, ToStream], Inlet] = {}
        self._sending: dict[tuple[NodeId, ToStream], SendingEnd] = {}
        self._opened_by: Counter[NodeId] = Counter()
        self._past_sent_bytes = self._past_received_bytes = 0  # of ends that are gone

    # -- ends ---------------------------------------------------------------------------------

    def require_unused(self, opener: NodeId, number: int) -> None:
        """Raise `RemoteProtocolError` when a stream that a node opened to this one is there.

        Before anything is made of it: what was half made would be nobody's to close.
        """
        arriving, leaving = ToStream(number, by_sender=True), ToStream(number, by_sender=False)
        if (opener, arriving) in self._inlets or (opener, leaving) in self._sending:
            raise RemoteProtocolError(f"stream {number} is open already")

    def new_inlet(
        self, peer: NodeId, target: ToStream, carries: FrameType, service: str | None = None
    ) -> Inlet:
        """Make the end at which something will arrive."""
        inlet = Inlet(peer, target, carries, self._inlet_gone)
        inlet.service = service
        self.add_inlet(inlet)
        return inlet

    def add_inlet(self, inlet: Inlet) -> None:
        """As `new_inlet`, for one that was given another sender."""
        self._inlets[inlet.peer, inlet.target] = inlet
        if inlet.target.by_sender and not self._has_other(inlet, self._sending):
            self._opened_by[inlet.peer] += 1

    def remove_inlet(self, inlet: Inlet) -> bool:
        """Take it out; False when it was not in."""
        key = (inlet.peer, inlet.target)
        if self._inlets.get(key) is not inlet:
            return False
        del self._inlets[key]
        self._past_received_bytes += inlet.received_bytes
        if inlet.target.by_sender and not self._has_other(inlet, self._sending):
            self._forget_one_of(inlet.peer)
        return True

    def new_sending(self, peer: NodeId, target: ToStream, service: str | None = None) -> SendingEnd:
        """Make the end from which something will be sent, once it has an outlet."""
        sending = SendingEnd(peer, target, self.remove_sending)
        sending.service = service
        self.add_sending(sending)
        return sending

    def add_sending(self, sending: SendingEnd) -> None:
        """As `new_sending`, for one that was given another receiver."""
        self._sending[sending.peer, sending.target] = sending
        if not sending.target.by_sender and not self._has_other(sending, self._inlets):
            self._opened_by[sending.peer] += 1

    def remove_sending(self, sending: SendingEnd) -> None:
        """Take it out, if it is in."""
        key = (sending.peer, sending.target)
        if self._sending.get(key) is sending:
            del self._sending[key]
            self._past_sent_bytes += sending.sent_bytes
            if not sending.target.by_sender and not self._has_other(sending, self._inlets):
                self._forget_one_of(sending.peer)

    def opened_by(self, peer: NodeId) -> int:
        """How many streams that a peer opened have not ended here in both directions, or hold what
        nobody has taken."""
        return self._opened_by[peer]

    def _has_other(
        self, end: Inlet | SendingEnd, others: Container[tuple[NodeId, ToStream]]
    ) -> bool:
        """Whether the other direction of the same stream is among `others`."""
        number, by_sender = end.target.number, end.target.by_sender
        return (end.peer, ToStream(number, not by_sender)) in others

    def _forget_one_of(self, peer: NodeId) -> None:
        self._opened_by[peer] -= 1
        if not self._opened_by[peer]:
            del self._opened_by[peer]

    def outlet(self, peer: NodeId, target: ToStream) -> Outlet:
        """The way to an end that is there.

        Raises `NodeDown`, or `ClaimError` when that end is of this node and was closed.
        """
        if peer != self._me:
            return PeerOutlet(self._links.link_to_life(peer), target)
        inlet = self._inlets.get((peer, target))
        if inlet is None:
            raise ClaimError("the other end was closed")
        return LocalOutlet(inlet, self._window_bytes)

    def forget(self, peer: NodeId, number: int) -> None:
        """What was made to be opened with a peer will not be."""
        inlet = self._inlets.get((peer, ToStream(number, by_sender=False)))
        if inlet is not None:
            self.remove_inlet(inlet)
            inlet.close()  # what comes for it all the same is dropped
        sending = self._sending.get((peer, ToStream(number, by_sender=True)))
        if sending is not None:
            self.remove_sending(sending)

    def _inlet_gone(self, inlet: Inlet, error: BaseException | None) -> None:
        if self.remove_inlet(inlet) and not inlet.ended:
            self._stop(inlet.peer, inlet.target, failure_from(error))

    def _stop(self, peer: NodeId, target: ToStream, failure: Failure | None) -> None:
        self._post(peer, CONTROL, StreamStop(target.number, target.by_sender, failure))

    # -- what peers send ----------------------------------------------------------------------

    def arrived(self, link: Link, items: Arrived) -> None:
        """Something came on a stream's channel.

        Raises `RemoteProtocolError` for what does not belong there.
        """
        channel = items.channel
        source = channel.mailbox
        if not isinstance(source, _ChannelSource):
            source = channel.mailbox = self._source(link, channel, items)
        inlet = source.inlet
        if items.type is FrameType.CLOSE:
            (reason,) = items.bodies
            inlet.finish(RemoteError(*failure_of(plain.loads(reason))) if reason else None)
        elif items.type is not inlet.carries:
            raise RemoteProtocolError(f"{items.type.name} on stream {inlet.target.number}")
        else:
            inlet.put(source, items.bodies)

    def _source(self, link: Link, channel: InboundChannel, items: Arrived) -> _ChannelSource:
        target = channel.target
        assert isinstance(target, ToStream)
        inlet = self._inlets.get((link.node, target))
        if inlet is None:  # it was closed, or never was: what comes for it is dropped
            inlet = Inlet(link.node, target, items.type, lambda inlet, error: None)
            inlet.close()
            if items.type is not FrameType.CLOSE:
                self._stop(link.node, target, None)
        elif inlet.source is not None:
            raise RemoteProtocolError(f"a second channel to stream {target.number}")
        return _ChannelSource(link, channel, inlet)

    def signalled(self, peer: NodeId, signal: StreamStop | StreamAbort) -> None:
        """A peer reads no more, or gave up opening a stream."""
        match signal:
            case StreamStop(number, by_sender, failure):
                self._break_off(peer, ToStream(number, by_sender), failure)
            case StreamAbort(number):
                self._break_off(peer, ToStream(number, by_sender=False), _GIVEN_UP)
                inlet = self._inlets.get((peer, ToStream(number, by_sender=True)))
                if inlet is not None:
                    inlet.finish(RemoteError(*_GIVEN_UP))

    def _break_off(self, peer: NodeId, target: ToStream, failure: Failure | None) -> None:
        sending = self._sending.get((peer, target))
        if sending is not None:
            sending.break_off(closed_by_receiver(failure))

    def peer_lost(self, peer: NodeId, reason: str) -> None:
        """A peer is down, or the session with it was lost: so is every stream."""
        for inlet in [inlet for (node, _), inlet in self._inlets.items() if node == peer]:
            inlet.finish(NodeDown(peer.name, reason))
        for sending in [end for (node, _), end in self._sending.items() if node == peer]:
            sending.lose(NodeDown(peer.name, reason))

    # -- figures ------------------------------------------------------------------------------

    def open_by_peer(self) -> Counter[NodeId]:
        """How many ends of streams with each peer are open here."""
        ends = {(peer, target.number, target.by_sender) for peer, target in self._sending}
        ends.update((peer, target.number, not target.by_sender) for peer, target in self._inlets)
        return Counter(peer for peer, _, _ in ends)

    def bytes_sent(self) -> int:
        """What programs here sent on streams since the node opened."""
        return self._past_sent_bytes + sum(end.sent_bytes for end in self._sending.values())

    def bytes_received(self) -> int:
        """What arrived on streams here since the node opened."""
        return self._past_received_bytes + sum(end.received_bytes for end in self._inlets.values())

    def statistics(self, busiest: int | None = None) -> tuple[StreamStatistics, ...]:
        """Every end of a stream that is open here; or so many, those that carried most first."""
        found: dict[tuple[NodeId, int, bool], _Figures] = {}
        for (peer, target), sending in self._sending.items():
            figures = found.setdefault((peer, target.number, target.by_sender), _Figures())
            figures.service, figures.sent = sending.service, sending.sent_bytes
        for (peer, target), inlet in self._inlets.items():
            figures = found.setdefault((peer, target.number, not target.by_sender), _Figures())
            figures.service, figures.received = inlet.service, inlet.received_bytes
            figures.waiting = inlet.waiting_bytes
        chosen = list(found.items())
        if busiest is not None:
            chosen = heapq.nlargest(busiest, chosen, key=lambda end: end[1].sent + end[1].received)
        return tuple(
            StreamStatistics(*key, each.service, each.sent, each.received, each.waiting)
            for key, each in chosen
        )


@dataclass(slots=True)
class _Figures:
    """Of both directions of one end."""

    service: str | None = None
    sent: int = 0
    received: int = 0
    waiting: int = 0


def closed_by_receiver(failure: Failure | None) -> trio.BrokenResourceError:
    """What a sender is told whose receiver reads no more."""
    if failure is None:
        return trio.BrokenResourceError("the receiving end was closed")
    cause = RemoteError(*failure)
    error = trio.BrokenResourceError(f"the receiving end was closed: {cause}")
    error.__cause__ = cause
    return error
