"""A session: what two lives of two nodes keep while TCP connections come and go.

    Sending    queues -> frames, numbered -> kept until acknowledged     one end
                 |  ^ credit, acknowledgements
                 v  |
    Receiving  sequence check -> channels, reassembly -> events          the other

Numbered frames carry 1, 2, 3, ... and the receiver accepts only the next number, so within a
session nothing can arrive twice or out of order (M1, M2).  Acknowledgements are cumulative and
ride on whatever is written next.  When a connection breaks, both ends remember the last number
they saw; the next connection's handshake tells it to the other, which sends again from there
(M3).  What is kept for that is bounded by `max_unacknowledged_bytes`.

This module joins the two halves, which know nothing of each other, and holds what belongs to
the present connection alone: the reader of its bytes, and the frames without a number
(acknowledgements, membership messages, a goodbye), which are lost with it.

Sans-IO: `receive` takes bytes and returns events, `data_to_send` returns bytes.  The alternative,
acknowledging every message to its sender, was refused: it costs a round trip per message and
still needs numbers to drop duplicates.
"""

from __future__ import annotations

from steinadler.config import WireSettings
from steinadler.errors import LocalProtocolError, RemoteProtocolError
from steinadler.wire.channels import ITEM_OVERHEAD_BYTES, InboundChannel, PeerLimits, ToNode
from steinadler.wire.frames import (
    MAX_PAYLOAD_BYTES,
    NUMBERED,
    Frame,
    FrameReader,
    FrameType,
    encode_frame,
)
from steinadler.wire.receiving import Receiving, pass_over
from steinadler.wire.reports import (
    Arrived,
    Event,
    GoodbyeReceived,
    Gossiped,
    Granted,
    RegistryTold,
    SessionCounters,
    SessionLevels,
    TrustTold,
)
from steinadler.wire.sending import BATCH_BYTES, Sending

__all__ = [
    "ACKNOWLEDGE_AFTER_BYTES",
    "BATCH_BYTES",
    "MAX_GOODBYE_BYTES",
    "Arrived",
    "Event",
    "GoodbyeReceived",
    "Gossiped",
    "Granted",
    "PeerLimits",
    "RegistryTold",
    "Session",
    "SessionCounters",
    "SessionLevels",
    "TrustTold",
]

# Received but unacknowledged frames' bytes that force an acknowledgement without delay.
ACKNOWLEDGE_AFTER_BYTES = 262_144
MAX_GOODBYE_BYTES = 1024
# Of membership messages that wait for the connection to take them; more are dropped, as a broken
# connection would drop them: whoever does not read them asks all the same.
MAX_GOSSIP_BYTES = 4 * 1024 * 1024

_CREDIT = int(FrameType.CREDIT)
_CLOSE = int(FrameType.CLOSE)


class Session:
    """Both directions of one session.  Make one per pair of node lives that found each other.

    Until `connected` was called for the first time no channel has credit, and nothing is sent.
    `channel`, `enqueue`, `enqueue_signal`, `enqueue_reply`, `enqueue_bytes` and `end_stream` are
    those of `Sending`; the first raises `DeliveryError` when the peer allows no further channel.
    """

    def __init__(self, settings: WireSettings) -> None:
        self._settings = settings
        self.counters = SessionCounters()
        self.max_message_bytes = settings.max_message_bytes  # what both ends can take
        self._sending = Sending(settings, self.counters)
        self._receiving = Receiving(settings, self.counters)
        # Bound here and not wrapped: a call per message would be felt.
        self.channel = self._sending.channel
        self.channel_in_turn = self._sending.channel_in_turn
        self.enqueue = self._sending.enqueue
        self.enqueue_signal = self._sending.enqueue_signal
        self.enqueue_reply = self._sending.enqueue_reply
        self.enqueue_bytes = self._sending.enqueue_bytes
        self.end_stream = self._sending.end_stream
        self.has_room_for_reply = self._sending.has_room_for_reply
        self._reader = FrameReader()
        self._unnumbered: list[bytes] = []
        self._gossip_bytes = 0  # of it
        self._acknowledged = 0  # the last number that we told the peer we have
        self._acknowledge_now = False  # also when nothing else is to be sent

    # -- connections --------------------------------------------------------------------------

    @property
    def last_received(self) -> int:
        """The number to put into the next Hello: everything up to it has arrived."""
        return self._receiving.last_received

    def connected(self, peer: PeerLimits, peer_last_received: int) -> None:
        """A connection is up, and the peer has our frames up to `peer_last_received`.

        Raises `RemoteProtocolError` when that cannot be: it claims frames that were never sent,
        or has forgotten some that it acknowledged; or when too much waits for it (`receive`).
        """
        self._check_overrun()
        if self._sending.connected(peer, peer_last_received):
            self.counters.resumptions += 1
        self.max_message_bytes = min(self._settings.max_message_bytes, peer.max_message_bytes)
        self._note_acknowledged()  # the Hello said so
        self._unnumbered.clear()
        self._gossip_bytes = 0
        self._acknowledge_now = False
        self._reader = FrameReader()

    # -- sending ------------------------------------------------------------------------------

    def gossip(self, data: bytes, type_: FrameType = FrameType.GOSSIP) -> None:
        """Send a message of membership, of the registry (REGISTRY) or about whom to trust (TRUST),
        once: on this connection or not at all.

        Dropped while MAX_GOSSIP_BYTES of them wait to be written.
        """
        if len(data) > MAX_PAYLOAD_BYTES:
            raise LocalProtocolError(f"gossip of {len(data)} bytes")
        self._gossip_bytes += len(data) + ITEM_OVERHEAD_BYTES
        if self._gossip_bytes > MAX_GOSSIP_BYTES:
            self._gossip_bytes -= len(data) + ITEM_OVERHEAD_BYTES
            return
        self._unnumbered.append(encode_frame(type_, payload=data))

    def goodbye(self, reason: str) -> None:
        """Tell the peer that this node leaves for good."""
        text = reason.encode(errors="backslashreplace")[:MAX_GOODBYE_BYTES]
        self._unnumbered.append(encode_frame(FrameType.GOODBYE, payload=text))

    @property
    def quiet(self) -> bool:
        """Whether nothing that was sent waits to be acknowledged."""
        return not self._sending.unacknowledged.size_bytes

    @property
    def unacknowledged_bytes(self) -> int:
        """What is kept in case the connection breaks."""
        return self._sending.unacknowledged.size_bytes

    @property
    def queued_items(self) -> int:
        """Items that wait for their turn to be sent."""
        return self._sending.queued_items

    @property
    def undelivered_items(self) -> int:
        """Items that the peer is not known to have: queued ones, and those not acknowledged."""
        return self.queued_items + self._sending.unacknowledged.count_items()

    def levels(self) -> SessionLevels:
        """What is held now.  Counted at each call, with a step for each channel and queued item."""
        ours, theirs = self._sending.channels(), self._receiving.channels()
        return SessionLevels(
            items_queued=self.queued_items,
            bytes_queued=sum(
                sum(len(body) for _, body in channel.queue) - channel.sent_bytes for channel in ours
            ),
            bytes_unacknowledged=self.unacknowledged_bytes,
            channels=len(ours),
            channels_without_credit=sum(
                channel.credit <= 0 and not isinstance(channel.target, ToNode) for channel in ours
            ),
            peer_channels=len(theirs),
            bytes_unconsumed=sum(channel.unconsumed for channel in theirs),
        )

    @property
    def progress(self) -> tuple[int, int]:
        """The numbers of the latest numbered frame each way: unchanged, nothing went over."""
        return self._sending.last_sent, self._receiving.last_received

    @property
    def holds_senders(self) -> bool:
        """Whether the peer has used up its credit for some channel: its senders may wait for
        processes here.  A step for each of its channels."""
        return any(channel.credit <= 0 for channel in self._receiving.channels())

    @property
    def drained(self) -> bool:
        """Whether the peer's node has everything that was ever queued here."""
        return self._sending.drained

    @property
    def wants_to_send(self) -> bool:
        """Whether `data_to_send` would return something, acknowledgements aside."""
        return self._acknowledge_now or bool(self._unnumbered) or self._sending.wants_to_send

    def data_to_send(self) -> bytes:
        """About BATCH_BYTES of frames to write next, or nothing.

        Acknowledgements ride along; alone they go only through `acknowledge`.
        """
        unnumbered = self._unnumbered
        self._unnumbered = []
        self._gossip_bytes = 0
        numbered = self._sending.next_batch()
        if self.acknowledgement_owed and (self._acknowledge_now or unnumbered or numbered):
            unnumbered.append(self._acknowledgement())
        data = b"".join((*unnumbered, numbered)) if unnumbered else numbered
        self.counters.bytes_sent += len(data)
        return data

    # -- acknowledgements ---------------------------------------------------------------------

    @property
    def acknowledgement_owed(self) -> bool:
        """The peer waits to hear that something arrived."""
        return self._acknowledged != self._receiving.last_received

    @property
    def acknowledgement_urgent(self) -> bool:
        """So much arrived since the last acknowledgement that the peer may soon have to wait."""
        return self._receiving.unacknowledged_bytes >= ACKNOWLEDGE_AFTER_BYTES

    def acknowledge(self) -> None:
        """Make the next `data_to_send` carry an acknowledgement, even alone."""
        # A mark and not a frame: a peer that sends and never reads would heap them up.
        self._acknowledge_now = self.acknowledgement_owed

    def _acknowledgement(self) -> bytes:
        self._acknowledge_now = False
        self._note_acknowledged()
        return encode_frame(FrameType.ACKNOWLEDGE, sequence=self._acknowledged)

    def _note_acknowledged(self) -> None:
        self._acknowledged = self._receiving.last_received
        self._receiving.unacknowledged_bytes = 0

    # -- receiving ----------------------------------------------------------------------------

    def receive(self, data: bytes) -> list[Event]:
        """Take bytes from the connection; return what they mean, in order.

        Raises `RemoteProtocolError` when the peer broke a rule, or asks and does not read: twice
        `max_queued_reply_bytes` of replies and signals wait for it, and some were dropped.  The
        connection is then unusable and the session must be given up.
        """
        self._check_overrun()
        self.counters.bytes_received += len(data)
        events: list[Event] = []
        handle = self._receiving.handle
        for frame in self._reader.feed(data):
            if not frame.type & NUMBERED:
                self._handle_unnumbered(frame, events)
                continue
            handle(frame, events)
            if frame.type == _CREDIT:
                granted = self._sending.granted(frame.channel, frame.payload)
                if granted is not None:
                    events.append(granted)
            elif frame.type == _CLOSE:
                self._sending.closed_by_peer(frame.channel)
        if self._receiving.crowded:  # idle channels cannot make way before their credit is back
            self._grant_all_owed()
        if self._sending.waiting:
            events.extend(self._sending.admit_waiting())
        return events

    def _check_overrun(self) -> None:
        if self._sending.overrun:
            raise RemoteProtocolError(
                "it asks and does not read: more than "
                f"{2 * self._settings.max_queued_reply_bytes} bytes of replies and signals wait"
            )

    def _handle_unnumbered(self, frame: Frame, events: list[Event]) -> None:
        match frame.type:
            case FrameType.ACKNOWLEDGE:
                self._sending.acknowledged(frame.sequence)
            case FrameType.GOSSIP:
                events.append(Gossiped(frame.payload))
            case FrameType.REGISTRY:
                events.append(RegistryTold(frame.payload))
            case FrameType.TRUST:
                events.append(TrustTold(frame.payload))
            case FrameType.GOODBYE:
                events.append(
                    GoodbyeReceived(frame.payload[:MAX_GOODBYE_BYTES].decode(errors="replace"))
                )
            case type_:
                pass_over(type_)

    # -- channels -----------------------------------------------------------------------------

    def consumed(self, channel: InboundChannel, body_bytes: int, items: int = 1) -> bool:
        """Messages or calls of this channel were taken, or dropped because their process is gone;
        True when there is credit to send back now.

        Each costs credit, so each must be given back, once; signals and replies cost none.
        """
        grant = channel.consumed(body_bytes + items * ITEM_OVERHEAD_BYTES)
        if grant and self._receiving.has_open(channel):
            self._sending.grant(channel.id, grant)
            return True
        return False

    def close_idle_channels(self) -> bool:
        """Close the channels not used since the last call; True when there is something to send.

        Only a channel whose whole credit is back closes.  So that it comes back, what is owed on
        channels to us is granted here, however little it is.
        """
        granted = self._grant_all_owed()
        return self._sending.close_unused_channels() or granted

    def _grant_all_owed(self) -> bool:
        owed = self._receiving.take_all_owed()
        for channel_id, credit in owed:
            self._sending.grant(channel_id, credit)
        return bool(owed)
