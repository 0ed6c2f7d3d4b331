"""What a session reports: events, one by one, as bytes come in; and counters, in sum.

Events are a closed union of small classes, made once per frame and not once per item: items
that shared a frame come out as one `Arrived`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from steinadler.wire.channels import InboundChannel, Target
from steinadler.wire.frames import FrameType


@dataclass(slots=True)
class Arrived:
    """Items of one type came in on one channel; or pieces of a byte stream (BYTES), or why a
    stream ended (CLOSE)."""

    channel: InboundChannel
    type: FrameType
    bodies: list[bytes]


@dataclass(frozen=True, slots=True)
class Gossiped:
    """A membership message."""

    data: bytes


@dataclass(frozen=True, slots=True)
class RegistryTold:
    """A message of the registry."""

    data: bytes


@dataclass(frozen=True, slots=True)
class TrustTold:
    """What the peer holds to be trusted."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Granted:
    """A channel has credit again; whoever waits for it may go on."""

    target: Target


@dataclass(frozen=True, slots=True)
class GoodbyeReceived:
    """The peer leaves for good."""

    reason: str


Event: TypeAlias = Arrived | Gossiped | RegistryTold | TrustTold | Granted | GoodbyeReceived


@dataclass(slots=True)
class SessionCounters:
    """What a session has done so far."""

    bytes_sent: int = 0
    bytes_received: int = 0
    items_sent: int = 0
    items_received: int = 0
    bytes_retransmitted: int = 0
    resumptions: int = 0


@dataclass(frozen=True, slots=True)
class SessionLevels:
    """What a session holds at one moment."""

    items_queued: int  # for their turn to be sent; no pieces of byte streams
    bytes_queued: int  # of pieces too
    bytes_unacknowledged: int  # sent, and kept until the peer is known to have them
    channels: int  # to the peer, those that wait for a place included; signals and replies: two
    channels_without_credit: int  # whoever sends there waits
    peer_channels: int  # from the peer
    bytes_unconsumed: int  # of its window: what waits in mailboxes here, each item's overhead too
