"""The receiving half of a session: which numbered frames of the peer are believed.

    frames, in order -> sequence check -> channel -> credit, reassembly -> events

Within a session only the next number is accepted, so nothing arrives twice or out of order
(M1, M2): the peer numbers on from what this end last received, and anything else is an error.
Passing over numbers seen before, as TCP does, was refused: a peer that sends them is broken.

Everything that a peer could make this end keep has a limit, checked before it is kept (X4):
channels, items without credit, unfinished large items.  Two channels to one target are refused
because they would be two windows on one mailbox, and a channel does not close while items of
it are unconsumed for the same reason.  (A stream's does: whoever keeps the streams opens none
twice.)
"""

from __future__ import annotations

from collections.abc import Collection

from steinadler.config import WireSettings
from steinadler.errors import RemoteProtocolError
from steinadler.wire.channels import (
    CONTROL,
    FIRST_FREE_CHANNEL,
    ITEM_OVERHEAD_BYTES,
    REPLIES,
    InboundChannel,
    Reassembly,
    Target,
    ToName,
    ToNode,
    ToProcess,
    ToStream,
    decode_target,
)
from steinadler.wire.frames import (
    FLAG_FIRST,
    HEADER_BYTES,
    IGNORABLE,
    ITEM_TYPES,
    MAX_ITEM_BYTES,
    Frame,
    FrameType,
    unpack_first_fragment,
    unpack_items,
)
from steinadler.wire.reports import Arrived, Event, SessionCounters

_ITEM_TYPES = {int(type_): type_ for type_ in ITEM_TYPES}  # a look-up costs less than an enum call


class Receiving:
    """Numbers, channels and unfinished items of what the peer sends.  `Session` has the rest."""

    def __init__(self, settings: WireSettings, counters: SessionCounters) -> None:
        self._settings = settings
        self._counters = counters
        self.last_received = 0
        self.unacknowledged_bytes = 0  # received since the last acknowledgement
        self._channels: dict[int, InboundChannel] = {
            channel.id: channel
            for channel in (
                InboundChannel(CONTROL.lane, CONTROL, settings.window_bytes),
                InboundChannel(REPLIES.lane, REPLIES, settings.window_bytes),
            )
        }
        self._targets: set[Target] = {CONTROL, REPLIES}
        self._reassembly_bytes = 0
        self.crowded = False  # no further channel is allowed: `take_all_owed` may help

    def has_open(self, channel: InboundChannel) -> bool:
        """Whether the peer still has that channel open."""
        return self._channels.get(channel.id) is channel

    def channels(self) -> Collection[InboundChannel]:
        """Every channel that the peer has open."""
        return self._channels.values()

    def take_all_owed(self) -> list[tuple[int, int]]:
        """Every channel to which credit is owed, by number, with that credit: to be granted now."""
        self.crowded = False
        return [
            (channel.id, channel.grant_owed())
            for channel in self._channels.values()
            if channel.owed
        ]

    def handle(self, frame: Frame, events: list[Event]) -> None:
        """Take the next numbered frame; add what it means to `events`.

        Raises `RemoteProtocolError` when the peer broke a rule.
        """
        if frame.sequence != self.last_received + 1:
            raise RemoteProtocolError(f"frame {frame.sequence} after frame {self.last_received}")
        self.last_received += 1
        self.unacknowledged_bytes += HEADER_BYTES + len(frame.payload)
        type_ = frame.type
        item_type = _ITEM_TYPES.get(type_)
        if item_type is not None:
            bodies = unpack_items(frame.payload)
            channel = self._channel(frame.channel)
            if channel.partial is not None:
                raise RemoteProtocolError(f"channel {channel.id}: an item inside an unfinished one")
            self._arrived(channel, item_type, bodies, events)
            return
        match type_:
            case FrameType.BYTES:
                self._bytes(frame, events)
            case FrameType.FRAGMENT:
                self._fragment(frame, events)
            case FrameType.OPEN:
                self._open(frame)
            case FrameType.CLOSE:
                self._close(frame, events)
            case FrameType.CREDIT:
                pass  # about what this end sends
            case _:
                pass_over(type_)

    # -- items --------------------------------------------------------------------------------

    def _channel(self, id_: int) -> InboundChannel:
        channel = self._channels.get(id_)
        if channel is None:
            raise RemoteProtocolError(f"channel {id_} is not open")
        return channel

    def _arrived(
        self, channel: InboundChannel, type_: FrameType, bodies: list[bytes], events: list[Event]
    ) -> None:
        if not _may_carry(channel.target, type_):
            raise RemoteProtocolError(f"{type_.name} on a channel to {channel.target}")
        if bodies:  # a frame of no items is a peer's whim, and nobody behind here expects it
            if type_ is FrameType.MESSAGES or type_ is FrameType.CALLS:
                channel.charge(bodies)
            self._counters.items_received += len(bodies)
            events.append(Arrived(channel, type_, bodies))

    def _bytes(self, frame: Frame, events: list[Event]) -> None:
        channel = self._channel(frame.channel)
        if not isinstance(channel.target, ToStream) or channel.partial is not None:
            raise RemoteProtocolError(f"BYTES on a channel to {channel.target}")
        if not frame.payload:
            raise RemoteProtocolError(f"channel {channel.id}: a piece of nothing")
        bodies = [frame.payload]
        channel.charge(bodies)
        last = events[-1] if events else None
        if type(last) is Arrived and last.channel is channel and last.type is FrameType.BYTES:
            last.bodies.append(frame.payload)
        else:
            events.append(Arrived(channel, FrameType.BYTES, bodies))

    def _fragment(self, frame: Frame, events: list[Event]) -> None:
        channel = self._channel(frame.channel)
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

    # -- channels -----------------------------------------------------------------------------

    def _open(self, frame: Frame) -> None:
        if frame.channel in self._channels or frame.channel < FIRST_FREE_CHANNEL:
            raise RemoteProtocolError(f"channel {frame.channel} is open already")
        if len(self._channels) >= self._settings.max_channels:
            raise RemoteProtocolError(f"more than {self._settings.max_channels} channels")
        target = decode_target(frame.payload)
        if target in self._targets:  # it would have two windows
            raise RemoteProtocolError(f"a second channel to {target}")
        self._targets.add(target)
        self._channels[frame.channel] = InboundChannel(
            frame.channel, target, self._settings.window_bytes
        )
        self.crowded = len(self._channels) >= self._settings.max_channels

    def _close(self, frame: Frame, events: list[Event]) -> None:
        channel = self._channel(frame.channel)
        if isinstance(channel.target, ToStream):
            if channel.partial is not None:  # given up, because nobody reads it
                self._reassembly_bytes -= channel.partial.total
                channel.partial = None
            events.append(Arrived(channel, FrameType.CLOSE, [frame.payload]))
        elif frame.channel < FIRST_FREE_CHANNEL or channel.partial is not None:
            raise RemoteProtocolError(f"channel {frame.channel} cannot close now")
        elif channel.credit < channel.window:
            raise RemoteProtocolError(f"channel {frame.channel} closes before its items are taken")
        self._targets.remove(channel.target)
        del self._channels[frame.channel]


def _may_carry(target: Target, type_: FrameType) -> bool:
    match target:
        case ToNode(CONTROL.lane):
            return type_ is FrameType.SIGNALS
        case ToNode():
            return type_ is FrameType.REPLIES
        case ToProcess() | ToName():
            return type_ is not FrameType.REPLIES
        case ToStream():
            return type_ is FrameType.MESSAGES


def pass_over(type_: int) -> None:
    """A frame of a type that has no meaning here: raise unless it may be ignored."""
    if not type_ & IGNORABLE:
        raise RemoteProtocolError(f"a frame of type {type_:#04x} in a session")
