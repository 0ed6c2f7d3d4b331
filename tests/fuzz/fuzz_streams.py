"""What a node does with streams, for the fuzzer: its tables and its services, without the node.

Beside the invariant of `fuzz_targets`: a stream that is in the tables is somebody's, who can close
it, and what waits in it has been paid for with its credit.
"""

from __future__ import annotations

import random
from contextlib import suppress
from types import SimpleNamespace
from typing import Any

from steinadler.config import StreamSettings, WireSettings
from steinadler.errors import RemoteProtocolError, SteinadlerError
from steinadler.identity import NodeId
from steinadler.security.policy import Action
from steinadler.stream.byte_stream import ByteStream
from steinadler.stream.inlet import Inlet
from steinadler.stream.outlet import SendingEnd
from steinadler.stream.service import _answer
from steinadler.stream.streams import Streams
from steinadler.transport.link import LinkState
from steinadler.wire.channels import CONTROL, ITEM_OVERHEAD_BYTES, Target, ToStream
from steinadler.wire.codec import Codec, MessageTypes
from steinadler.wire.frames import FrameType
from steinadler.wire.session import Arrived, Session
from steinadler.wire.signals import (
    Signal,
    StreamAbort,
    StreamStop,
    decode_signal,
    encode_signal,
)

BACKLOG, MAX_STREAMS = 4, 6
# What is on offer, as a peer that was given them would claim them.
SOURCE_TOKEN, SINK_TOKEN = 1, 2


class Link:
    """One without a connection."""

    wants_flush = False
    state = LinkState.CONNECTED

    def __init__(self, node: NodeId, session: Session) -> None:
        self.node = node
        self.session = session

    def flush(self) -> None: ...
    def wake_for_credit(self, target: Target) -> None: ...
    def wake_all_for_credit(self, target: Target) -> None: ...


class Counting(random.Random):
    """Tokens that an input can know."""

    def __init__(self) -> None:
        self._next = 0

    def getrandbits(self, k: int, /) -> int:
        self._next += 1
        return self._next - 1


class OpenGate:
    """Lets everybody do everything; see `steinadler.security.policy.Gate`."""

    def require(self, caller: NodeId, action: Action, target: str) -> None: ...
    def require_of_us(self, action: Action, target: str) -> None: ...
    def may(self, node: NodeId, action: Action, target: str) -> bool:
        return True


class Cluster:
    """A node that knows one peer; see `steinadler.stream.streams.Cluster`."""

    def __init__(self, me: NodeId, link: Link) -> None:
        self.id = me
        self.guard = OpenGate()
        self._link = link
        self.streams: Streams | None = None

    def members(self) -> tuple[Any, ...]:
        return ()

    def link_to_life(self, node: NodeId) -> Link:
        assert node == self._link.node
        return self._link

    def post(self, node: NodeId, target: Target, signal: Signal) -> None:
        if node == self.id:
            assert self.streams is not None
            assert isinstance(signal, (StreamStop, StreamAbort))
            self.streams.table.signalled(node, signal)
        else:
            assert target == CONTROL
            self._link.session.enqueue_signal(encode_signal(signal), target)

    def set_own_label(self, name: str, value: str | None) -> None: ...
    def require_open(self) -> None: ...


class StreamsOfANode:
    """A service with a backlog, streams that the peer has to this node, and two ends on offer."""

    def __init__(self, me: NodeId, peer: NodeId, session: Session, wire: WireSettings) -> None:
        self._wire = wire
        self._codec = Codec(MessageTypes(), wire.max_message_bytes)
        self._link = Link(peer, session)
        cluster = Cluster(me, self._link)
        settings = StreamSettings(max_streams=MAX_STREAMS)
        self._streams = cluster.streams = Streams(
            cluster,  # type: ignore[arg-type]
            self._codec,
            settings,
            wire.window_bytes,
            Counting(),
        )
        self._table = self._streams.table
        self._listener = self._streams.listen("service", BACKLOG)
        # As `connect` and `claim` leave them when the peer has answered.
        self._inlets = [
            self._table.new_inlet(peer, ToStream(number, by_sender=False), carries)
            for number, carries in ((1, FrameType.BYTES), (2, FrameType.MESSAGES))
        ]
        for number in (1, 3):
            sending = self._table.new_sending(peer, ToStream(number, by_sender=True))
            sending.bind(self._table.outlet(peer, sending.target))
        # Two ends on offer, as `open_channel` and `ref` leave them.
        self._source = SendingEnd(me, ToStream(1, by_sender=True), self._table.remove_sending)
        self._sink = Inlet(
            me, ToStream(2, by_sender=True), FrameType.MESSAGES, self._table._inlet_gone
        )
        assert self._streams._offers.add(self._source, 0.0) == SOURCE_TOKEN
        assert self._streams._offers.add(self._sink, 0.0) == SINK_TOKEN
        self._accepted: list[ByteStream] = []

    def react(self, items: Arrived) -> None:
        """As a node would."""
        if isinstance(items.channel.target, ToStream):
            self._table.arrived(self._link, items)  # type: ignore[arg-type]
        elif items.type is FrameType.SIGNALS:
            for body in items.bodies:
                signal = decode_signal(body)
                if isinstance(signal, (StreamStop, StreamAbort)):
                    self._table.signalled(self._link.node, signal)
        elif items.type is FrameType.CALLS:
            for body in items.bodies:
                self._call(body[8:])

    def _call(self, body: bytes) -> None:
        try:
            request = self._codec.decode(body)
        except RemoteProtocolError:
            return
        call: Any = SimpleNamespace(request=request, caller=self._link.node, reply=lambda: None)
        with suppress(SteinadlerError):  # the caller's to hear
            _answer(self._streams, call)

    def use(self) -> None:
        """Programs accept, receive a little, send a little and close some."""
        while self._listener._waiting:
            self._accepted.append(self._listener._waiting.popleft())
        for number, stream in enumerate(self._accepted):
            stream._inlet.take_bytes(100)
            if stream._sending.open:
                stream._sending.offer_bytes(memoryview(b"answer"))
            if number % 3 == 2:
                stream.close()
        for inlet in self._inlets:
            inlet.take()

    def check(self) -> None:
        table = self._table
        peer = self._link.node
        streams = [*self._accepted, *self._listener._waiting]
        inlets = {*map(id, self._inlets), *(id(s._inlet) for s in streams)}
        inlets.add(id(self._sink))
        assert {id(inlet) for inlet in table._inlets.values()} <= inlets
        opened = {to.number for node, to in table._inlets if node == peer and to.by_sender}
        opened |= {to.number for node, to in table._sending if node == peer and not to.by_sender}
        assert table.opened_by(peer) == len(opened)
        assert len(opened) <= MAX_STREAMS + 2, "the two ends on offer count, and are not refused"
        assert len(self._listener._waiting) <= BACKLOG
        most = self._wire.window_bytes + self._wire.max_message_bytes + ITEM_OVERHEAD_BYTES
        for inlet in table._inlets.values():
            assert 0 <= inlet.waiting_bytes <= most
            assert inlet.waiting_bytes == sum(map(len, inlet._arrived or ()))
        for (node, target), sending in table._sending.items():
            assert sending.open, "what has ended is in no table"
            assert (sending.peer, sending.target) == (node, target)
        table.statistics()

    def lose_the_peer(self) -> None:
        """M4: then there is nothing of it but what had arrived, and can be taken still."""
        self._table.peer_lost(self._link.node, "gone")
        for (node, _), inlet in self._table._inlets.items():
            assert node != self._link.node or (inlet.ended and inlet.waiting_bytes)
        assert not any(node == self._link.node for node, _ in self._table._sending)
