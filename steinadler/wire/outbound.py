"""Which channels to the peer are open: one per destination, from its first use until it is idle.

A channel that nobody used for a while is closed, so that a node which has talked to many
processes of its peer does not keep a channel for each for ever.  Only a channel whose whole
credit is back closes: one that was closed with items at the receiver and opened again would have
a second window there (M6).  Whoever holds on to a channel asks for another when it finds it
`closed`; telling the holders was refused, because they are many and most never send again.

Ids are never used again within a session, so a grant that crosses a CLOSE finds nobody.
"""

from __future__ import annotations

from collections.abc import Iterator

from steinadler.wire.channels import (
    CONTROL,
    FIRST_FREE_CHANNEL,
    REPLIES,
    OutboundChannel,
    PeerLimits,
    Target,
    ToNode,
)


class OutboundChannels:
    """The open channels to the peer.  None has credit until `connected`."""

    def __init__(self) -> None:
        self.control = OutboundChannel(CONTROL.lane, CONTROL, 0)
        self.replies = OutboundChannel(REPLIES.lane, REPLIES, 0)
        self._by_target: dict[Target, OutboundChannel] = {
            channel.target: channel for channel in (self.control, self.replies)
        }
        self._by_id = {channel.id: channel for channel in (self.control, self.replies)}
        self._next_id = FIRST_FREE_CHANNEL
        self._next_lane = REPLIES.lane + 1
        self._window = 0

    def __iter__(self) -> Iterator[OutboundChannel]:
        return iter(self._by_target.values())

    def connected(self, peer: PeerLimits) -> None:
        """The peer said for the first time what it can take: every channel gets its credit."""
        self._window = peer.window_bytes
        for channel in self:
            channel.credit += peer.window_bytes

    def channel(self, target: Target) -> OutboundChannel:
        """The channel to `target`, opened now if need be."""
        channel = self._by_target.get(target)
        if channel is None:
            channel = OutboundChannel(self._next_id, target, self._window)
            self._by_target[target] = self._by_id[self._next_id] = channel
            self._next_id += 1
        channel.used = True
        return channel

    def lane(self) -> OutboundChannel:
        """A channel to the node itself for one large reply, to be closed behind it."""
        target = ToNode(self._next_lane)
        self._next_lane += 1
        return self.channel(target)

    def find(self, id_: int) -> OutboundChannel | None:
        """The open channel of that number."""
        return self._by_id.get(id_)

    def close(self, channel: OutboundChannel) -> None:
        """Forget a channel.  When it was announced, the caller tells the peer."""
        channel.closed = True
        del self._by_target[channel.target], self._by_id[channel.id]

    def close_unused(self) -> list[OutboundChannel]:
        """Close, and return, the channels that are idle and were not used since the last call."""
        closed = []
        for channel in list(self):
            if channel.id < FIRST_FREE_CHANNEL or channel.ready:
                continue
            if channel.used or channel.credit < self._window:
                channel.used = False
                continue
            self.close(channel)
            closed.append(channel)
        return closed
