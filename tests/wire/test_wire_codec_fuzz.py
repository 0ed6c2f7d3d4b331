"""Invariant: whatever bytes arrive, `Codec.decode` returns a value made of the documented types
or raises `RemoteProtocolError`; it calls nothing but registered classes, and a value that it
returned can be sent on unless it holds one of cbor2's inert leftovers (X4).
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import enum
import ipaddress
import os
import subprocess
import tracemalloc
import uuid
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import cbor2
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from steinadler.errors import RemoteProtocolError
from steinadler.identity import NodeId, ProcessId
from steinadler.wire.codec import Codec, MessageTypes
from steinadler.wire.values import TAG_DATACLASS, TAG_ENUM

TYPES = MessageTypes()
CALLED: list[str] = []


@TYPES.register
@dataclasses.dataclass(frozen=True)
class Known:
    a: Any
    b: Any = None

    def __post_init__(self) -> None:
        CALLED.append("Known")


@TYPES.register
class Choice(enum.Enum):
    YES = 1


@dataclasses.dataclass
class Unknown:
    """Never registered, so never made."""

    a: Any = None

    def __post_init__(self) -> None:
        raise AssertionError("decoding called what was not registered")


CODEC = Codec(TYPES, 1 << 20)
SCALARS = (
    type(None),
    bool,
    int,
    float,
    str,
    bytes,
    dt.datetime,
    dt.date,
    Decimal,
    uuid.UUID,
    ipaddress.IPv4Address,
    ipaddress.IPv6Address,
    ipaddress.IPv4Network,
    ipaddress.IPv6Network,
    ipaddress.IPv4Interface,
    ipaddress.IPv6Interface,
    NodeId,
    ProcessId,
    Choice,
)
CONTAINERS = (list, tuple, dict, set, frozenset, Known)
INERT = (type(cbor2.undefined), cbor2.CBORSimpleValue, cbor2.frozendict)


def parts(value: Any) -> Iterator[object]:
    """Everything inside `value`, itself included."""
    yield value
    match value:
        case list() | tuple() | set() | frozenset():
            inner: list[object] = list(value)
        case dict() | cbor2.frozendict():
            inner = [part for pair in value.items() for part in pair]
        case Known():
            inner = [value.a, value.b]
        case _:
            inner = []
    for part in inner:
        yield from parts(part)


def decode(data: bytes) -> None:
    try:
        value = CODEC.decode(data)
    except RemoteProtocolError:
        return
    types = set(map(type, parts(value)))
    assert types <= {*SCALARS, *CONTAINERS, *INERT}
    if not types & {*INERT}:
        assert type(CODEC.decode(CODEC.encode(value))) is type(value)


SEEDS = [
    ("call", 7, [1, 2.5, None, True], {"k": (b"v", {"x"})}),
    [Known(1, {Known((2,)): [3]}), Choice.YES, frozenset({1, (2,)})],
    [dt.datetime(2024, 1, 1, tzinfo=dt.UTC), dt.date(2024, 1, 1), uuid.UUID(int=9)],
    [Decimal("1.5"), Decimal("NaN"), 2**70, -(2**70)],
    [ipaddress.ip_network("10.0.0.0/8"), ipaddress.ip_address("::1")],
    [NodeId("alice", 1), ProcessId(NodeId("bob", 2), 3)],
]
ENCODED_SEEDS = [CODEC.encode(seed) for seed in SEEDS]
# Heads that change what follows: tags (ours and others), containers, indefinite lengths.
HEADS = st.sampled_from(
    [
        *(cbor2.dumps(cbor2.CBORTag(tag, 0))[:-1] for tag in (*range(6), 25, 28, 29, 30, 35, 36)),
        *(cbor2.dumps(cbor2.CBORTag(tag, 0))[:-1] for tag in (37, 52, 54, 100, 256, 258, 260, 261)),
        *(cbor2.dumps(cbor2.CBORTag(tag, 0))[:-1] for tag in (1004, *range(22496, 22505), 43000)),
        b"\x80",
        b"\x81",
        b"\x82",
        b"\xa1",
        b"\x9f",
        b"\xbf",
        b"\x5f",
        b"\x7f",
        b"\xff",
        b"\xf7",
        b"\xf8\xff",
        b"\x9b\x00\x00\x00\x00\x7f\xff\xff\xff",
        b"\x5b\xff\xff\xff\xff\xff\xff\xff\xff",
    ]
)


@given(st.binary(max_size=64))
@example(b"")
@example(b"\xd9\x57\xe1")
def test_arbitrary_bytes(data: bytes) -> None:
    decode(data)


@given(st.lists(HEADS | st.binary(min_size=1, max_size=3), max_size=12).map(b"".join))
@settings(max_examples=400)
def test_arbitrary_heads(data: bytes) -> None:
    decode(data)


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """A valid message with bytes changed, heads put in, and pieces cut out or doubled."""
    data = draw(st.sampled_from(ENCODED_SEEDS))
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(data)))
        piece = draw(HEADS | st.binary(max_size=2) | st.just(data[at : at + 5]))
        skip = draw(st.integers(0, 3))
        data = data[:at] + piece + data[at + skip :]
    return data


@given(mutated())
@settings(max_examples=400)
def test_mutations_of_valid_messages(data: bytes) -> None:
    decode(data)


PLAIN = st.recursive(
    st.none() | st.integers() | st.text(st.characters(codec="utf-8"), max_size=5),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.text(st.characters(codec="ascii"), max_size=3), inner, max_size=2),
        st.builds(
            cbor2.CBORTag, st.integers(22496, 22504) | st.sampled_from([4, 37, 52, 258]), inner
        ),
    ),
    max_leaves=8,
)


@given(PLAIN)
@settings(max_examples=300)
def test_well_formed_messages_with_our_tags_in_the_wrong_places(value: object) -> None:
    decode(cbor2.dumps(value))


@pytest.mark.parametrize(
    "name", ["Unknown", "os.system", "builtins.eval", "object", "__init__", "Choice.YES", ""]
)
def test_no_name_reaches_code_that_was_not_registered(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def trap(*args: object, **kwargs: object) -> None:
        raise AssertionError("decoding ran a command")

    monkeypatch.setattr(os, "system", trap)
    monkeypatch.setattr(subprocess, "Popen", trap)
    CALLED.clear()
    for tag in (TAG_DATACLASS, TAG_ENUM):
        for fields in ({}, {"a": "true"}, "YES", ["true"]):
            with pytest.raises(RemoteProtocolError):
                CODEC.decode(cbor2.dumps(cbor2.CBORTag(tag, [name, fields])))
    assert CALLED == []


@pytest.mark.parametrize("head", [b"\x9b", b"\xbb", b"\x5b", b"\x7b", b"\xd9\x57\xe1\x9b"])
@pytest.mark.parametrize("claimed", [2**31, 2**40, 2**63, 2**64 - 1])
def test_a_claimed_length_costs_nothing_until_it_is_there(head: bytes, claimed: int) -> None:
    data = head + claimed.to_bytes(8, "big") + b"\x01" * 10
    tracemalloc.start()
    try:
        with pytest.raises(RemoteProtocolError):
            CODEC.decode(data)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("tag", [*range(22497, 22504), 4, 37, 52, 54, 258, 1004])
@pytest.mark.parametrize("network", ["0.0.0.0/0", "::/0"])
def test_a_network_is_never_unpacked_into_its_addresses(tag: int, network: str) -> None:
    """X4: thirty bytes from a peer would otherwise take all memory."""
    data = cbor2.dumps(cbor2.CBORTag(tag, ipaddress.ip_network(network)))
    for hostile in (data, b"\xa1" + data + b"\x01", CODEC.encode([1]).replace(b"\x01", data)):
        with pytest.raises(RemoteProtocolError):
            CODEC.decode(hostile)


@pytest.mark.parametrize(
    "head", [b"\x81", b"\xa1\x01", b"\xc2", b"\xd9\x57\xe1", b"\x9f", b"\xd8\x1c"]
)
def test_nesting_beyond_any_stack_is_refused(head: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        CODEC.decode(head * 200_000)
