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
