"""Frames survive any cut of the stream, and nothing over a limit gets past the reader."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steinadler.errors import RemoteProtocolError
from steinadler.wire.frames import (
    FIRST_FRAGMENT_BYTES,
    HEADER,
    HEADER_BYTES,
    ITEM_TYPES,
    MAX_FRAME_BYTES,
    MAX_ITEM_BYTES,
    MAX_PAYLOAD_BYTES,
    Frame,
    FrameReader,
    FrameType,
    encode_frame,
    pack_first_fragment,
    pack_items,
    split_frame,
    unpack_first_fragment,
    unpack_items,
)

FRAMES = st.builds(
    Frame,
    type=st.integers(0, 255),
    flags=st.integers(0, 255),
    channel=st.integers(0, 2**32 - 1),
    sequence=st.integers(0, 2**64 - 1),
    payload=st.binary(max_size=60) | st.sampled_from([bytes(MAX_PAYLOAD_BYTES)]),
)


def encoded(frame: Frame) -> bytes:
    type_, flags, channel, sequence, payload = frame
    return HEADER.pack(len(payload), type_, flags, channel, sequence) + payload


def read(pieces: list[bytes]) -> list[Frame]:
    reader = FrameReader()
    return [frame for piece in pieces for frame in reader.feed(piece)]


def test_the_layout_is_the_documented_one() -> None:
    frame = encode_frame(FrameType.MESSAGES, flags=2, channel=3, sequence=4, payload=b"hi")
    assert frame == bytes.fromhex("0002 84 02 00000003 0000000000000004") + b"hi"
    assert HEADER_BYTES + MAX_PAYLOAD_BYTES == MAX_FRAME_BYTES == 16 * 1024


@given(st.lists(FRAMES, max_size=5), st.randoms(use_true_random=False))
def test_the_reader_yields_the_same_frames_however_they_are_cut(
    frames: list[Frame], rng: random.Random
) -> None:
    data = b"".join(map(encoded, frames))
    cuts = sorted(rng.randrange(len(data) + 1) for _ in range(6))
    pieces = [data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True)]
    assert read([data]) == frames
    assert read(pieces) == frames


def test_the_reader_takes_single_bytes_and_keeps_what_trails() -> None:
    frames = [Frame(0x84, 0, 2, 1, b"abc"), Frame(0x03, 0, 0, 9, b""), Frame(0xC5, 1, 2, 3, b"x")]
    data = b"".join(map(encoded, frames))
    assert read([bytes((byte,)) for byte in data]) == frames
    reader = FrameReader()
    assert list(reader.feed(data + data[:7])) == frames
    assert list(reader.feed(data[7:])) == frames


@given(FRAMES, st.binary(max_size=40))
def test_split_frame_cuts_exactly_one_frame_off(frame: Frame, rest: bytes) -> None:
    data = encoded(frame)
    assert split_frame(data + rest) == (frame, rest)
    for end in {0, 1, HEADER_BYTES - 1, HEADER_BYTES, len(data) - 1}:
        if end < len(data):
            assert split_frame(data[:end]) is None


def test_a_frame_over_the_limit_is_refused_before_it_is_buffered() -> None:
    """X4: the header alone is enough to refuse it."""
    head = HEADER.pack(MAX_PAYLOAD_BYTES + 1, FrameType.MESSAGES, 0, 2, 1)
    with pytest.raises(RemoteProtocolError, match="16385 bytes"):
        list(FrameReader().feed(head))
    with pytest.raises(RemoteProtocolError, match="16385 bytes"):
        split_frame(head)
    largest = encode_frame(FrameType.MESSAGES, payload=bytes(MAX_PAYLOAD_BYTES))
    assert len(read([largest])) == 1


@given(st.lists(st.binary(max_size=30), max_size=40))
def test_items_come_out_of_a_payload_as_they_went_in(items: list[bytes]) -> None:
    assert unpack_items(pack_items(items)) == items


def test_the_largest_item_fills_a_frame_exactly() -> None:
    payload = pack_items([bytes(MAX_ITEM_BYTES)])
    assert len(payload) == MAX_PAYLOAD_BYTES
    assert unpack_items(payload) == [bytes(MAX_ITEM_BYTES)]


@given(st.lists(st.binary(max_size=30), max_size=10), st.data())
def test_items_that_are_cut_or_extended_are_refused(
    items: list[bytes], data: st.DataObject
) -> None:
    payload = pack_items(items)
    cut = data.draw(st.integers(0, len(payload) - 1))
    for wrong in (payload[:cut], payload + b"x"):
        with pytest.raises(RemoteProtocolError):
            unpack_items(wrong)


@given(st.binary(max_size=64))
def test_any_payload_holds_items_or_is_refused(payload: bytes) -> None:
    """X4.  What is accepted is the one encoding of what it decodes to."""
    try:
        items = unpack_items(payload)
    except RemoteProtocolError:
        return
    assert pack_items(items) == payload


@given(
    st.sampled_from(sorted(ITEM_TYPES)),
    st.integers(0, 2**32 - 1),
    st.binary(min_size=1, max_size=9),
)
def test_a_first_fragment_says_what_follows(type_: FrameType, total: int, data: bytes) -> None:
    assert unpack_first_fragment(pack_first_fragment(type_, total, data)) == (type_, total, data)


def test_a_first_fragment_fills_a_frame_exactly() -> None:
    payload = pack_first_fragment(FrameType.MESSAGES, 1 << 20, bytes(FIRST_FRAGMENT_BYTES))
    assert len(payload) == MAX_PAYLOAD_BYTES


@given(st.binary(max_size=12))
def test_any_first_fragment_decodes_or_is_refused(payload: bytes) -> None:
    try:
        first = unpack_first_fragment(payload)
    except RemoteProtocolError:
        return
    assert first.data
    assert first.type in ITEM_TYPES
    assert pack_first_fragment(*first) == payload
