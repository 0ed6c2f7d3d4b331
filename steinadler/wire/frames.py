"""Frames: the unit that is interleaved, numbered and acknowledged.

    0       2      3       4         8                16
    +-------+------+-------+---------+----------------+----------...
    | length| type | flags | channel | sequence       | payload
    +-------+------+-------+---------+----------------+----------...
      u16     u8     u8      u32       u64   (big-endian); length counts the payload only

A frame is at most 16 KiB with its header, so that it fits one TLS record (RFC 8446 section 5.1)
and nothing waits longer than that for its turn.  Small messages of one channel share a frame
(`pack_items`), which is where throughput comes from; a message that does not fit travels as
FRAGMENT frames of its channel.  Of a byte stream a frame holds a piece, and nothing else.

The type's two high bits let versions differ: 0x80 says that the frame is numbered (it counts in
the session's sequence and is sent again after a resumption), 0x40 that a receiver which does
not know the type ignores it; any other unknown type is an error.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from enum import IntEnum
from typing import NamedTuple

from steinadler.errors import RemoteProtocolError

MAX_FRAME_BYTES = 16_384
HEADER = struct.Struct(">HBBIQ")
HEADER_BYTES = HEADER.size
MAX_PAYLOAD_BYTES = MAX_FRAME_BYTES - HEADER_BYTES
NUMBERED = 0x80
IGNORABLE = 0x40

_COUNT = struct.Struct(">H")
# What fits beside the count and one length.
MAX_ITEM_BYTES = MAX_PAYLOAD_BYTES - 4
_FRAGMENT_HEAD = struct.Struct(">BI")
FLAG_FIRST = 0x01


class FrameType(IntEnum):
    """Every frame of this protocol version."""

    HELLO = 0x01
    REJECT = 0x02
    ACKNOWLEDGE = 0x03
    GOSSIP = 0x04
    GOODBYE = 0x05
    REGISTRY = 0x46  # who does not know it passes it over
    TRUST = 0x47  # the same
    OPEN = 0x81
    CLOSE = 0x82
    CREDIT = 0x83
    MESSAGES = 0x84
    CALLS = 0x85
    REPLIES = 0x86
    SIGNALS = 0x87
    FRAGMENT = 0x88
    BYTES = 0x89


# Frames whose payload is a run of items, and so what a fragmented item can be.
ITEM_TYPES = frozenset({FrameType.MESSAGES, FrameType.CALLS, FrameType.REPLIES, FrameType.SIGNALS})


class Frame(NamedTuple):
    """One frame, decoded.  `type` is a plain int: it may be one that this version ignores."""

    type: int
    flags: int
    channel: int
    sequence: int
    payload: bytes


class FirstFragment(NamedTuple):
    """The head of a fragmented item: what it is, and how long in all."""

    type: FrameType
    total_bytes: int
    data: bytes


def encode_frame(
    type_: FrameType, *, flags: int = 0, channel: int = 0, sequence: int = 0, payload: bytes = b""
) -> bytes:
    """Return the frame's bytes.  `payload` must be within MAX_PAYLOAD_BYTES."""
    return HEADER.pack(len(payload), type_, flags, channel, sequence) + payload


def split_frame(data: bytes) -> tuple[Frame, bytes] | None:
    """Cut the first frame off `data`; None while it is incomplete.

    Raises `RemoteProtocolError` for a frame over the size limit.
    """
    if len(data) < HEADER_BYTES:
        return None
    length, type_, flags, channel, sequence = HEADER.unpack_from(data)
    _check_length(length)
    end = HEADER_BYTES + length
    if len(data) < end:
        return None
    return Frame(type_, flags, channel, sequence, data[HEADER_BYTES:end]), data[end:]


class FrameReader:
    """Cuts a byte stream into frames, wherever the network cut it.

    It holds back at most one incomplete frame.
    """

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> Iterator[Frame]:
        """Yield the frames that are complete now.

        Raises `RemoteProtocolError` for a frame over the size limit.  The iterator must be
        exhausted before the next call; after an error the reader is of no more use.
        """
        if self._rest:
            data = self._rest + data
        position = 0
        end = len(data)
        unpack = HEADER.unpack_from
        while end - position >= HEADER_BYTES:
            length, type_, flags, channel, sequence = unpack(data, position)
            _check_length(length)
            start = position + HEADER_BYTES
            if end - start < length:
                break
            position = start + length
            yield Frame(type_, flags, channel, sequence, data[start:position])
        self._rest = data[position:]


def _check_length(length: int) -> None:
    if length > MAX_PAYLOAD_BYTES:
        raise RemoteProtocolError(
            f"a frame of {length + HEADER_BYTES} bytes; the limit is {MAX_FRAME_BYTES}"
        )


def pack_items(items: Sequence[bytes | memoryview]) -> bytes:
    """A payload of items: how many, the length of each, then all of them (u16 each)."""
    count = len(items)
    return struct.pack(f">{count + 1}H", count, *map(len, items)) + b"".join(items)


def unpack_items(payload: bytes) -> list[bytes]:
    """Undo `pack_items`; raise `RemoteProtocolError` when the lengths do not add up."""
    try:
        (count,) = _COUNT.unpack_from(payload)
        if count == 1:  # the commonest frame of a quiet link
            lengths: tuple[int, ...] = (len(payload) - 4,)
            if _COUNT.unpack_from(payload, 2) != lengths:
                raise RemoteProtocolError("an item whose length is not its length")
            return [payload[4:]]
        lengths = struct.unpack_from(f">{count}H", payload, 2)
    except struct.error as error:
        raise RemoteProtocolError(f"a frame of items without its lengths: {error}") from error
    position = 2 + 2 * count
    if position + sum(lengths) != len(payload):
        raise RemoteProtocolError("a frame of items whose lengths do not add up")
    items = []
    for length in lengths:
        end = position + length
        items.append(payload[position:end])
        position = end
    return items


def pack_first_fragment(type_: FrameType, total_bytes: int, data: bytes | memoryview) -> bytes:
    """The payload of a fragmented item's first frame."""
    return _FRAGMENT_HEAD.pack(type_, total_bytes) + data


FIRST_FRAGMENT_BYTES = MAX_PAYLOAD_BYTES - _FRAGMENT_HEAD.size


def unpack_first_fragment(payload: bytes) -> FirstFragment:
    """Undo `pack_first_fragment`; raise `RemoteProtocolError` when it is none."""
    if len(payload) <= _FRAGMENT_HEAD.size:
        raise RemoteProtocolError("a first fragment without data")
    type_, total = _FRAGMENT_HEAD.unpack_from(payload)
    if type_ not in ITEM_TYPES:
        raise RemoteProtocolError(f"a fragmented item of type {type_:#x}")
    return FirstFragment(FrameType(type_), total, payload[_FRAGMENT_HEAD.size :])
