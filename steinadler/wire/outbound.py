"""Which channels to the peer are open: one per destination, from its first use until it is idle.

A channel that nobody used for a while is closed, so that a node which has talked to many
processes of its peer does not keep a channel for each for ever.  Only a channel whose whole
credit is back closes: one that was closed with items at the receiver and opened again would have
a second window there (M6).  Whoever holds on to a channel asks for another when it finds it
`closed`; telling the holders was refused, because they are many and most never send again.

Ids are never used again within a session, so a grant that crosses a CLOSE finds nobody.

The peer says how many channels it allows (`max_channels`).  When they are all taken, a new one
takes the place of those that were idle for longest.  When none is idle, a message is refused:
queueing it here would make a buffer without bound of a loop over many destinations.  A signal or
a large reply is not refused, because nobody is there to be told: it waits for a place, and there
are no more of those than the peer has asked for.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterator
from operator import attrgetter

from steinadler.errors import DeliveryError
from steinadler.wire.channels import (
    CONTROL,
    FIRST_FREE_CHANNEL,
    REPLIES,
    OutboundChannel,
    PeerLimits,
    Target,
    ToNode,
    ToStream,
)
from steinadler.wire.frames import FrameType

# Of the allowed channels, this part is closed at once for want of a place, if they are idle: so
# the search among all of them is made for many new channels and not for each.
_PART_TO_CLOSE = 64


class OutboundChannels:
    """The channels to the peer.  None has credit until `connected`.

    Whenever an announced channel closes, its CLOSE frame is put into `housekeeping`.
    """

    def __init__(self, housekeeping: deque[tuple[FrameType, int, bytes]]) -> None:
        self.control = OutboundChannel(CONTROL.lane, CONTROL, 0)
        self.replies = OutboundChannel(REPLIES.lane, REPLIES, 0)
        # All there are, and those of them that are open: the others are in `waiting`.
        self._by_target: dict[Target, OutboundChannel] = {
            channel.target: channel for channel in (self.control, self.replies)
        }
        self._by_id = {channel.id: channel for channel in (self.control, self.replies)}
        self.waiting: deque[OutboundChannel] = deque()
        self._housekeeping = housekeeping
        self._next_id = FIRST_FREE_CHANNEL
        self._next_lane = REPLIES.lane + 1
        self._peer: PeerLimits | None = None
        self._window = 0

    def __iter__(self) -> Iterator[OutboundChannel]:
        return iter(self._by_target.values())

    def connected(self, peer: PeerLimits) -> list[OutboundChannel]:
        """The peer said for the first time what it can take: every channel gets its credit.

        Returns the channels that have something queued and must wait for a place after all.
        """
        self._peer = peer
        self._window = peer.window_bytes
        for channel in list(self._by_id.values())[peer.max_channels :]:
            if channel.ready:
                del self._by_id[channel.id]
                self.waiting.append(channel)
            else:
                self.close(channel)
        for channel in self._by_id.values():
            channel.credit += peer.window_bytes
        return list(self.waiting)

    def channel(self, target: Target) -> OutboundChannel:
        """The channel to `target`, opened now if need be.

        Raises `DeliveryError` when the peer allows no more channels and none is idle.
        """
        channel = self._by_target.get(target)
        if channel is None:
            if not self._has_place():
                raise DeliveryError(
                    "the node has unconsumed messages from here for as many destinations as it "
                    "allows at once (its max_channels); send again when it has consumed some"
                )
            channel = self._open(target)
        channel.used = True
        return channel

    def channel_in_turn(self, target: Target) -> OutboundChannel:
        """As `channel`, for what cannot be refused: the new channel may have to wait."""
        channel = self._by_target.get(target)
        if channel is None:
            channel = self._open(target) if self._has_place() else self._wait(target)
        channel.used = True
        return channel

    def lane(self) -> OutboundChannel:
        """A channel to the node itself for one large reply, to be closed behind it."""
        target = ToNode(self._next_lane)
        self._next_lane += 1
        return self.channel_in_turn(target)

    def admit(self) -> Iterator[OutboundChannel]:
        """Open the channels that wait, in order, while there are places; yield each."""
        while self.waiting and self._may_open():
            channel = self.waiting.popleft()
            self._by_id[channel.id] = channel
            channel.credit += self._window
            yield channel

    def find(self, id_: int) -> OutboundChannel | None:
        """The open channel of that number."""
        return self._by_id.get(id_)

    def close(self, channel: OutboundChannel) -> None:
        """Close an open channel.  Whoever holds on to it finds it `closed`."""
        self.forget(channel)
        if channel.announced:
            self._housekeeping.append((FrameType.CLOSE, channel.id, b""))

    def forget(self, channel: OutboundChannel) -> None:
        """As `close`, for a channel whose CLOSE frame is on its way."""
        channel.closed = True
        del self._by_target[channel.target], self._by_id[channel.id]

    def close_unused(self) -> None:
        """Close the channels that are idle and were not used since the last call."""
        for channel in list(self._by_id.values()):
            if not channel.used and self._is_idle(channel):
                self.close(channel)
            elif not channel.ready:
                channel.used = False

    def _is_idle(self, channel: OutboundChannel) -> bool:
        return (
            channel.id >= FIRST_FREE_CHANNEL
            and not channel.ready
            and channel.credit >= self._window
            and not isinstance(channel.target, ToStream)
        )

    def _has_place(self) -> bool:
        """Whether a new channel may be opened before all that wait."""
        return not self.waiting and self._may_open()

    def _may_open(self) -> bool:
        """Whether the peer allows one more, after closing idle ones if need be."""
        if self._peer is None or len(self._by_id) < self._peer.max_channels:
            return True
        idle = filter(self._is_idle, self._by_id.values())
        most = max(1, self._peer.max_channels // _PART_TO_CLOSE)
        closing = heapq.nsmallest(most, idle, key=attrgetter("last_sent"))
        for channel in closing:
            self.close(channel)
        return bool(closing)

    def _open(self, target: Target) -> OutboundChannel:
        channel = self._new(target, self._window)
        self._by_id[channel.id] = channel
        return channel

    def _wait(self, target: Target) -> OutboundChannel:
        channel = self._new(target, 0)
        channel.ready = True  # it is put into a ring when it is opened, and not before
        self.waiting.append(channel)
        return channel

    def _new(self, target: Target, credit: int) -> OutboundChannel:
        channel = OutboundChannel(self._next_id, target, credit)
        self._by_target[target] = channel
        self._next_id += 1
        return channel
