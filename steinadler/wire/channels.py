"""Channels: one destination's queue and one destination's credit.

Every destination on the peer has a channel of its own, so a slow receiver or a large message
holds back only those who send to it (M6).  Credit is a byte window, as in HTTP/2 (RFC 9113
section 5.2), with one difference: an item may start as soon as *any* credit is left and may
overdraw it.  So a message larger than the window needs no special case and a send is never
half done, and what one channel can have outstanding is bounded by window + one message.

Both ends do the same arithmetic: an item costs its length plus a fixed overhead, so that empty
messages are not free.

A stream's channel is one direction of that stream, and closing it is the stream's end.  So it is
never closed for being idle, nor opened again; and because its target is used once it may close
with items unconsumed, where another channel would get a second window by that.
"""

from __future__ import annotations

import struct
from collections import deque
from dataclasses import dataclass
from enum import IntEnum
from typing import TypeAlias

from steinadler.errors import RemoteProtocolError
from steinadler.identity import MAX_PROCESS_NAME_BYTES
from steinadler.wire.frames import FrameType

# About what a queued item costs in memory beside its bytes.
ITEM_OVERHEAD_BYTES = 64
# About what an outbound channel costs in memory, more than half of it for its queue.
CHANNEL_OVERHEAD_BYTES = 1024

_SHORT_FRAGMENT_BYTES = 1024
_NUMBER = struct.Struct(">Q")
_KIND_PROCESS, _KIND_NAME, _KIND_NODE, _KIND_STREAM = 0, 1, 2, 3
_STREAM = struct.Struct(">BQ")


@dataclass(frozen=True, slots=True)
class PeerLimits:
    """What the other end said in its Hello that it can take."""

    window_bytes: int
    max_message_bytes: int
    reassembly_bytes: int
    max_channels: int = 65_536  # as long as an older peer does not say


@dataclass(frozen=True, slots=True)
class ToProcess:
    """A process of the receiving node, by number."""

    number: int


@dataclass(frozen=True, slots=True)
class ToName:
    """A registered name of the receiving node, looked up for each item anew."""

    name: str


@dataclass(frozen=True, slots=True)
class ToNode:
    """The receiving node itself: signals and replies.  No credit is needed: what comes here was
    asked for, or is small, and is consumed at once.

    `lane` keeps apart what must not wait for each other: lanes 0 (signals, before everything
    else) and 1 (replies) always exist; a large reply has a lane of its own while it lasts.
    """

    lane: int


@dataclass(frozen=True, slots=True)
class ToStream:
    """The receiving node's end of a stream.

    `number` was chosen by the node that opened the stream, which never uses it again; both
    directions have it.  `by_sender`: that node is the one that sends on this channel.
    """

    number: int
    by_sender: bool


Target: TypeAlias = ToProcess | ToName | ToNode | ToStream

CONTROL = ToNode(0)
REPLIES = ToNode(1)
FIRST_FREE_CHANNEL = 2


def encode_target(target: Target) -> bytes:
    """The payload of the OPEN frame of a channel to `target`."""
    match target:
        case ToProcess(number):
            return bytes((_KIND_PROCESS,)) + _NUMBER.pack(number)
        case ToName(name):
            return bytes((_KIND_NAME,)) + name.encode()
        case ToNode(lane):
            return bytes((_KIND_NODE,)) + _NUMBER.pack(lane)
        case ToStream(number, by_sender):
            return bytes((_KIND_STREAM,)) + _STREAM.pack(by_sender, number)


def decode_target(payload: bytes) -> Target:
    """Undo `encode_target`; raise `RemoteProtocolError` when it is none."""
    try:
        match payload[0]:
            case 0:
                return ToProcess(_NUMBER.unpack(payload[1:])[0])
            case 1 if 1 < len(payload) <= 1 + MAX_PROCESS_NAME_BYTES:
                return ToName(payload[1:].decode())
            case 2:
                return ToNode(_NUMBER.unpack(payload[1:])[0])
            case 3 if payload[1] <= 1:  # one spelling of each: two would be two windows
                by_sender, number = _STREAM.unpack(payload[1:])
                return ToStream(number, by_sender == 1)
    except (struct.error, UnicodeDecodeError, IndexError) as error:
        raise RemoteProtocolError(f"a channel's target does not decode: {error}") from error
    raise RemoteProtocolError("a channel to an unknown kind of target")


class Priority(IntEnum):
    """Who goes first when several channels have something to send."""

    CONTROL = 0
    MESSAGES = 1
    BULK = 2


# Something that waits on a channel: a message, a call, a reply or a signal, encoded; a piece of a
# byte stream; or, as its last item, the CLOSE of a stream's channel.  A plain tuple, because one is
# made for every message.
Item: TypeAlias = tuple[FrameType, bytes | memoryview]


class OutboundChannel:
    """The sending end of a channel."""

    __slots__ = (
        "announced",
        "closed",
        "credit",
        "id",
        "last_sent",
        "queue",
        "ready",
        "reserved_bytes",
        "sent_bytes",
        "target",
        "used",
    )

    def __init__(self, id_: int, target: Target, credit: int) -> None:
        self.id = id_
        self.target = target
        self.credit = credit
        self.queue: deque[Item] = deque()
        self.sent_bytes = 0  # of the item at the head of the queue, when it is a fragmented one
        self.reserved_bytes = 0  # of the peer's room to put large items together
        self.announced = isinstance(target, ToNode) and id_ < FIRST_FREE_CHANNEL
        self.ready = False  # in one of the scheduler's rings, or it waits for a place
        self.closed = False  # whoever holds on to it must ask the session for another
        self.used = True  # since the last sweep for idle channels
        self.last_sent = 0  # the number of the frame that emptied its queue last

    def take_credit(self, item_bytes: int) -> bool:
        """Pay for an item, or say that there is no credit left to start it with."""
        if self.credit <= 0:
            return False
        self.credit -= item_bytes + ITEM_OVERHEAD_BYTES
        return True


class InboundChannel:
    """The receiving end of a channel.  In `mailbox` the node remembers whose it is."""

    __slots__ = ("credit", "id", "mailbox", "owed", "partial", "target", "window")

    def __init__(self, id_: int, target: Target, window: int) -> None:
        self.id = id_
        self.target = target
        self.window = window
        self.credit = window  # what the peer may still start
        self.owed = 0  # consumed, not granted back yet
        self.partial: Reassembly | None = None
        self.mailbox: object | None = None

    @property
    def unconsumed(self) -> int:
        """What arrived and the process has not taken yet, in credit."""
        return self.window - self.credit - self.owed

    def charge(self, bodies: list[bytes]) -> None:
        """Count items that arrived; raise `RemoteProtocolError` when one of them had no credit
        left to be started with."""
        self.credit -= sum(map(len, bodies)) + len(bodies) * ITEM_OVERHEAD_BYTES
        if self.credit + len(bodies[-1]) + ITEM_OVERHEAD_BYTES <= 0:
            raise RemoteProtocolError(f"channel {self.id}: the peer sent without credit")

    def consumed(self, cost: int) -> int:
        """The process took an item.  Return how much credit to grant now; mostly 0.

        Grants wait until half a window is owed, so that they cost one frame per half window.
        """
        self.owed += cost
        return 0 if self.owed * 2 < self.window else self.grant_owed()

    def grant_owed(self) -> int:
        """Return all that is owed, to be granted now."""
        grant, self.owed = self.owed, 0
        self.credit += grant
        return grant


class Reassembly:
    """A fragmented item on its way in."""

    __slots__ = ("_fragments", "missing_bytes", "total", "type")

    def __init__(self, type_: FrameType, total: int) -> None:
        self.type = type_
        self.total = total
        self.missing_bytes = total
        self._fragments: list[bytes] = []

    def add(self, data: bytes) -> bytes | None:
        """Add a fragment; return the whole item when this was the last one."""
        self.missing_bytes -= len(data)
        if not data or self.missing_bytes < 0:
            raise RemoteProtocolError("a fragment that is empty or goes past its item's end")
        if self._fragments and len(self._fragments[-1]) < _SHORT_FRAGMENT_BYTES:
            # By itself, one of a few bytes would take many times as much.
            self._fragments[-1] += data
        else:
            self._fragments.append(data)
        return None if self.missing_bytes else b"".join(self._fragments)
