"""Messages that are small and cost much to decode (X4)."""

from __future__ import annotations

import time
from itertools import islice, product

import cbor2
import pytest

from steinadler.errors import RemoteProtocolError
from steinadler.membership import messages
from steinadler.wire import plain
from steinadler.wire.codec import MAX_WORK_S, METERED_BYTES, Codec, MessageTypes

CODEC = Codec(MessageTypes(), 64 << 20, time.thread_time)
PRIME = 2**61 - 1  # whose multiples all have the hash 0


def colliding_tuples(count: int, width: int) -> bytes:
    """A map whose keys are tuples of -1 and -2, which have one hash in Python."""
    keys = islice(product((b"\x20", b"\x21"), repeat=width), count)
    entries = b"".join(bytes([0x80 | width]) + b"".join(key) + b"\x00" for key in keys)
    return b"\xba" + count.to_bytes(4, "big") + entries


def colliding_numbers(count: int) -> bytes:
    return cbor2.dumps({number * PRIME: 0 for number in range(9, 9 + count)})


def in_a_set(data: bytes) -> bytes:
    """The keys of such a map as elements of a set; its zeros are one element more."""
    count = 2 * int.from_bytes(data[1:5], "big")
    return b"\xd9\x01\x02\x9a" + count.to_bytes(4, "big") + data[5:]


@pytest.mark.parametrize("kind", ["keys", "elements", "elements in a key"])
def test_keys_made_to_collide_are_given_up_in_time(kind: str) -> None:
    data = colliding_tuples(20_000, 16)
    if kind != "keys":
        data = in_a_set(data)
    if kind == "elements in a key":
        data = b"\xa1" + data + b"\x00"
    began = time.thread_time()
    with pytest.raises(RemoteProtocolError, match="too much work"):
        CODEC.decode(data)
    assert time.thread_time() - began < 2 * MAX_WORK_S + len(data) * 1e-6


def test_what_is_not_metered_cannot_take_long() -> None:
    for data in (colliding_tuples(METERED_BYTES // 16, 13), colliding_numbers(METERED_BYTES // 13)):
        assert len(data) <= METERED_BYTES
        began = time.thread_time()
        CODEC.decode(data)
        assert time.thread_time() - began < 0.3


def test_large_messages_with_any_keys_arrive_as_before() -> None:
    for message in (
        {number * 7919: (number,) for number in range(20_000)},
        {(number, "a"): None for number in range(20_000)},
        frozenset(range(20_000)),
        [set(range(20_000)), {(1, (2,)), frozenset({3}), "text"}, set()],
        {frozenset({frozenset({number})}): {number} for number in range(5_000)},
        ("bytes", bytes(100_000), "text" * 20_000, [1.5] * 20_000),
    ):
        assert CODEC.decode(CODEC.encode(message)) == message


def test_what_the_protocol_itself_says_has_no_keys_but_text() -> None:
    for value in ({1: 2}, {(1, 2): 3}, [{-1: 0}]):
        data = cbor2.dumps(value)
        with pytest.raises(RemoteProtocolError):
            plain.loads(data)
        with pytest.raises(RemoteProtocolError):
            messages.decode(cbor2.dumps([4, value]))
    assert plain.loads(cbor2.dumps({"a": [1]})) == {"a": [1]}


@pytest.mark.parametrize("tag", [*range(300), *range(1000, 1100), 43_000, 55_799, 65_535, 2**32])
def test_every_tag_is_ours_or_refused(tag: int) -> None:
    """cbor2 decodes more by itself with each version: nothing unknown comes out of any of them."""
    known = {"builtins", "datetime", "decimal", "uuid", "ipaddress", "steinadler"}
    for content in ([], [1, 2], [b"\x01" * 4, 8], b"\x01" * 16, "2001:db8::1", 7, "2013-03-21"):
        data = cbor2.dumps(cbor2.CBORTag(tag, content))
        with pytest.raises(RemoteProtocolError):
            plain.loads(data)
        with pytest.raises(RemoteProtocolError):
            messages.decode(data)
        try:
            value = CODEC.decode(data)
        except RemoteProtocolError:
            continue
        assert type(value).__module__.partition(".")[0] in known
