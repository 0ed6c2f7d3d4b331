"""The sending half of a session: what goes into the next write, and in which order.

    queues of items, one per channel
      -> rings: control, messages, bulk
      -> frames, numbered 1, 2, 3, ...
      -> batches, kept until acknowledged

Control goes first.  Then each channel that has messages puts one frame into the batch, in turn,
and after each such round one channel that is at a large item or a byte stream puts in one frame of
it (or, where no messages wait, as many as the batch takes).  So a small message waits for one frame
of each other destination and not for what lies in their queues, and a large item neither delays
small ones nor starves behind them (M6).  A batch is one write: enough to amortise a system call,
little enough that control queued meanwhile goes out soon.
Writing each message by itself, or whole messages in the order in which they were sent, was
refused: the first costs a system call and a TLS record each, the second lets 64 MiB go before a
probe.

What is on the way already is in front of everything, whatever its priority: in the kernels' buffers
and the network's.  So large items put no more there than `max_unacknowledged_bulk_bytes`.  Nothing
but control is begun while `max_unacknowledged_bytes` wait to be acknowledged, control not
with twice that, and no large item that the peer has no room to put together.

Replies and signals pay no credit, so a peer that asks and does not read would fill this end's
memory.  What waits of them is counted: beyond `max_queued_reply_bytes` whoever replies is to say
less (`has_room_for_reply`), and at twice that the session is `overrun` and of no more use.  Holding
the peer's questions back instead was refused: they share the connection with everything else.
"""

from __future__ import annotations

import struct
from collections import deque

from steinadler.config import WireSettings
from steinadler.errors import RemoteProtocolError
from steinadler.wire.batch import Batch
from steinadler.wire.channels import (
    CHANNEL_OVERHEAD_BYTES,
    CONTROL,
    FIRST_FREE_CHANNEL,
    ITEM_OVERHEAD_BYTES,
    OutboundChannel,
    PeerLimits,
    Priority,
    Target,
    ToNode,
    ToStream,
    encode_target,
)
from steinadler.wire.frames import (
    FIRST_FRAGMENT_BYTES,
    FLAG_FIRST,
    ITEM_TYPES,
    MAX_ITEM_BYTES,
    MAX_PAYLOAD_BYTES,
    FrameType,
    pack_first_fragment,
    pack_items,
)
from steinadler.wire.outbound import OutboundChannels
from steinadler.wire.reports import Granted, SessionCounters
from steinadler.wire.retransmission import Unacknowledged

BATCH_BYTES = 65_536

_GRANT = struct.Struct(">Q")
_REPLIES, _SIGNALS = FrameType.REPLIES, FrameType.SIGNALS
_BYTES, _CLOSE = FrameType.BYTES, FrameType.CLOSE
# The last piece of a byte stream that waits is filled up when it is so short: many programs write
# in small pieces.
_SHORT_PIECE_BYTES = 4096


class Sending:
    """Queues, order and numbers of what this end sends.  `Session` has the rest."""

    def __init__(self, settings: WireSettings, counters: SessionCounters) -> None:
        self._settings = settings
        self._counters = counters
        self._peer: PeerLimits | None = None
        self._rings: tuple[deque[OutboundChannel], ...] = tuple(deque() for _ in Priority)
        self._housekeeping: deque[tuple[FrameType, int, bytes]] = deque()  # CLOSE
        # Credit to give back, by channel: not a frame for each, or they would add up for ever.
        self._grants: dict[int, int] = {}
        self._uncredited_bytes = 0  # of replies and signals that wait
        self._reply_room_bytes = settings.max_queued_reply_bytes + ITEM_OVERHEAD_BYTES
        self._overrun_bytes = 2 * settings.max_queued_reply_bytes
        self.overrun = False
        self._channels = OutboundChannels(self._housekeeping)
        self.last_sent = 0  # the number of the latest frame
        self.unacknowledged = Unacknowledged()
        self._open_reassembly_bytes = 0  # of large items that we started and did not finish
        self._next_to_begin: OutboundChannel | None = None  # waits for room to be put together in
        self.channel = self._channels.channel
        self.channel_in_turn = self._channels.channel_in_turn
        self.waiting = self._channels.waiting  # for `admit_waiting`

    def connected(self, peer: PeerLimits, peer_last_received: int) -> bool:
        """Go on over a new connection, from behind what the peer last received; True unless it
        is the first one.

        Raises `RemoteProtocolError` when the peer cannot have received that.
        """
        self.unacknowledged.resume(peer_last_received, self.last_sent)
        resumed = self._peer is not None
        if not resumed:
            for channel in self._channels.connected(peer):
                self._rings[_priority(channel)].remove(channel)
        self._peer = peer
        self.admit_waiting()  # everybody tries again on a new connection: nobody need be told
        return resumed

    # -- queueing -----------------------------------------------------------------------------

    def enqueue(self, channel: OutboundChannel, type_: FrameType, body: bytes | memoryview) -> None:
        """Queue an item.  Whoever calls has paid with `take_credit`, or need not."""
        channel.queue.append((type_, body))
        if not channel.ready:
            channel.ready = channel.used = True
            self._rings[_priority(channel)].append(channel)

    def enqueue_bytes(self, channel: OutboundChannel, data: memoryview) -> int:
        """Queue as much of a byte stream as its channel has credit to start; return how much.

        Nobody may change what `data` shows afterwards.
        """
        queue, size = channel.queue, len(data)
        if channel.credit <= 0:
            return 0
        taken = 0
        if queue and queue[-1][0] is _BYTES and len(queue[-1][1]) <= _SHORT_PIECE_BYTES:
            last = queue[-1][1]
            taken = min(size, MAX_PAYLOAD_BYTES - len(last))
            queue[-1] = (_BYTES, b"".join((last, data[:taken])))
            channel.credit -= taken
        while taken < size and channel.take_credit(min(size - taken, MAX_PAYLOAD_BYTES)):
            self.enqueue(channel, _BYTES, data[taken : taken + MAX_PAYLOAD_BYTES])
            taken += MAX_PAYLOAD_BYTES
        return min(taken, size)

    def end_stream(self, target: ToStream, reason: bytes, *, drop_queued: bool = False) -> None:
        """Close a stream's channel, behind what is queued on it or instead of that.

        `reason` is for the other end, MAX_PAYLOAD_BYTES at most.  For one channel once.
        """
        channel = self._channels.channel_in_turn(target)
        if drop_queued:
            channel.sent_bytes = 0  # what the peer holds of it, it drops at the CLOSE
            channel.queue.clear()
        self.enqueue(channel, _CLOSE, reason)

    def enqueue_signal(self, body: bytes, target: Target = CONTROL) -> None:
        """Queue a signal, which needs no credit.

        To the node it goes before everything else; to a process it keeps its place among the
        messages to that process.
        """
        if self._count_uncredited(len(body)):
            self.enqueue(self._channels.channel_in_turn(target), FrameType.SIGNALS, body)

    def enqueue_reply(self, body: bytes) -> None:
        """Queue a reply, which needs no credit.  A large one gets a lane of its own."""
        if self._count_uncredited(len(body)):
            small = len(body) <= MAX_ITEM_BYTES
            channel = self._channels.replies if small else self._channels.lane()
            self.enqueue(channel, FrameType.REPLIES, body)

    def has_room_for_reply(self, body_bytes: int) -> bool:
        """Whether a reply or a request of that size is within what may wait for the peer."""
        return self._waiting_bytes() + body_bytes <= self._reply_room_bytes

    def _count_uncredited(self, body_bytes: int) -> bool:
        """Make room for a reply or a signal; False when the session is overrun."""
        if self._waiting_bytes() > self._overrun_bytes:
            self.overrun = True
            return False
        self._uncredited_bytes += body_bytes + ITEM_OVERHEAD_BYTES
        return True

    def _waiting_bytes(self) -> int:
        return self._uncredited_bytes + len(self.waiting) * CHANNEL_OVERHEAD_BYTES

    def grant(self, channel_id: int, credit: int) -> None:
        """Queue credit for a channel of the peer's."""
        self._grants[channel_id] = self._grants.get(channel_id, 0) + credit

    def closed_by_peer(self, channel_id: int) -> None:
        """The peer closed a channel of its own: credit for it is for nobody."""
        self._grants.pop(channel_id, None)

    def close_unused_channels(self) -> bool:
        """Close the channels that are idle and were not used since the last call; True when the
        peer has to be told."""
        before = len(self._housekeeping)
        self._channels.close_unused()
        return len(self._housekeeping) > before

    def admit_waiting(self) -> list[Granted]:
        """Open the channels that wait for a place, as far as there are places now.

        Returns what to tell whoever waits for their credit.
        """
        granted = []
        for channel in self._channels.admit():
            if channel.queue:
                self._rings[_priority(channel)].append(channel)
            else:  # a stream's, which waits for credit
                channel.ready = False
            granted.append(Granted(channel.target))
        return granted

    # -- what the peer says of it -------------------------------------------------------------

    def acknowledged(self, sequence: int) -> None:
        """The peer has our frames up to `sequence`.  Raises `RemoteProtocolError` for more than
        there are."""
        if sequence > self.last_sent:
            raise RemoteProtocolError(
                f"an acknowledgement of frame {sequence}; the last sent is {self.last_sent}"
            )
        self.unacknowledged.acknowledged(sequence)

    def granted(self, channel_id: int, payload: bytes) -> Granted | None:
        """A CREDIT frame came.  Returns what to tell whoever waits for that credit.

        Raises `RemoteProtocolError` for more credit than the peer's window.
        """
        try:
            (grant,) = _GRANT.unpack(payload)
        except struct.error as error:
            raise RemoteProtocolError(f"a grant that does not decode: {error}") from error
        channel = self._channels.find(channel_id)
        if channel is None or self._peer is None:
            return None
        if channel.credit + grant > self._peer.window_bytes:
            raise RemoteProtocolError(f"channel {channel.id}: a grant over the peer's own window")
        channel.credit += grant
        if channel.credit <= 0:
            return None
        channel.used = True  # whoever waits for it must find it open
        return Granted(channel.target)

    # -- what there is to send ----------------------------------------------------------------

    def channels(self) -> list[OutboundChannel]:
        """Every channel to the peer, those that wait for a place included."""
        return list(self._channels)

    @property
    def queued_items(self) -> int:
        """Messages, objects of streams, calls, replies and signals that wait for their turn; no
        pieces of byte streams, and no ends."""
        return sum(
            sum(type_ in ITEM_TYPES for type_, _ in channel.queue)
            if isinstance(channel.target, ToStream)
            else len(channel.queue)
            for channel in self._channels
        )

    @property
    def drained(self) -> bool:
        """Whether the peer's node has everything that was ever queued here."""
        return not (
            self.unacknowledged.size_bytes
            or any(channel.queue for channel in self._channels)
            or self._housekeeping
            or self._grants
        )

    @property
    def wants_to_send(self) -> bool:
        """Whether `next_batch` would return something."""
        if self.unacknowledged.replay:
            return True
        if self._peer is None:
            return False
        return (bool(self._rings[Priority.CONTROL]) and self._may_send_control()) or (
            self._may_send_more()
            and (
                bool(self._grants or self._housekeeping or self._rings[Priority.MESSAGES])
                or (self._bulk_room() > 0 and any(map(self._may_begin, self._rings[Priority.BULK])))
            )
        )

    def next_batch(self) -> bytes:
        """About BATCH_BYTES of frames, or nothing; first whatever a resumption sends again."""
        if self.unacknowledged.replay:
            again = self.unacknowledged.replay.popleft()
            self._counters.bytes_retransmitted += len(again)
            return again
        if self._peer is None:
            return b""
        frames = Batch(self.last_sent)
        control = self._rings[Priority.CONTROL]
        messages, bulk = self._rings[Priority.MESSAGES], self._rings[Priority.BULK]
        if control and self._may_send_control():
            while control and frames.size < BATCH_BYTES:
                self._next_frame(control.popleft(), frames)
        if self._may_send_more():
            # Credit waits too: a peer that acknowledges nothing is not to be given more of it.
            if self._grants:
                for channel_id, credit in self._grants.items():
                    frames.add(FrameType.CREDIT, channel_id, _GRANT.pack(credit))
                self._grants.clear()
            while self._housekeeping:
                frames.add(*self._housekeeping.popleft())
            bulk_room = self._bulk_room()
            blocked = 0  # bulk channels in a row that may not begin now
            while frames.size < BATCH_BYTES and (
                messages or (blocked < len(bulk) and frames.bulk_bytes < bulk_room)
            ):
                for _ in range(len(messages)):
                    self._next_frame(messages.popleft(), frames)
                    if frames.size >= BATCH_BYTES:
                        break
                if blocked < len(bulk) and frames.bulk_bytes < bulk_room:
                    channel = bulk.popleft()
                    if self._may_begin(channel):
                        blocked = 0
                        if self._next_to_begin is channel:
                            self._next_to_begin = None
                        self._next_frame(channel, frames)
                        # With no messages to take turns with, it may fill the batch: what arrives
                        # together is taken together.
                        while (
                            not messages
                            and bulk
                            and bulk[-1] is channel
                            and frames.size < BATCH_BYTES
                            and frames.bulk_bytes < bulk_room
                            and self._may_begin(channel)
                        ):
                            self._next_frame(bulk.pop(), frames)
                    else:
                        blocked += 1
                        self._next_to_begin = self._next_to_begin or channel
                        bulk.append(channel)
        if not frames.size:
            return b""
        data = frames.data()
        self.last_sent = frames.last_sequence
        self.unacknowledged.keep(self.last_sent, data, frames.bulk_bytes)
        return data

    def _may_send_more(self) -> bool:
        return self.unacknowledged.size_bytes < self._settings.max_unacknowledged_bytes

    def _bulk_room(self) -> int:
        """How many bytes large items may still put on the way."""
        return self._settings.max_unacknowledged_bulk_bytes - self.unacknowledged.bulk_bytes

    def _may_send_control(self) -> bool:
        # Kept until acknowledged like all else, and a peer can ask for any number of signals.
        return self.unacknowledged.size_bytes < 2 * self._settings.max_unacknowledged_bytes

    def _may_begin(self, channel: OutboundChannel) -> bool:
        """Large items are begun only as far as the peer has room to put them together, and none
        before one that has waited for room longer: smaller ones would take it away for ever."""
        if channel.sent_bytes or self._peer is None or channel.queue[0][0] in (_BYTES, _CLOSE):
            return True
        if self._next_to_begin not in (None, channel):
            return False
        begun = self._open_reassembly_bytes + len(channel.queue[0][1])
        return begun <= self._peer.reassembly_bytes + ITEM_OVERHEAD_BYTES

    # -- frames -------------------------------------------------------------------------------

    def _next_frame(self, channel: OutboundChannel, frames: Batch) -> None:
        """Add the channel's next frame, after its OPEN if it has none yet, and put the channel
        back into the ring that it now belongs to."""
        if not channel.announced:
            channel.announced = True
            frames.add(FrameType.OPEN, channel.id, encode_target(channel.target))
        queue = channel.queue
        type_, body = queue[0]
        if type_ is _BYTES:
            queue.popleft()
            frames.add_bulk(_BYTES, channel.id, body)
        elif type_ is _CLOSE:
            frames.add(_CLOSE, channel.id, body)
            self._give_up_room(channel)
            self._channels.forget(channel)
            return
        elif len(body) > MAX_ITEM_BYTES:
            self._next_fragment(channel, frames)
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
            self._counters.items_sent += len(bodies)
            if type_ is _REPLIES or type_ is _SIGNALS:
                item_bytes = sum(map(len, bodies)) + len(bodies) * ITEM_OVERHEAD_BYTES
                self._uncredited_bytes -= item_bytes
            frames.add(type_, channel.id, pack_items(bodies))
        if queue:
            self._rings[_priority(channel)].append(channel)
            return
        channel.ready = False
        channel.last_sent = frames.last_sequence
        if isinstance(channel.target, ToNode) and channel.id >= FIRST_FREE_CHANNEL:
            # A large reply's lane lasts for that reply.
            self._channels.close(channel)

    def _next_fragment(self, channel: OutboundChannel, frames: Batch) -> None:
        type_, body = channel.queue[0]
        total = len(body)
        start = channel.sent_bytes
        if start == 0:
            self._open_reassembly_bytes += total
            channel.reserved_bytes = total
            end = FIRST_FRAGMENT_BYTES
            first = pack_first_fragment(type_, total, body[:end])
            frames.add_bulk(FrameType.FRAGMENT, channel.id, first, FLAG_FIRST)
        else:
            end = min(start + MAX_PAYLOAD_BYTES, total)
            # A view: it is copied once, into the batch.
            frames.add_bulk(FrameType.FRAGMENT, channel.id, memoryview(body)[start:end])
        channel.sent_bytes = end
        if end >= total:
            channel.queue.popleft()
            channel.sent_bytes = 0
            self._give_up_room(channel)
            if type_ is _REPLIES or type_ is _SIGNALS:
                self._uncredited_bytes -= total + ITEM_OVERHEAD_BYTES
            self._counters.items_sent += 1

    def _give_up_room(self, channel: OutboundChannel) -> None:
        """The peer holds nothing unfinished of the channel once it has the frames so far."""
        self._open_reassembly_bytes -= channel.reserved_bytes
        channel.reserved_bytes = 0


def _priority(channel: OutboundChannel) -> Priority:
    if channel.id == CONTROL.lane:
        return Priority.CONTROL
    type_, body = channel.queue[0]
    if type_ is _BYTES or len(body) > MAX_ITEM_BYTES:
        return Priority.BULK
    return Priority.MESSAGES
