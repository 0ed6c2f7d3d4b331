"""A session: what two lives of two nodes keep while TCP connections come and go.

    send side                                  receive side
    queues of items, one per channel           frames, in order
      -> scheduler (control, messages, bulk)     -> sequence check
      -> frames, numbered                        -> channels, credit, reassembly
      -> batches, kept until acknowledged        -> events for the node

Numbered frames carry 1, 2, 3, ... and the receiver accepts only the next number, so within a
session nothing can arrive twice or out of order (M1, M2).  Acknowledgements are cumulative and
ride on whatever is written next.  When a connection breaks, both ends remember the last number
they saw; the next connection's handshake tells it to the other, which sends again from there
(M3).  What is kept for that is bounded by `max_unacknowledged_bytes`.

Sans-IO: `receive` takes bytes and returns events, `data_to_send` returns bytes.  The alternative,
acknowledging every message to its sender, was refused: it costs a round trip per message and
still needs numbers to drop duplicates.
"""

from __future__ import annotations

import struct
from collections import deque
from dataclasses import dataclass
from typing import TypeAlias

from steinadler.config import WireSettings
from steinadler.errors import LocalProtocolError, RemoteProtocolError
from steinadler.identity import MAX_PROCESS_NAME_BYTES
from steinadler.wire.channels import (
    CONTROL,
    FIRST_FREE_CHANNEL,
    ITEM_OVERHEAD_BYTES,
    REPLIES,
    InboundChannel,
    OutboundChannel,
    Priority,
    Reassembly,
    Target,
    ToName,
    ToNode,
    ToProcess,
)
from steinadler.wire.frames import (
    FIRST_FRAGMENT_BYTES,
    FLAG_FIRST,
    HEADER,
    HEADER_BYTES,
    IGNORABLE,
    ITEM_TYPES,
    MAX_ITEM_BYTES,
    MAX_PAYLOAD_BYTES,
    NUMBERED,
    Frame,
    FrameReader,
    FrameType,
    encode_frame,
    pack_first_fragment,
    pack_items,
    unpack_first_fragment,
    unpack_items,
)

# One write is about this large: enough to amortise a system call, little enough that control
# frames queued meanwhile go out soon.
BATCH_BYTES = 65_536
# Received but unacknowledged frames' bytes that force an acknowledgement without delay.
ACKNOWLEDGE_AFTER_BYTES = 262_144

_ITEM_TYPES = {int(type_): type_ for type_ in ITEM_TYPES}  # a look-up costs less than an enum call
MAX_GOODBYE_BYTES = 1024

_GRANT = struct.Struct(">Q")
_NUMBER = struct.Struct(">Q")
_KIND_PROCESS, _KIND_NAME, _KIND_NODE = 0, 1, 2


@dataclass(frozen=True, slots=True)
class PeerLimits:
    """What the other end said in its Hello that it can take."""

    window_bytes: int
    max_message_bytes: int
    reassembly_bytes: int


@dataclass(slots=True)
class Arrived:
    """Items of one type came in on one channel."""

    channel: InboundChannel
    type: FrameType
    bodies: list[bytes]


@dataclass(frozen=True, slots=True)
class Gossiped:
    """A membership message."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Granted:
    """A channel has credit again; whoever waits for it may go on."""

    target: Target


@dataclass(frozen=True, slots=True)
class GoodbyeReceived:
    """The peer leaves for good."""

    reason: str


Event: TypeAlias = Arrived | Gossiped | Granted | GoodbyeReceived


@dataclass(slots=True)
class SessionCounters:
    """What a session has done so far."""

    bytes_sent: int = 0
    bytes_received: int = 0
    items_sent: int = 0
    items_received: int = 0
    bytes_retransmitted: int = 0
    resumptions: int = 0


class _Frames:
    """A batch in the making."""

    __slots__ = ("parts", "size")

    def __init__(self) -> None:
        self.parts: list[bytes] = []
        self.size = 0

    def add(self, frame: bytes) -> None:
        self.parts.append(frame)
        self.size += len(frame)


@dataclass(frozen=True, slots=True)
class _Batch:
    """Numbered frames as they were written, until the peer has them."""

    last_sequence: int
    data: bytes


def _encode_target(target: Target) -> bytes:
    match target:
        case ToProcess(number):
            return bytes((_KIND_PROCESS,)) + _NUMBER.pack(number)
        case ToName(name):
            return bytes((_KIND_NAME,)) + name.encode()
        case ToNode(lane):
            return bytes((_KIND_NODE,)) + _NUMBER.pack(lane)


def _decode_target(payload: bytes) -> Target:
    try:
        match payload[0]:
            case 0:
                return ToProcess(_NUMBER.unpack(payload[1:])[0])
            case 1 if 1 < len(payload) <= 1 + MAX_PROCESS_NAME_BYTES:
                return ToName(payload[1:].decode())
            case 2:
                return ToNode(_NUMBER.unpack(payload[1:])[0])
    except (struct.error, UnicodeDecodeError, IndexError) as error:
        raise RemoteProtocolError(f"a channel's target does not decode: {error}") from error
    raise RemoteProtocolError("a channel to an unknown kind of target")


class Session:
    """Both directions of one session.  Make one per pair of node lives that found each other.

    Until `connected` was called for the first time no channel has credit, and nothing is sent.
    """

    def __init__(self, settings: WireSettings) -> None:
        self._settings = settings
        self.counters = SessionCounters()
        self.max_message_bytes = settings.max_message_bytes  # what both ends can take
        self._peer: PeerLimits | None = None
        # Sending.
        self._outbound: dict[Target, OutboundChannel] = {}
        self._next_channel = FIRST_FREE_CHANNEL
        self._next_lane = REPLIES.lane + 1
        self._rings: tuple[deque[OutboundChannel], ...] = tuple(deque() for _ in Priority)
        self._by_id: dict[int, OutboundChannel] = {}
        self._housekeeping: deque[tuple[FrameType, int, bytes]] = deque()  # CREDIT and CLOSE
        self._unnumbered: list[bytes] = []
        self._last_sent = 0
        self._unacknowledged: deque[_Batch] = deque()
        self._unacknowledged_bytes = 0
        self._replay: deque[_Batch] = deque()
        self._open_reassembly_bytes = 0  # of large items that we started and did not finish
        self._next_to_begin: OutboundChannel | None = None  # waits for room to be put together in
        # Receiving.
        self._reader = FrameReader()
        self._inbound: dict[int, InboundChannel] = {
            0: InboundChannel(0, CONTROL, settings.window_bytes),
            1: InboundChannel(1, REPLIES, settings.window_bytes),
        }
        self._inbound_targets: set[Target] = {CONTROL, REPLIES}
        self._last_received = 0
        self._acknowledged = 0  # the last number that we told the peer we have
        self._unacknowledged_received_bytes = 0
        self._reassembly_bytes = 0
        for id_, target in ((0, CONTROL), (1, REPLIES)):
            self._outbound[target] = self._by_id[id_] = OutboundChannel(id_, target, 0)

    # -- connections --------------------------------------------------------------------------

    @property
    def last_received(self) -> int:
        """The number to put into the next Hello: everything up to it has arrived."""
        return self._last_received

    def connected(self, peer: PeerLimits, peer_last_received: int) -> None:
        """A connection is up, and the peer has our frames up to `peer_last_received`.

        Raises `RemoteProtocolError` when that cannot be: it claims frames that were never sent,
        or has forgotten some that it acknowledged.
        """
        oldest = self._first_kept() - 1
        if not oldest <= peer_last_received <= self._last_sent:
            raise RemoteProtocolError(
                f"the peer has frame {peer_last_received} of this session, "
                f"which can only be {oldest} to {self._last_sent}"
            )
        if self._peer is None:
            for channel in self._outbound.values():
                channel.credit += peer.window_bytes
        else:
            self.counters.resumptions += 1
        self._peer = peer
        self.max_message_bytes = min(self._settings.max_message_bytes, peer.max_message_bytes)
        self._acknowledge(peer_last_received)
        self._trim_first_batch(peer_last_received)
        self._replay = deque(self._unacknowledged)
        self.counters.bytes_retransmitted += sum(len(batch.data) for batch in self._replay)
        self._acknowledged = self._last_received  # the Hello said so
        self._unacknowledged_received_bytes = 0
        self._unnumbered.clear()
        self._reader = FrameReader()

    def _first_kept(self) -> int:
        """The number of the oldest frame that could be sent again."""
        if not self._unacknowledged:
            return self._last_sent + 1
        return int(HEADER.unpack_from(self._unacknowledged[0].data)[4])

    # -- sending ------------------------------------------------------------------------------

    def channel(self, target: Target) -> OutboundChannel:
        """The channel to `target`, opened now if need be."""
        channel = self._outbound.get(target)
        if channel is None:
            credit = 0 if self._peer is None else self._peer.window_bytes
            channel = OutboundChannel(self._next_channel, target, credit)
            self._outbound[target] = self._by_id[self._next_channel] = channel
            self._next_channel += 1
        channel.used = True
        return channel

    def enqueue(self, channel: OutboundChannel, type_: FrameType, body: bytes) -> None:
        """Queue an item.  Whoever calls has paid with `take_credit`, or need not."""
        channel.queue.append((type_, body))
        if not channel.ready:
            channel.ready = channel.used = True
            self._rings[_priority(channel)].append(channel)

    def enqueue_signal(self, body: bytes, target: Target = CONTROL) -> None:
        """Queue a signal, which needs no credit.

        To the node it goes before everything else; to a process it keeps its place among the
        messages to that process.
        """
        self.enqueue(self.channel(target), FrameType.SIGNALS, body)

    def enqueue_reply(self, body: bytes) -> None:
        """Queue a reply, which needs no credit.  A large one gets a lane of its own."""
        if len(body) <= MAX_ITEM_BYTES:
            self.enqueue(self._outbound[REPLIES], FrameType.REPLIES, body)
        else:
            lane = ToNode(self._next_lane)
            self._next_lane += 1
            self.enqueue(self.channel(lane), FrameType.REPLIES, body)

    def gossip(self, data: bytes) -> None:
        """Send a membership message once, on this connection or not at all."""
        if len(data) > MAX_PAYLOAD_BYTES:
            raise LocalProtocolError(f"a membership message of {len(data)} bytes")
        self._unnumbered.append(encode_frame(FrameType.GOSSIP, payload=data))

    def goodbye(self, reason: str) -> None:
        """Tell the peer that this node leaves for good."""
        text = reason.encode(errors="backslashreplace")[:MAX_GOODBYE_BYTES]
        self._unnumbered.append(encode_frame(FrameType.GOODBYE, payload=text))

    def consumed(self, channel: InboundChannel, body_bytes: int) -> bool:
        """A message or a call of this channel was taken, or dropped because its process is gone;
        True when there is credit to send back now.

        Each costs credit, so each must be given back, once; signals and replies cost none.
        """
        grant = channel.consumed(body_bytes + ITEM_OVERHEAD_BYTES)
        if grant and self._inbound.get(channel.id) is channel:
            self._housekeeping.append((FrameType.CREDIT, channel.id, _GRANT.pack(grant)))
            return True
        return False

    def close_idle_channels(self) -> bool:
        """Close the channels not used since the last call; True when there is something to send.

        Only a channel whose whole credit is back closes: one that was closed with items at the
        receiver and opened again would have a second window there.  So that it comes back, what
        is owed on channels to us is granted here, however little it is.
        """
        housekeeping = len(self._housekeeping)
        for inbound in self._inbound.values():
            if inbound.owed:
                grant = _GRANT.pack(inbound.grant_owed())
                self._housekeeping.append((FrameType.CREDIT, inbound.id, grant))
        window = self._peer.window_bytes if self._peer is not None else 0
        for target, channel in list(self._outbound.items()):
            if channel.id < FIRST_FREE_CHANNEL or channel.ready:
                continue
            if channel.used or channel.credit < window:
                channel.used = False
                continue
            channel.closed = True
            del self._outbound[target], self._by_id[channel.id]
            if channel.announced:
                self._housekeeping.append((FrameType.CLOSE, channel.id, b""))
        return len(self._housekeeping) > housekeeping

    @property
    def acknowledgement_owed(self) -> bool:
        """The peer waits to hear that something arrived."""
        return self._acknowledged != self._last_received

    @property
    def acknowledgement_urgent(self) -> bool:
        """So much arrived since the last acknowledgement that the peer may soon have to wait."""
        return self._unacknowledged_received_bytes >= ACKNOWLEDGE_AFTER_BYTES

    @property
    def unacknowledged_bytes(self) -> int:
        """What is kept in case the connection breaks."""
        return self._unacknowledged_bytes

    @property
    def queued_items(self) -> int:
        """Items that wait for their turn to be sent."""
        return sum(len(channel.queue) for channel in self._outbound.values())

    @property
    def quiet(self) -> bool:
        """Whether nothing that was sent waits to be acknowledged."""
        return not self._unacknowledged

    @property
    def undelivered_items(self) -> int:
        """Items that the peer is not known to have: queued ones, and those not acknowledged."""
        return self.queued_items + sum(_count_items(b.data) for b in self._unacknowledged)

    @property
    def drained(self) -> bool:
        """Whether the peer's node has everything that was ever queued here."""
        return not (self._unacknowledged or self.queued_items or self._housekeeping)

    @property
    def wants_to_send(self) -> bool:
        """Whether `data_to_send` would return something, acknowledgements aside."""
        if self._unnumbered or self._replay:
            return True
        if self._peer is None:
            return False
        return bool(self._rings[Priority.CONTROL]) or (
            self._may_send_more()
            and (
                bool(self._housekeeping or self._rings[Priority.MESSAGES])
                or any(map(self._may_begin, self._rings[Priority.BULK]))
            )
        )

    def data_to_send(self) -> bytes:
        """About BATCH_BYTES of frames to write next, or nothing.

        Acknowledgements ride along; alone they go only through `acknowledge`.
        """
        unnumbered = self._unnumbered
        self._unnumbered = []
        numbered = self._replay.popleft().data if self._replay else self._next_batch()
        if self.acknowledgement_owed and (unnumbered or numbered):
            unnumbered.append(self._acknowledgement())
        data = b"".join((*unnumbered, numbered)) if unnumbered else numbered
        self.counters.bytes_sent += len(data)
        return data

    def acknowledge(self) -> None:
        """Make the next `data_to_send` carry an acknowledgement, even alone."""
        if self.acknowledgement_owed:
            self._unnumbered.append(self._acknowledgement())

    def _acknowledgement(self) -> bytes:
        self._acknowledged = self._last_received
        self._unacknowledged_received_bytes = 0
        return encode_frame(FrameType.ACKNOWLEDGE, sequence=self._last_received)

    def _next_batch(self) -> bytes:
        """Control first; then messages, with one bulk frame after each round of them."""
        if self._peer is None:
            return b""
        frames = _Frames()
        control = self._rings[Priority.CONTROL]
        messages, bulk = self._rings[Priority.MESSAGES], self._rings[Priority.BULK]
        while control:
            self._next_frame(control.popleft(), frames)
        if self._may_send_more():
            # Credit waits too: a peer that acknowledges nothing is not to be given more of it.
            while self._housekeeping:
                frames.add(self._numbered(*self._housekeeping.popleft()))
            blocked = 0  # bulk channels in a row that may not begin now
            while frames.size < BATCH_BYTES and (messages or blocked < len(bulk)):
                for _ in range(len(messages)):
                    self._next_frame(messages.popleft(), frames)
                    if frames.size >= BATCH_BYTES:
                        break
                if blocked < len(bulk):
                    channel = bulk.popleft()
                    if self._may_begin(channel):
                        blocked = 0
                        if self._next_to_begin is channel:
                            self._next_to_begin = None
                        self._next_frame(channel, frames)
                    else:
                        blocked += 1
                        self._next_to_begin = self._next_to_begin or channel
                        bulk.append(channel)
        if not frames.parts:
            return b""
        data = b"".join(frames.parts)
        self._unacknowledged.append(_Batch(self._last_sent, data))
        self._unacknowledged_bytes += len(data)
        return data

    def _may_send_more(self) -> bool:
        return self._unacknowledged_bytes < self._settings.max_unacknowledged_bytes

    def _may_begin(self, channel: OutboundChannel) -> bool:
        """Large items are begun only as far as the peer has room to put them together, and none
        before one that has waited for room longer: smaller ones would take it away for ever."""
        if channel.sent_bytes or self._peer is None:
            return True
        if self._next_to_begin not in (None, channel):
            return False
        begun = self._open_reassembly_bytes + len(channel.queue[0][1])
        return begun <= self._peer.reassembly_bytes + ITEM_OVERHEAD_BYTES

    def _next_frame(self, channel: OutboundChannel, frames: _Frames) -> None:
        """Add the channel's next frame, after its OPEN if it has none yet, and put the channel
        back into the ring that it now belongs to."""
        if not channel.announced:
            channel.announced = True
            frames.add(self._numbered(FrameType.OPEN, channel.id, _encode_target(channel.target)))
        queue = channel.queue
        type_, body = queue[0]
        if len(body) > MAX_ITEM_BYTES:
            frames.add(self._next_fragment(channel))
        else:
            bodies = []
            room = MAX_PAYLOAD_BYTES - 2
            while queue:
                next_type, body = queue[0]
                room -= len(body) + 2
                if room < 0 or next_type is not type_:
                    break
                bodies.append(body)
                queue.popleft()
            self.counters.items_sent += len(bodies)
            frames.add(self._numbered(type_, channel.id, pack_items(bodies)))
        if queue:
            self._rings[_priority(channel)].append(channel)
            return
        channel.ready = False
        if isinstance(channel.target, ToNode) and channel.id >= FIRST_FREE_CHANNEL:
            # A large reply's lane lasts for that reply.
            channel.closed = True
            del self._outbound[channel.target], self._by_id[channel.id]
            self._housekeeping.append((FrameType.CLOSE, channel.id, b""))

    def _next_fragment(self, channel: OutboundChannel) -> bytes:
        type_, body = channel.queue[0]
        total = len(body)
        start = channel.sent_bytes
        if start == 0:
            self._open_reassembly_bytes += total
            end = FIRST_FRAGMENT_BYTES
            payload = pack_first_fragment(type_, total, body[:end])
            flags = FLAG_FIRST
        else:
            end = min(start + MAX_PAYLOAD_BYTES, total)
            payload = body[start:end]
            flags = 0
        channel.sent_bytes = end
        if end >= total:
            channel.queue.popleft()
            channel.sent_bytes = 0
            self._open_reassembly_bytes -= total
            self.counters.items_sent += 1
        return self._numbered(FrameType.FRAGMENT, channel.id, payload, flags)

    def _numbered(self, type_: FrameType, channel: int, payload: bytes, flags: int = 0) -> bytes:
        self._last_sent += 1
        return HEADER.pack(len(payload), type_, flags, channel, self._last_sent) + payload

    # -- receiving ----------------------------------------------------------------------------

    def receive(self, data: bytes) -> list[Event]:
        """Take bytes from the connection; return what they mean, in order.

        Raises `RemoteProtocolError` when the peer broke a rule; the connection is then unusable
        and the session must be given up.
        """
        self.counters.bytes_received += len(data)
        events: list[Event] = []
        for frame in self._reader.feed(data):
            if frame.type & NUMBERED:
                if frame.sequence != self._last_received + 1:
                    raise RemoteProtocolError(
                        f"frame {frame.sequence} after frame {self._last_received}"
                    )
                self._last_received += 1
                self._unacknowledged_received_bytes += HEADER_BYTES + len(frame.payload)
            self._handle(frame, events)
        return events

    def _handle(self, frame: Frame, events: list[Event]) -> None:
        type_ = frame.type
        item_type = _ITEM_TYPES.get(type_)
        if item_type is not None:
            bodies = unpack_items(frame.payload)
            channel = self._inbound_channel(frame.channel)
            if channel.partial is not None:
                raise RemoteProtocolError(f"channel {channel.id}: an item inside an unfinished one")
            self._arrived(channel, item_type, bodies, events)
            return
        match type_:
            case FrameType.FRAGMENT:
                self._fragment(frame, events)
            case FrameType.ACKNOWLEDGE:
                self._acknowledge(frame.sequence)
            case FrameType.CREDIT:
                self._credit(frame, events)
            case FrameType.GOSSIP:
                events.append(Gossiped(frame.payload))
            case FrameType.OPEN:
                self._open(frame)
            case FrameType.CLOSE:
                self._close(frame)
            case FrameType.GOODBYE:
                events.append(
                    GoodbyeReceived(frame.payload[:MAX_GOODBYE_BYTES].decode(errors="replace"))
                )
            case _ if type_ & IGNORABLE:
                pass
            case _:
                raise RemoteProtocolError(f"a frame of type {type_:#04x} in a session")

    def _inbound_channel(self, id_: int) -> InboundChannel:
        channel = self._inbound.get(id_)
        if channel is None:
            raise RemoteProtocolError(f"channel {id_} is not open")
        return channel

    def _arrived(
        self, channel: InboundChannel, type_: FrameType, bodies: list[bytes], events: list[Event]
    ) -> None:
        if not _may_carry(channel.target, type_):
            raise RemoteProtocolError(f"{type_.name} on a channel to {channel.target}")
        if type_ in (FrameType.MESSAGES, FrameType.CALLS):
            for body in bodies:
                channel.charge(len(body) + ITEM_OVERHEAD_BYTES)
        if bodies:  # a frame of no items is a peer's whim, and nobody behind here expects it
            self.counters.items_received += len(bodies)
            events.append(Arrived(channel, type_, bodies))

    def _fragment(self, frame: Frame, events: list[Event]) -> None:
        channel = self._inbound_channel(frame.channel)
        data = frame.payload
        if frame.flags & FLAG_FIRST:
            first = unpack_first_fragment(frame.payload)
            self._begin(channel, first.type, first.total_bytes)
            data = first.data
        partial = channel.partial
        if partial is None:
            raise RemoteProtocolError(f"channel {channel.id}: a fragment of nothing")
        body = partial.add(data)
        if body is not None:
            channel.partial = None
            self._reassembly_bytes -= partial.total
            self._arrived(channel, partial.type, [body], events)

    def _begin(self, channel: InboundChannel, type_: FrameType, total: int) -> None:
        if channel.partial is not None:
            raise RemoteProtocolError(f"channel {channel.id}: a large item inside another")
        if not _may_carry(channel.target, type_):
            raise RemoteProtocolError(f"{type_.name} on a channel to {channel.target}")
        # A call or a reply has its own few bytes in front of the message.
        limit = self._settings.max_message_bytes + ITEM_OVERHEAD_BYTES
        if not MAX_ITEM_BYTES < total <= limit:
            raise RemoteProtocolError(f"a fragmented item of {total} bytes; the limit is {limit}")
        self._reassembly_bytes += total
        if self._reassembly_bytes > self._settings.reassembly_bytes + ITEM_OVERHEAD_BYTES:
            raise RemoteProtocolError("more unfinished large items than reassembly_bytes allows")
        channel.partial = Reassembly(type_, total)

    def _open(self, frame: Frame) -> None:
        if frame.channel in self._inbound or frame.channel < FIRST_FREE_CHANNEL:
            raise RemoteProtocolError(f"channel {frame.channel} is open already")
        if len(self._inbound) >= self._settings.max_channels:
            raise RemoteProtocolError(f"more than {self._settings.max_channels} channels")
        target = _decode_target(frame.payload)
        if target in self._inbound_targets:  # it would have two windows
            raise RemoteProtocolError(f"a second channel to {target}")
        self._inbound_targets.add(target)
        self._inbound[frame.channel] = InboundChannel(
            frame.channel, target, self._settings.window_bytes
        )

    def _close(self, frame: Frame) -> None:
        channel = self._inbound_channel(frame.channel)
        if frame.channel < FIRST_FREE_CHANNEL or channel.partial is not None:
            raise RemoteProtocolError(f"channel {frame.channel} cannot close now")
        if channel.credit < channel.window:
            raise RemoteProtocolError(f"channel {frame.channel} closes before its items are taken")
        self._inbound_targets.remove(channel.target)
        del self._inbound[frame.channel]

    def _credit(self, frame: Frame, events: list[Event]) -> None:
        try:
            (grant,) = _GRANT.unpack(frame.payload)
        except struct.error as error:
            raise RemoteProtocolError(f"a grant that does not decode: {error}") from error
        channel = self._by_id.get(frame.channel)
        if channel is None or self._peer is None:
            return
        channel.credit += grant
        if channel.credit > self._peer.window_bytes:
            raise RemoteProtocolError(f"channel {channel.id}: a grant over the peer's own window")
        if channel.credit > 0:
            channel.used = True  # whoever waits for it must find it open
            events.append(Granted(channel.target))

    def _acknowledge(self, sequence: int) -> None:
        """Forget the batches that the peer has whole."""
        if sequence > self._last_sent:
            raise RemoteProtocolError(
                f"an acknowledgement of frame {sequence}; the last sent is {self._last_sent}"
            )
        unacknowledged = self._unacknowledged
        while unacknowledged and unacknowledged[0].last_sequence <= sequence:
            self._unacknowledged_bytes -= len(unacknowledged.popleft().data)

    def _trim_first_batch(self, sequence: int) -> None:
        """Cut from the oldest batch the frames that the peer has, so that none is sent twice."""
        if self._unacknowledged and self._first_kept() <= sequence:
            batch = self._unacknowledged.popleft()
            data = _frames_after(batch.data, sequence)
            self._unacknowledged_bytes -= len(batch.data) - len(data)
            self._unacknowledged.appendleft(_Batch(batch.last_sequence, data))


def _may_carry(target: Target, type_: FrameType) -> bool:
    match target:
        case ToNode(CONTROL.lane):
            return type_ is FrameType.SIGNALS
        case ToNode():
            return type_ is FrameType.REPLIES
        case ToProcess() | ToName():
            return type_ is not FrameType.REPLIES


def _priority(channel: OutboundChannel) -> Priority:
    if channel.target == CONTROL:
        return Priority.CONTROL
    if len(channel.queue[0][1]) > MAX_ITEM_BYTES:
        return Priority.BULK
    return Priority.MESSAGES


def _count_items(data: bytes) -> int:
    """How many items begin in these frames, a fragmented one with its first fragment."""
    count = position = 0
    while position < len(data):
        length, type_, flags, _, _ = HEADER.unpack_from(data, position)
        position += HEADER_BYTES
        if type_ in _ITEM_TYPES:
            count += len(unpack_items(data[position : position + length]))
        elif type_ == FrameType.FRAGMENT and flags & FLAG_FIRST:
            count += 1
        position += length
    return count


def _frames_after(data: bytes, sequence: int) -> bytes:
    position = 0
    while position < len(data):
        length, _, _, _, number = HEADER.unpack_from(data, position)
        if number > sequence:
            break
        position += HEADER_BYTES + length
    return data[position:]
